"""Norms on the emulated engines, forward and backward: values against numpy in float64 within fp32 bounds.

Bounds: statistics, sums and products are fp32, so each differs from the exact one by some units of 2^-24 of the sum of
the terms' magnitudes (`ROUNDING`: pairwise within a tile, one after another over tiles); one store rounds to the
result's dtype. x rstd + shift cancels, so errors scale with X = (|x| + |mean|) rstd.
"""

import random
import re
from typing import Any

import numpy as np
import pytest
from programs import EPSILON, Array, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C

ROUNDING = 16 * 2**-24
FLOATS = ["float32", "bfloat16", "float16", "float64"]
KINDS = ["layer", "rms", "group", "batch"]


def small_target(name: str, kib: int = 24) -> Any:
    """Little SBUF: rows of a thousand pass in chunks."""
    fields = load_target(name).to_dict()
    fields["core"]["sbuf_bytes_per_partition"] = kib * 1024
    return _C.Target(fields)


TARGETS = {
    "trn1": load_target("trn1"),
    "trn2": load_target("trn2"),
    "small_trn1": small_target("trn1"),
    "small_trn2": small_target("trn2"),
}


def norm_part(kind: str, rows: int, cols: int, dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    part = {
        "family": "norm",
        "kind": kind,
        "rows": rows,
        "cols": cols,
        "channels": cols if kind in ("layer", "rms") else rows,
        "dtype": dtype,
        "parameter_dtype": dtype,
        "weight": True,
        "bias": kind != "rms",
        "backward": False,
        "input_gradient": True,
        "weight_gradient": True,
        "bias_gradient": kind != "rms",
        "training": True,
        "running_statistics": False,
        "spatial": 0,
        "eps": 1e-3,
        "momentum": 0.25,
    }
    return part | fields


class Norm:
    """The exact operator of a part: everything as [rows, cols] or [rows, 1] in float64."""

    def __init__(self, part: dict[str, Any], target: Any, seed: int = 0) -> None:
        self.part, self.rng = part, np.random.default_rng(seed)
        self.rows, self.cols, kind = part["rows"], part["cols"], part["kind"]
        self.dtype, self.parameter = part["dtype"], part["parameter_dtype"]
        self.statistics = self.parameter
        if kind == "rms":
            self.statistics = "float64" if self.dtype == "float64" else "float32"
        self.positions = self.positions_together(target)
        row, col = np.arange(self.rows)[:, None], np.arange(self.cols)
        if kind == "group":
            each = self.cols // part["spatial"]
            self.channel = row % (part["channels"] // each) * each + col // part["spatial"]
            self.num_parameters = part["channels"]
        else:
            self.channel = np.broadcast_to(row if kind == "batch" else col, (self.rows, self.cols))
            self.num_parameters = self.rows if kind == "batch" else self.cols
        self.inputs: list[Array] = []
        self.evaluates = kind == "batch" and not part["training"]

    def positions_together(self, target: Any) -> int:
        """How many elements of a row lie side by side before those of the next row: all but of batch norm."""
        spatial = self.part["spatial"] or self.cols
        if self.part["kind"] != "batch":
            return self.cols
        if spatial == 1:
            return 1
        is_in_runs = re.search(r"^  hbm in .* runs of ", _C.program_text([self.part], target), re.MULTILINE)
        return self.cols if is_in_runs else spatial

    def operand(self, values: Array, dtype: str) -> Array:
        """Stored for the program; what the engines see of it is returned."""
        stored = to_device(values, dtype)
        self.inputs.append(stored)
        exact = from_device(stored, dtype).reshape(values.shape)
        return exact.astype(np.float32).astype(np.float64) if dtype == "float64" else exact

    def matrix(self, values: Array) -> Array:
        samples = values.reshape(self.rows, -1, self.positions).swapaxes(0, 1)
        return self.operand(samples, self.dtype).swapaxes(0, 1).reshape(values.shape)

    def result(self, stored: Array) -> Array:
        samples = from_device(stored, self.dtype).reshape(-1, self.rows, self.positions)
        return samples.swapaxes(0, 1).reshape(self.rows, self.cols)

    def random_rows(self) -> Array:
        """Each row with a mean and a scale of its own."""
        shift, scale = self.rng.uniform(-2, 2, (self.rows, 1)), self.rng.uniform(0.5, 2, (self.rows, 1))
        return self.rng.standard_normal((self.rows, self.cols)) * scale + shift

    def random_parameter(self) -> Array:
        parameter: Array = self.operand(self.rng.uniform(-2, 2, self.num_parameters), self.parameter)[self.channel]
        return parameter

    def moments(self, x: Array) -> tuple[Array, Array]:
        if self.part["kind"] == "rms":
            return np.zeros((self.rows, 1)), np.mean(x * x, axis=1, keepdims=True)
        return x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)

    def rstd(self, var: Array) -> Array:
        rstd: Array = 1 / np.sqrt(var + np.float64(np.float32(self.part["eps"])))
        return rstd

    def per_channel(self, values: Array) -> Array:
        sums = np.zeros(self.num_parameters)
        np.add.at(sums, self.channel, values)
        return sums


def assert_within(got: Array, expected: Array, bound: Array, dtype: str, part: dict[str, Any], name: str) -> None:
    bound = bound + EPSILON[dtype] * (np.abs(expected) + bound) + (2**-24 if dtype == "float16" else 1e-30)
    error = np.abs(got.reshape(expected.shape) - expected)
    assert np.all(error <= bound), (name, part, float(np.max(error / bound)))


def check_forward(part: dict[str, Any], target: Any, seed: int = 0) -> dict[str, Any]:
    norm = Norm(part, target, seed)
    rows, cols, dtype, statistics = norm.rows, norm.cols, norm.dtype, norm.statistics
    x = norm.matrix(norm.random_rows())
    weight = norm.random_parameter() if part["weight"] else np.ones((1, 1))
    bias = norm.random_parameter() if part["bias"] else np.zeros((1, 1))
    updates = part["kind"] == "batch" and part["training"] and part["running_statistics"]
    if norm.evaluates or updates:
        running_mean = norm.operand(norm.rng.standard_normal((rows, 1)), statistics)
        running_var = norm.operand(norm.rng.uniform(0.5, 2, (rows, 1)), statistics)
    mean, var = (running_mean, running_var) if norm.evaluates else norm.moments(x)
    rstd = norm.rstd(var)

    out = empty(rows * cols, dtype)
    saved = [] if norm.evaluates else ([empty(rows, statistics)] * (part["kind"] != "rms") + [empty(rows, statistics)])
    saved = [one.copy() for one in saved]
    updated = [empty(rows, statistics) for _ in range(2 * updates)]
    counts = run(part, target, norm.inputs, [out, *saved, *updated])

    got = norm.result(out)
    largest = np.abs(x).max(axis=1, keepdims=True)
    bound = ROUNDING * (np.abs(x) + np.abs(mean) + largest) * rstd * np.abs(weight) + ROUNDING * np.abs(bias)
    assert_within(got, (x - mean) * rstd * weight + bias, bound, dtype, part, "out")
    results = [from_device(one, statistics) for one in saved + updated]
    if saved:
        assert_within(results[len(saved) - 1], rstd, ROUNDING * rstd, statistics, part, "rstd")
        if part["kind"] != "rms":
            assert_within(results[0], mean, ROUNDING * largest, statistics, part, "mean")
    if updates:
        m = np.float64(np.float32(part["momentum"]))
        unbiased = var * (cols / max(cols - 1, 1))
        for value, old, new in ((results[2], running_mean, mean), (results[3], running_var, unbiased)):
            bound = ROUNDING * (np.abs(old) + np.abs(new) + largest)
            assert_within(value, (1 - m) * old + m * new, bound, statistics, part, "running")
    return counts


def check_backward(part: dict[str, Any], target: Any, seed: int = 0) -> dict[str, Any]:
    norm = Norm(part, target, seed)
    rows, cols, dtype, parameter = norm.rows, norm.cols, norm.dtype, norm.parameter
    grad = norm.matrix(norm.rng.standard_normal((rows, cols)) + 0.5)
    x = norm.matrix(norm.random_rows())
    mean, var = norm.moments(x)
    if part["kind"] != "rms":
        mean = norm.operand(mean, norm.statistics)
    rstd = norm.operand(var + 0.5 if norm.evaluates else norm.rstd(var), norm.statistics)
    rstd = norm.rstd(rstd) if norm.evaluates else rstd
    weighs = part["weight"] and part["input_gradient"]
    weight = norm.random_parameter() if weighs else np.ones((1, 1))

    outputs = [empty(rows * cols, dtype)] * part["input_gradient"]
    of_weight = part["weight"] and part["weight_gradient"]
    outputs += [empty(norm.num_parameters, parameter) for _ in range(of_weight + part["bias_gradient"])]
    counts = run(part, target, norm.inputs, outputs)

    unit, scale, h = (x - mean) * rstd, (np.abs(x) + np.abs(mean)) * rstd, grad * weight
    if part["input_gradient"]:
        got = norm.result(outputs.pop(0))
        expected, bound = h, np.abs(h)
        if not norm.evaluates:
            dot = (h * unit).mean(axis=1, keepdims=True)
            expected = expected - unit * dot
            bound = bound + scale * (np.abs(h) * scale).mean(axis=1, keepdims=True)
        if not norm.evaluates and part["kind"] != "rms":
            expected = expected - h.mean(axis=1, keepdims=True)
            bound = bound + np.abs(h).mean(axis=1, keepdims=True)
        assert_within(got, rstd * expected, ROUNDING * rstd * bound, dtype, part, "grad_in")
    over_rows = ROUNDING + rows / 64 * 2**-24
    if of_weight:
        got = from_device(outputs.pop(0), parameter)
        bound = over_rows * norm.per_channel(np.abs(grad) * scale)
        assert_within(got, norm.per_channel(grad * unit), bound, parameter, part, "grad_weight")
    if part["bias_gradient"]:
        got = from_device(outputs.pop(0), parameter)
        bound = over_rows * norm.per_channel(np.abs(grad))
        assert_within(got, norm.per_channel(np.broadcast_to(grad, (rows, cols))), bound, parameter, part, "grad_bias")
    return counts


def check(part: dict[str, Any], target: Any, seed: int = 0) -> dict[str, Any]:
    return (check_backward if part["backward"] else check_forward)(part, target, seed)


def random_part(rng: random.Random, kind: str, largest: int = 1500) -> dict[str, Any]:
    dtype = rng.choice(FLOATS)
    fields: dict[str, Any] = {
        "parameter_dtype": rng.choice([dtype, "float32"]),
        "weight": rng.random() < 0.7,
        "bias": rng.random() < 0.6 and kind != "rms",
        "backward": rng.random() < 0.5,
        "input_gradient": rng.random() < 0.8,
        "weight_gradient": rng.random() < 0.8,
        "bias_gradient": rng.random() < 0.8 and kind != "rms",
        "training": rng.random() < 0.6,
        "running_statistics": rng.random() < 0.6,
        "eps": rng.choice([1e-5, 1e-3, 0.1]),
        "momentum": rng.choice([0.0, 0.1, 0.5]),
    }
    rows, cols = some_size(rng, 700), some_size(rng, largest)
    if kind == "group":
        each, groups, samples = rng.choice([1, 1, 2, 3, 8]), rng.choice([1, 2, 5, 8, 32, 60, 128, 130, 300]), 1
        spatial = rng.choice([1, 4, 49, some_size(rng, largest // each)])
        samples = rng.randint(1, max(1, min(600 // groups, 200_000 // (each * groups * spatial))))
        rows, cols = groups * samples, each * spatial
        fields |= {"channels": each * groups, "spatial": spatial}
    if kind == "batch":
        spatial = rng.choice([1, 1, 7, 49, 64, 200, cols])
        cols = max(2 if spatial == 1 else 1, cols // spatial) * spatial
        fields["spatial"] = spatial
    if rows * cols > 300_000:
        rows = max(1, 300_000 // cols)
        rows = max(rows // fields["channels"], 1) * fields["channels"] if kind == "group" else rows
    return norm_part(kind, rows, cols, dtype, **fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(40))
def test_values_and_counts(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    for name in TARGETS:
        part = random_part(rng, kind)
        check(part, TARGETS[name], seed)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("kind", "rows", "cols", "fields"),
    [
        ("layer", 5000, 40, {}),  # several rows per partition, and accumulators of each core
        ("layer", 1030, 512, {}),
        ("layer", 3, 9000, {}),
        ("rms", 1500, 130, {}),
        ("batch", 300, 1400, {"spatial": 1}),
        ("batch", 129, 4000, {"spatial": 1}),
        ("batch", 513, 600, {"spatial": 100}),
        ("group", 1200, 60, {"channels": 60, "spatial": 30}),  # samples side by side
        ("group", 900, 24, {"channels": 1800, "spatial": 4}),  # tiles of a sample
        ("group", 64, 4096, {"channels": 4096, "spatial": 16}),
        ("group", 40, 3000, {"channels": 8, "spatial": 3000}),
        ("group", 3000, 1, {"channels": 300, "spatial": 1}),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_shapes(target: str, kind: str, rows: int, cols: int, fields: dict[str, Any], backward: bool) -> None:
    part = norm_part(kind, rows, cols, backward=backward, running_statistics=True, **fields)
    check(part, TARGETS[target])


PLANES = [  # what a partition holds, and what a tile does
    ("group", 32, 10 * 256, {"channels": 320, "spatial": 256}),  # half a group's planes; one sample
    ("group", 8, 64 * 49, {"channels": 64, "spatial": 49}),  # four planes; eight samples
    ("group", 3, 8 * 4096, {"channels": 8, "spatial": 4096}),  # a part of a plane
    ("group", 400, 2 * 900, {"channels": 400, "spatial": 900}),  # a part of a plane; one of several of a sample
    ("group", 2, 2 * 64000, {"channels": 4, "spatial": 64000}),  # the same; of little SBUF once, not twice
    ("batch", 64, 8 * 100, {"spatial": 100}),  # four planes; all samples
    ("batch", 16, 2 * 4096, {"spatial": 4096}),  # a part of a plane; all samples
    ("batch", 300, 4 * 64, {"spatial": 64}),  # ten planes, stay in SBUF
    ("batch", 192, 33 * 49, {"spatial": 49}),  # an odd number of samples for two cores
    ("batch", 5, 7 * 900, {"spatial": 900}),
    ("batch", 256, 300 * 64, {"spatial": 64}),  # two planes; too many samples to stay
]


def lies_in_planes(part: dict[str, Any], target: Any) -> bool:
    return " lane_" in _C.program_text([part], target)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("kind", "rows", "cols", "fields"), PLANES)
def test_planes_on_partitions(kind: str, rows: int, cols: int, fields: dict[str, Any], backward: bool) -> None:
    for name, target in TARGETS.items():
        for bias in (True, False):
            part = norm_part(kind, rows, cols, backward=backward, running_statistics=True, bias=bias, **fields)
            assert lies_in_planes(part, target) or name != "trn2" or not bias, part
            check(part | {"training": bias, "weight": rows % 3 > 0 or bias}, target)


@pytest.mark.parametrize("kind, rows, cols, fields", PLANES)
@pytest.mark.parametrize("name", TARGETS)
def test_nan_stays_in_its_planes(name: str, kind: str, rows: int, cols: int, fields: dict[str, Any]) -> None:
    part = norm_part(kind, rows, cols, **fields)
    if not lies_in_planes(part, TARGETS[name]):
        pytest.skip("by rows")
    norm = Norm(part, TARGETS[name])
    values = np.random.default_rng(2).standard_normal((rows, cols))
    values[1, cols // 2] = np.nan
    norm.matrix(values)
    norm.random_parameter(), norm.random_parameter()
    out, saved = empty(rows * cols, "float32"), [np.empty(rows, np.float32) for _ in range(2)]
    run(part, TARGETS[name], norm.inputs, [out, *saved])
    is_other = np.arange(rows) != 1
    for result in (norm.result(out), *(one[:, None] for one in saved)):
        assert np.isnan(result[1]).all() and np.isfinite(result[is_other]).all()


LONG_ROWS = [  # over all partitions; the last ones have less of a row, or nothing
    (1, 4096),
    (3, 5000),
    (8, 16384),
    (11, 40000),  # several groups of rows, and fewer at the end
    (2, 64 * 1024 + 1),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize(("rows", "cols"), LONG_ROWS)
def test_few_long_rows(kind: str, rows: int, cols: int, backward: bool) -> None:
    for without in ((), ("weight",), ("weight", "bias"), ("input_gradient",), ("weight_gradient", "input_gradient")):
        fields = dict.fromkeys(without, False)
        for name in ("trn1", "trn2"):
            part = norm_part(kind, rows, cols, backward=backward, **fields)
            assert without or "on_all_partitions" in _C.program_text([part], TARGETS[name]), part
            check(part, TARGETS[name])


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize(("rows", "cols"), LONG_ROWS[1:])
def test_a_long_row_keeps_its_nan(kind: str, rows: int, cols: int) -> None:
    part = norm_part(kind, rows, cols, weight=False, bias=False)
    x = np.random.default_rng(2).standard_normal((rows, cols)).astype(np.float32)
    x[1, cols // 2] = np.nan
    out, saved = np.empty_like(x), [np.empty(rows, np.float32) for _ in range(1 if kind == "rms" else 2)]
    run(part, TARGETS["trn1"], [x.reshape(-1)], [out.reshape(-1), *saved])
    is_other = np.arange(rows) != 1
    for result in (out, *(one[:, None] for one in saved)):
        assert np.isnan(result[1]).all() and np.isfinite(result[is_other]).all()


@pytest.mark.parametrize("part", [random_part(random.Random(seed), KINDS[seed % 4]) for seed in range(100, 132)])
def test_threads_do_not_change_a_bit(part: dict[str, Any]) -> None:
    """Also where accumulators are the cores' own."""
    target = TARGETS["trn2"]
    rng = np.random.default_rng(1)
    part = part | {"rows": part["rows"] * 40}
    part |= {"channels": part["rows"]} if part["kind"] == "batch" else {}
    text = _C.program_text([part], target)
    buffers = re.findall(r"^  hbm (\S+) (\S+) \[(\d+)\](.*)$", text, re.MULTILINE)
    inputs = [to_device(rng.uniform(0.5, 2, int(n)), dtype) for _, dtype, n, rest in buffers if "output" not in rest]
    results = []
    for num_threads in (1, 3):
        outputs = [empty(int(n), dtype) for _, dtype, n, rest in buffers if "output" in rest]
        _C.execute(part, target, inputs, outputs, num_threads=num_threads)
        results.append([one.tobytes() for one in outputs])
    assert results[0] == results[1], part


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_stay_in_their_row(kind: str) -> None:
    fields: dict[str, Any] = {"channels": 12, "spatial": 10} if kind == "group" else {}
    rows, cols = 240, 30 if kind == "group" else 40
    part = norm_part(kind, rows, cols, weight=False, bias=False, **fields)
    x = np.random.default_rng(2).standard_normal((rows, cols)).astype(np.float32)
    x[5, 3], x[200, 7] = np.nan, np.inf
    out = np.empty_like(x)
    saved = [np.empty(rows, np.float32) for _ in range(1 if kind == "rms" else 2)]
    run(part, TARGETS["trn2"], [x.reshape(-1)], [out.reshape(-1), *saved])
    wild = np.isin(np.arange(rows), (5, 200))
    assert np.isnan(out[5]).all() and np.isnan(out[200]).any()
    assert np.isfinite(out[~wild]).all()
    assert all(np.isfinite(one[~wild]).all() for one in saved)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(200, 300), (300, 5000), (1, 20000), (3, 40000)])
def test_a_channel_keeps_its_nan(name: str, shape: tuple[int, int]) -> None:
    """Channels last: on NeuronCore-v2 too, whose transposes spread a NaN."""
    rows, cols = shape
    part = norm_part("batch", rows, cols, weight=False, bias=False, spatial=1, channels=rows)
    x = np.random.default_rng(2).standard_normal((cols, rows)).astype(np.float32)
    x[3, rows - 1] = np.nan
    out, mean, rstd = np.empty_like(x), np.empty(rows, np.float32), np.empty(rows, np.float32)
    run(part, TARGETS[name], [x.reshape(-1)], [out.reshape(-1), mean, rstd])
    assert np.isnan(out[:, -1]).all() and np.isnan(mean[-1])
    assert np.isfinite(out[:, :-1]).all() and np.isfinite(mean[:-1]).all() and np.isfinite(rstd[:-1]).all()


def test_a_constant_row_gives_its_bias() -> None:
    for cols in (1, 2, 777):
        part = norm_part("layer", 3, cols, weight=False)
        x, bias = np.full((3, cols), 1.7, np.float32), np.arange(cols, dtype=np.float32)
        out, mean, rstd = np.empty_like(x), np.empty(3, np.float32), np.empty(3, np.float32)
        run(part, TARGETS["trn1"], [x.reshape(-1), bias], [out.reshape(-1), mean, rstd])
        np.testing.assert_allclose(out, np.broadcast_to(bias, out.shape), atol=1e-5, rtol=1e-6)
        np.testing.assert_allclose(rstd, 1e-3**-0.5, rtol=1e-4)


def test_one_element_has_no_unbiased_variance() -> None:
    part = norm_part("batch", 4, 1, weight=False, bias=False, running_statistics=True)
    x, zeros, ones = (np.full(4, value, np.float32) for value in (2, 0, 1))
    outputs = [np.empty(4, np.float32) for _ in range(5)]
    run(part, TARGETS["trn2"], [x, zeros, ones], outputs)
    assert np.array_equal(outputs[3], np.full(4, 0.5)) and np.isnan(outputs[4]).all()


def test_what_only_counts_is_refused() -> None:
    target = TARGETS["trn2"]
    with pytest.raises(NotImplementedError, match=r"\[norm\] complex elements are counted.*got complex64\."):
        _C.execute(norm_part("layer", 2, 3, "complex64"), target, [], [])
    with pytest.raises(NotImplementedError, match=r"\[norm\] groups of like channels are executed; got 5 channels"):
        _C.execute(norm_part("group", 2, 6, channels=5, spatial=2), target, [], [])
