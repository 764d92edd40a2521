"""Reductions as programs, executed instruction by instruction, against float64 torch."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import BYTES, EPSILON, access, empty, from_device, load_target, run, some_size, step, to_device

from torch_trn import _C

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "bool"]
FLOATS = ["float32", "bfloat16", "float16", "float64"]

SQUARE, ABS = step("activation", function="square"), step("activation", function="abs")
# alu, prologue, epilogue, oracle
FUNCTIONS: dict[str, Any] = {
    "sum": ("add", [], [], lambda x: x.sum(1)),
    "amax": ("maximum", [], [], lambda x: x.amax(1)),
    "amin": ("minimum", [], [], lambda x: x.amin(1)),
    "norm": ("add", [SQUARE], [step("activation", function="sqrt")], lambda x: x.square().sum(1).sqrt()),
    "norm1": ("add", [ABS], [], lambda x: x.abs().sum(1)),
    "norm_inf": ("maximum", [ABS], [], lambda x: x.abs().amax(1)),
    "count": ("add", [step("tensor_scalar", "not_equal")], [], lambda x: (x != 0).sum(1)),
    "any": ("maximum", [step("tensor_scalar", "not_equal")], [], lambda x: (x != 0).any(1)),
    "all": ("minimum", [step("tensor_scalar", "not_equal")], [], lambda x: (x != 0).all(1)),
}


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def reduction_part(rows: int, cols: int, dtype: str, out: str, across: bool, alu: str, **fields: Any) -> dict[str, Any]:
    part = {
        "family": "reduction",
        "rows": rows,
        "cols": cols,
        "across_partitions": across,
        "alu": alu,
        "prologue": [],
        "epilogue": [],
        "places": False,
        "variance": False,
        "correction": 0.0,
        "inputs": [access(dtype, rows * cols)],
        "outputs": [access(out, rows)],
    }
    return part | fields


def some_extents(rng: random.Random) -> tuple[int, int]:
    shape = rng.random()
    if shape < 0.2:  # few long rows: spread over the partitions
        return rng.randint(1, 4), rng.randint(8_000, 300_000)
    if shape < 0.3:  # chunks of a row
        return rng.randint(256, 260), rng.randint(20_000, 40_000)
    if shape < 0.4:  # few columns of many rows
        return rng.randint(20_000, 90_000), rng.randint(1, 20)
    return some_size(rng, 800), some_size(rng, 900)


def reduced(part: dict[str, Any], target: Any, x: torch.Tensor, num_threads: int = 1) -> torch.Tensor:
    dtype, out = part["inputs"][0]["dtype"], part["outputs"][0]["dtype"]
    stored = to_device((x.T if part["across_partitions"] else x).contiguous().numpy(), dtype)
    result = empty(part["rows"], out)
    if num_threads == 1:
        run(part, target, [stored], [result])
    else:
        _C.execute(part, target, [stored], [result], num_threads=num_threads)
    return torch.from_numpy(from_device(result, out))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", range(24))
def test_floats(target: Any, name: str, seed: int) -> None:
    rng = random.Random(f"{name}{seed}")
    rows, cols = some_extents(rng)
    dtype = rng.choice(FLOATS)
    is_bool = name in ("any", "all")
    out = "bool" if is_bool else "int64" if name == "count" else rng.choice([dtype, "float32"])
    alu, prologue, epilogue, oracle = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    if name in ("count", "any", "all"):
        x[torch.rand(rows, cols, generator=generator) < rng.choice([0.001, 0.5, 1.0])] = 0
    if name in ("sum", "norm1") and dtype == "float16":
        x /= 64
    x = x.to(getattr(torch, dtype)).to(torch.float32).to(torch.float64)
    part = reduction_part(rows, cols, dtype, out, rng.random() < 0.4, alu, prologue=prologue, epilogue=epilogue)
    result, exact = reduced(part, target, x), oracle(x).double()
    if name == "sum":  # sums of K tiles of 128, then one after another
        bound = x.abs().sum(1) * 2**-24 * (256 + cols / 128) + exact.abs() * EPSILON[out]
    elif name.startswith("norm"):
        bound = exact.abs() * (2**-23 * (256 + cols / 128) + EPSILON[out])
    else:
        bound = exact.abs() * EPSILON.get(out, 0)
    assert ((result - exact).abs() <= bound + 1e-30).all(), (part, (result - exact).abs().max())


@pytest.mark.parametrize("name", ["sum", "amax", "amin", "any", "all", "count"])
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("seed", range(3))
def test_integers(target: Any, name: str, dtype: str, seed: int) -> None:
    rng = random.Random(f"{name}{dtype}{seed}")
    rows, cols = some_extents(rng)
    alu, prologue, _epilogue, oracle = FUNCTIONS[name]
    out = "bool" if name in ("any", "all") else "int64" if name in ("sum", "count") else dtype
    high = 2 if dtype == "bool" else 40
    x = torch.randint(0, high, (rows, cols), generator=torch.Generator().manual_seed(seed), dtype=torch.int64)
    part = reduction_part(rows, cols, dtype, out, rng.random() < 0.4, alu, prologue=prologue)
    result, exact = reduced(part, target, x), oracle(x).double()
    # Below 2^24 fp32 counts exactly.
    assert (result == exact).all(), (part, (result - exact).abs().max())


@pytest.mark.parametrize("name", ["amax", "amin", "sum", "norm_inf"])
@pytest.mark.parametrize("shape", [(3, 40_000), (200, 30), (70, 30_000), (40_000, 7)])
@pytest.mark.parametrize("across", [False, True])
def test_special_values(name: str, shape: tuple[int, int], across: bool) -> None:
    """On NeuronCore-v3: before it, the transposes that turn columns of results spread a NaN over its row."""
    target = load_target("trn2")
    alu, prologue, _epilogue, oracle = FUNCTIONS[name]
    x = torch.ones(shape, dtype=torch.float64)
    x[0, 3] = torch.nan
    x[1, 4:6] = torch.inf
    x[2, :] = -torch.inf
    part = reduction_part(*shape, "float32", "float32", across, alu, prologue=prologue)
    torch.testing.assert_close(reduced(part, target, x), oracle(x), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("alu", ["add", "maximum", "multiply"])
@pytest.mark.parametrize("cols", [2, 5, 16])
def test_a_short_outer_axis_takes_little_more_than_its_bytes(target: Any, alu: str, cols: int) -> None:
    """x[rows, cols, n].sum(1) of a mixture of experts, the gradient of what was broadcast over a batch."""
    part = reduction_part(1 << 20, cols, "float32", "float32", True, alu)
    seconds = (cols + 1) * 4 * (1 << 20) / target.device.hbm_bytes_per_second
    assert _C.cost([part], target)["seconds"] < (5 if alu == "maximum" else 2) * seconds  # NaNs are marked beside


def test_threads(target: Any) -> None:
    for seed in range(12):
        rng = random.Random(seed)
        rows, cols = some_extents(rng)
        dtype, name = rng.choice(["float32", "bfloat16"]), rng.choice(list(FUNCTIONS))
        alu, prologue, epilogue, _ = FUNCTIONS[name]
        part = reduction_part(
            rows, cols, dtype, "float32", rng.random() < 0.4, alu, prologue=prologue, epilogue=epilogue
        )
        x = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, cols)))
        assert torch.equal(reduced(part, target, x), reduced(part, target, x, num_threads=3)), part


def placed(part: dict[str, Any], target: Any, x: torch.Tensor, results: list[str]) -> list[torch.Tensor]:
    stored = to_device((x.T if part["across_partitions"] else x).contiguous().numpy(), part["inputs"][0]["dtype"])
    outputs = [empty(part["rows"], dtype) for dtype in results]
    counts = run(part, target, [stored], outputs)
    size = BYTES[part["inputs"][0]["dtype"]]
    assert counts["hbm_read_bytes"] == part["rows"] * part["cols"] * size
    assert counts["hbm_write_bytes"] == part["rows"] * sum(BYTES[dtype] for dtype in results)
    return [torch.from_numpy(from_device(out, dtype)) for out, dtype in zip(outputs, results)]


@pytest.mark.parametrize("alu", ["maximum", "minimum"])
@pytest.mark.parametrize("seed", range(40))
def test_extremes_and_their_first_places(target: Any, alu: str, seed: int) -> None:
    rng = random.Random(f"{alu}{seed}")
    rows, cols = some_extents(rng)
    dtype = rng.choice([*FLOATS, "int32", "int64", "bool"])
    across = rng.random() < 0.4 and target.core.generation != "NeuronCore-v2"
    high = 2 if dtype == "bool" else rng.choice([3, 100])
    x = torch.randint(0, high, (rows, cols), generator=torch.Generator().manual_seed(seed)).double()
    if dtype in FLOATS and target.core.generation != "NeuronCore-v2":  # there a transpose is a product: a NaN spreads
        x[torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.2] = -torch.inf
        x[torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < 0.5 / cols] = torch.nan
    results = [dtype, "int64"] if rng.random() < 0.5 else ["int64"]
    outputs = [access(one, rows) for one in results]
    part = reduction_part(rows, cols, dtype, dtype, across, alu, outputs=outputs, places=True)
    got = placed(part, target, x, results)
    values = (x.max(1) if alu == "maximum" else x.min(1)).values
    best = values[:, None]
    first = torch.where((x == best) | (x.isnan() & best.isnan()), torch.arange(cols), cols).amin(1)
    assert torch.equal(got[-1], first.double()), part
    if len(results) > 1:
        torch.testing.assert_close(got[0], values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("correction", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(24))
def test_variances(target: Any, correction: float, seed: int) -> None:
    rng = random.Random(f"{correction}{seed}")
    rows, cols = some_extents(rng)
    dtype, is_std = rng.choice(FLOATS), rng.random() < 0.5
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (x + rng.choice([0, 1, 30])).to(getattr(torch, dtype)).float().double()
    results = ["float32", "float32"] if rng.random() < 0.5 else ["float32"]
    epilogue = [step("activation", function="sqrt")] if is_std else []
    fields = {"variance": True, "correction": correction, "epilogue": epilogue}
    outputs = [access(one, rows) for one in results]
    part = reduction_part(rows, cols, dtype, dtype, rng.random() < 0.4, "add", outputs=outputs, **fields)
    got = placed(part, target, x, results)
    free = max(cols - correction, 0)
    exact = (x - x.mean(1, keepdim=True)).square().sum(1) / free
    # Means of 256 elements are rounded, and each of them counts with its distance; then the sums of the pieces.
    mean_error = 2**-24 * (260 + cols / 512) * x.abs().amax(1)
    bound = exact.abs() * 2**-22 * (260 + cols / 512) + mean_error.square() * cols / max(free, 1) + 1e-12
    if is_std:
        exact, bound = exact.sqrt(), bound / exact.sqrt().clamp_min(1e-9)
    finite = exact.isfinite()
    assert torch.equal(finite, got[0].isfinite()), part
    assert ((got[0] - exact).abs() <= bound)[finite].all(), (part, (got[0] - exact).abs().max())
    if len(results) > 1:
        assert ((got[1] - x.mean(1)).abs() <= mean_error).all(), part


def test_threads_of_places_and_variances(target: Any) -> None:
    x = np.random.default_rng(0).standard_normal((900, 300)).astype(np.float32)
    for fields in ({"places": True}, {"variance": True, "correction": 1.0}):
        outputs = [access("float32", 900), access("int64" if "places" in fields else "float32", 900)]
        part = reduction_part(900, 300, "float32", "float32", False, "maximum", outputs=outputs, **fields)
        results = []
        for num_threads in (1, 3):
            arrays = [empty(900, one["dtype"]) for one in outputs]
            _C.execute(part, target, [x.ravel().view(np.uint8)], arrays, num_threads=num_threads)
            results.append([array.tobytes() for array in arrays])
        assert results[0] == results[1]


def test_errors_of_results(target: Any) -> None:
    part = reduction_part(4, 6, "float32", "float32", False, "maximum")
    two = {"outputs": [access("float32", 4)] * 2}
    with pytest.raises(NotImplementedError, match=r"\[reduction\] one value for each row is computed; got 2 results\."):
        _C.execute(part | two, target, [], [])
    wide = reduction_part(1, 2**25, "float32", "int64", False, "maximum", places=True)
    with pytest.raises(
        NotImplementedError, match=r"\[reduction\] places and variances are of .*; got 33554432 columns\."
    ):
        _C.execute(wide, target, [], [])


@pytest.mark.parametrize("rows", [2049, 4095, 8191])
def test_an_odd_number_of_sums_costs_no_double(target: Any, rows: int) -> None:
    """Sums over the outer axis: the cores share the rows, and what does not divide is not a core's share."""
    odd, even = (
        _C.cost([reduction_part(n, 8192, "float32", "float32", True, "add")], target)["seconds"]
        for n in (rows, rows + 1)
    )
    assert odd < 1.6 * even
