"""Counters of convolution, attention, softmax, norms and reductions against closed forms."""

import itertools
import math
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from random_parts import Part, access, attention, conv, norm, reduction, softmax, some_size

import torch_trn.target_files
from torch_trn import _C

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int32": 4, "int64": 8, "bool": 1}
SEEDS = range(25)
BLOCK = 512  # keys of a score tile
PARTITIONS = 128


@pytest.fixture(scope="module", params=["trn1", "trn2", "trn3", "inf2"])
def target(request: pytest.FixtureRequest) -> Any:
    return _C.Target(torch_trn.target_files.load(request.param))


@pytest.fixture(scope="module")
def trn2() -> Any:
    return _C.Target(torch_trn.target_files.load("trn2"))


def traffic(target: Any, part: Part) -> tuple[int, int]:
    counts = _C.cost([part], target)["counts"]
    return counts["hbm_read_bytes"], counts["hbm_write_bytes"]


# ---- softmax


@pytest.mark.parametrize("cols, fits", [(2000, True), (70_000, False)])
@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_bytes(target: Any, seed: int, cols: int, fits: bool) -> None:
    rng = random.Random(seed)
    part = softmax(rng, some_size(rng, 20_000), cols if not fits else some_size(rng, cols))
    reads = 2 if part["backward"] else 1
    if not fits:
        reads += 1 if part["log"] or not part["backward"] else 2
    elements = part["rows"] * part["cols"]
    read, written = traffic(target, part)
    assert written == elements * BYTES[part["out_dtype"]], part
    # Few rows may lie over all partitions, where they fit: read once, then.
    over_all = 2 if part["backward"] else 1
    is_few = part["rows"] < PARTITIONS * target.device.num_cores
    passes = {reads, over_all} if is_few else {reads}
    assert read in {n * elements * BYTES[part["in_dtype"]] for n in passes}, part


# ---- norms


def norm_bytes(part: Part, fits: bool) -> tuple[int, int]:
    kind, rows, cols = part["kind"], part["rows"], part["cols"]
    elements, item = rows * cols * BYTES[part["dtype"]], BYTES[part["parameter_dtype"]]
    statistic = item if kind != "rms" else max(4, BYTES[part["dtype"]])
    parameters = {"layer": cols, "rms": cols, "group": part["channels"], "batch": rows}[kind]
    loads = 1 if fits or kind in ("group", "batch") else -(-rows // PARTITIONS)
    batch_eval = kind == "batch" and not part["training"]
    if not part["backward"]:
        read = elements * (1 if fits or batch_eval else 2)
        read += (part["weight"] + part["bias"]) * parameters * loads * item
        written = elements
        updates = kind == "batch" and part["training"] and part["running_statistics"]
        read += 2 * rows * statistic * (batch_eval or updates)
        written += 2 * rows * statistic * updates
        written += 0 if batch_eval else rows * statistic * (1 if kind == "rms" else 2)
        return read, written
    sums = part["input_gradient"] and not batch_eval
    weight_gradient = part["weight_gradient"] and part["weight"]
    dots = sums or weight_gradient
    if fits:
        grad_reads, x_reads, weight_reads = 1, int(dots), int(part["weight"] and part["input_gradient"])
    else:
        grad_reads = int(dots or part["bias_gradient"]) + int(part["input_gradient"])
        x_reads = int(dots) + int(sums)
        per_pass = loads if kind in ("layer", "rms") else 1
        passes = 2 if sums and kind in ("layer", "rms") else 1
        weight_reads = int(part["weight"] and part["input_gradient"]) * passes * per_pass
    read = elements * (grad_reads + x_reads) + weight_reads * parameters * item
    uses_statistics = part["input_gradient"] or weight_gradient
    read += rows * statistic * (1 if kind == "rms" else 2) * uses_statistics
    written = elements * part["input_gradient"]
    written += (weight_gradient + part["bias_gradient"]) * parameters * item
    return read, written


@pytest.mark.parametrize("kind", ["layer", "rms", "group", "batch"])
@pytest.mark.parametrize("cols, fits", [(1500, True), (120_000, False)])
@pytest.mark.parametrize("seed", SEEDS)
def test_norm_bytes(target: Any, seed: int, kind: str, cols: int, fits: bool) -> None:
    rng = random.Random(seed)
    cols = some_size(rng, cols) if fits else cols
    rows = some_size(rng, 5_000)
    fields: dict[str, Any] = {}
    if kind == "group":
        channels_per_group, groups = rng.choice([1, 4, 10]), rng.choice([1, 8, 32, 200])
        rows, cols = groups * rng.randint(1, 40), max(cols // channels_per_group, 1) * channels_per_group
        fields = {"channels": channels_per_group * groups, "spatial": cols // channels_per_group}
    if kind == "batch" and fits:
        fields = {"spatial": rng.choice([1, 1, max(cols // 2, 1), cols])}
        cols = cols if cols % fields["spatial"] == 0 else fields["spatial"] * 2
    part = norm(rng, rows, cols, kind, **fields)
    fits = fits or (kind == "batch" and rows == 1)  # one channel lies on all partitions
    # A row, or a group's planes, may fit on several partitions and not on one; a channel's of all samples may not stay.
    passes = {True, False} if kind == "batch" else {fits, True}
    assert traffic(target, part) in {norm_bytes(part, once) for once in passes}, part


# ---- reductions


def bytes_of(accesses: list[dict[str, Any]]) -> int:
    return sum(BYTES[a["dtype"]] * a["elements"] for a in accesses)


@pytest.mark.parametrize("rows, cols", [(1, 40_000_000), (40, 200_000), (30_000, 2_000), (200_000, 9), (300, 100_000)])
@pytest.mark.parametrize("seed", SEEDS)
def test_reduction_bytes(target: Any, seed: int, rows: int, cols: int) -> None:
    rng = random.Random(seed)
    part = reduction(rng, some_size(rng, rows), some_size(rng, cols))
    assert traffic(target, part) == (bytes_of(part["inputs"]), bytes_of(part["outputs"])), part


def test_reduction_of_nothing_still_writes(target: Any) -> None:
    part = reduction(random.Random(0), 0, 0) | {"inputs": [access("float32", 0)], "outputs": [access("float32", 7)]}
    assert traffic(target, part) == (0, 28)


# ---- attention


def causal_pairs(part: Part) -> int:
    return sum(min(i + 1, part["kv_len"]) for i in range(part["q_len"]))


def attention_bytes(part: Part, span: int) -> tuple[int, int]:
    """With `span` keys resident at a time; later spans resume the partial results of earlier ones."""
    batch, heads, kv_heads = part["batch"], part["heads"], part["kv_heads"]
    q_len, kv_len, d, dv = part["q_len"], part["kv_len"], part["head_dim"], part["value_dim"]
    item, statistics = BYTES[part["dtype"]], 8 if part["dtype"] == "float64" else 4
    seen = min(q_len, kv_len) if part["causal"] else kv_len
    queries = [q_len - (first if part["causal"] else 0) for first in range(0, seen, span)]
    visits, resumed = sum(queries), sum(queries[1:])
    keys = batch * kv_heads * seen * (d + dv) * item
    if part["backward"]:
        read = keys + batch * heads * visits * ((d + 2 * dv) * item + statistics)
        partial = batch * heads * resumed * d * 4
        written = batch * heads * q_len * d * item + batch * kv_heads * kv_len * (d + dv) * item
    else:
        read = keys + batch * heads * visits * d * item
        partial = batch * heads * resumed * (dv + 2) * 4
        written = batch * heads * q_len * (dv * item + statistics)
    return read + partial, written + partial


@pytest.mark.parametrize("seed", SEEDS)
def test_attention_bytes(target: Any, seed: int) -> None:
    part = attention(random.Random(seed), 1500)
    assert traffic(target, part) == attention_bytes(part, part["kv_len"]), part


@pytest.mark.parametrize("seed", range(8))
def test_attention_bytes_of_long_keys(target: Any, seed: int) -> None:
    rng = random.Random(seed)
    part = attention(rng, 2, q_len=rng.choice([1, 3000, 70_000]), kv_len=70_000, head_dim=128, value_dim=128)
    spans = {attention_bytes(part, span) for span in [*range(BLOCK, 70_000, BLOCK), 70_000]}
    assert traffic(target, part) in spans, part


@pytest.mark.parametrize("backward", [False, True])
def test_attention_mask_is_read_as_often_as_heads_are_loaded_together(target: Any, backward: bool) -> None:
    part = attention(random.Random(3), 500, kv_heads=4, heads=4, causal=False, backward=backward, dtype="float32")
    plain, _ = traffic(target, part)
    batch, q_len, kv_len = part["batch"], part["q_len"], part["kv_len"]
    for mask, unit in [
        ([1, 1, q_len, kv_len], q_len * kv_len),
        ([batch, 1, q_len, kv_len], q_len * kv_len),
        ([batch, 1, 1, kv_len], kv_len),
    ]:
        masked, _ = traffic(target, part | {"mask": mask})
        assert (masked - plain) in [batch * groups * unit * 4 for groups in range(1, 5)]
    masked, _ = traffic(target, part | {"mask": [batch, 4, q_len, kv_len]})
    assert masked - plain == batch * 4 * q_len * kv_len * 4


@pytest.mark.parametrize("seed", SEEDS)
def test_attention_flops(target: Any, seed: int) -> None:
    part = attention(random.Random(seed), 1500)
    result = _C.cost([part], target)
    per_pair = (
        2 * part["batch"] * part["heads"] * (part["head_dim"] + part["value_dim"]) * (2 if part["backward"] else 1)
    )
    assert result["model_flops"] == per_pair * part["q_len"] * part["kv_len"]
    pairs = causal_pairs(part) if part["causal"] else part["q_len"] * part["kv_len"]
    assert result["causal_flops"] == per_pair * pairs
    hardware = sum(result["counts"]["hardware_flops"].values())
    assert hardware - result["counts"]["transpose_flops"] >= result["causal_flops"]


def test_causal_attention_skips_hidden_tiles(trn2: Any) -> None:
    part = attention(random.Random(0), 2, q_len=8192, kv_len=8192, head_dim=128, value_dim=128, dropout=0.0)
    full, causal = (_C.cost([part | {"causal": c}], trn2) for c in (False, True))
    work = [sum(r["counts"]["hardware_flops"].values()) for r in (full, causal)]
    assert 0.5 < work[1] / work[0] < 0.55
    assert causal["seconds"] < full["seconds"]


# ---- convolution


def windows(part: Part, axis: int, block: int, shift: int = 0) -> int:
    """Positions of one axis that all blocks of `block` produced positions read, from `shift` behind the first on."""
    s, p, d, k = (part[name][axis] for name in ("stride", "padding", "dilation", "kernel"))
    reverse = part["direction"] == "input_gradient"
    here, there = (part["in"][axis], part["out"][axis]) if reverse else (part["out"][axis], part["in"][axis])
    if axis > 0 and block >= here and ((p - (k - 1) * d) // s if reverse else -p) <= 0:
        return max(there - max(shift - p, 0), 0)  # whole rows
    total = 0
    for first in range(0, here, block):
        last = min(first + block, here) - 1
        if reverse:
            low, high = (first + p - (k - 1) * d) // s, (last + p) // s + 1
        else:
            low, high = first * s - p + shift, last * s - p + (k - 1) * d + 1
        total += max(min(high, there) - min(max(low, 0), there), 0)
    return total


def conv_fold(part: Part) -> int:
    if part["direction"] == "input_gradient":
        return 1
    each = max(part["in_channels"], part["out_channels"]) // part["groups"]
    pack = min(part["groups"], PARTITIONS // each) if each <= PARTITIONS // 2 else 1
    channels = pack * part["in_channels"] // part["groups"]
    return min(part["kernel"][-1], PARTITIONS // channels) if channels <= PARTITIONS // 2 else 1


def conv_folds(part: Part) -> set[int]:
    """As many taps as fit, or as have whole rows where there is padding: the faster is taken."""
    most, whole = conv_fold(part), part["padding"][-1] // part["dilation"][-1] + 1
    return {most, min(most, whole) if any(part["padding"]) else most}


def conv_bytes(
    part: Part, copies: int, first_block: int | None = None, passes: int = 1, grad_passes: int = 1
) -> tuple[int, int]:
    """With one axis blocked, `passes` over the produced channels and `grad_passes` over the window's."""
    batch, direction = part["batch"], part["direction"]
    weight = part["in_channels"] // part["groups"] * part["out_channels"] * math.prod(part["kernel"])
    reverse = direction == "input_gradient"
    here = part["in"] if reverse else part["out"]
    blocks = [first_block or here[0], *here[1:]]
    last = len(blocks) - 1
    positions = math.prod(windows(part, axis, block) for axis, block in enumerate(blocks[:-1]))
    if copies > 1 and last > 0 and not any(part["padding"][1:]):  # each copy of a block is one run
        missing = part["dilation"][-1] * copies * (copies - 1) // 2 * -(-here[0] // blocks[0])
        positions = copies * positions * windows(part, last, blocks[-1]) - missing
    else:
        positions *= sum(windows(part, last, blocks[-1], copy * part["dilation"][-1]) for copy in range(copies))
    window = batch * part["out_channels" if reverse else "in_channels"] * positions * passes
    if direction == "weight_gradient":
        # Where grad_out is read more than once, the bias gradient reads it once more.
        reads = grad_passes + (part["bias"] and grad_passes > 1)
        read = window + batch * part["out_channels"] * math.prod(part["out"]) * reads
        written = weight + part["bias"] * part["out_channels"]
    else:
        produced = part["in_channels" if reverse else "out_channels"]
        read = window + weight + part["bias"] * produced
        written = batch * produced * math.prod(here)
    item = BYTES[part["dtype"]]
    return read * item, written * item


DIRECTIONS = ["forward", "input_gradient", "weight_gradient"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_conv_bytes(target: Any, seed: int, direction: str) -> None:
    part = conv(random.Random(seed), direction, 100, 24)
    assert traffic(target, part) in {conv_bytes(part, copies) for copies in conv_folds(part)}, part


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "shape", [(3, 64, 500, 7, 2, 3), (64, 64, 300, 3, 1, 1), (1024, 1024, 40, 3, 1, 1), (48, 48, 700, 3, 1, 0)]
)
def test_conv_bytes_in_blocks_and_passes(target: Any, direction: str, shape: tuple[int, ...]) -> None:
    inputs, outputs, size, k, s, p = shape
    out = (size + 2 * p - k) // s + 1
    part = conv(random.Random(0), direction, 1, 9) | {
        "in_channels": inputs,
        "out_channels": outputs,
        "groups": 1,
        "in": [size] * 2,
        "out": [out] * 2,
        "kernel": [k] * 2,
        "stride": [s] * 2,
        "padding": [p] * 2,
        "dilation": [1] * 2,
        "dtype": "float32",
    }
    here = size if direction == "input_gradient" else out
    grad_passes = range(1, 4 if direction == "weight_gradient" else 2)
    plans = itertools.product(conv_folds(part), range(1, here + 1), range(1, 20), grad_passes)
    assert traffic(target, part) in {conv_bytes(part, *plan) for plan in plans}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_conv_flops(target: Any, seed: int, direction: str) -> None:
    part = conv(random.Random(seed), direction, 300, 40)
    result = _C.cost([part], target)
    model = 2 * part["batch"] * part["out_channels"] * part["in_channels"] // part["groups"]
    model *= math.prod(part["kernel"]) * math.prod(part["out"])
    assert result["model_flops"] == result["causal_flops"] == model
    counts = result["counts"]
    hardware = sum(counts["hardware_flops"].values()) - counts["transpose_flops"]
    # A strided input gradient leaves out products with padding, which the model counts.
    inside = model if direction != "input_gradient" else 0
    assert hardware >= inside, part


def test_conv_of_a_ragged_shape_is_refused(trn2: Any) -> None:
    part = conv(random.Random(0), "forward", 8, 9)
    with pytest.raises(ValueError, match=r"\[conv\] .* one entry per spatial axis"):
        _C.cost([part | {"stride": []}], trn2)
    with pytest.raises(ValueError, match=r"\[conv\] .* at least 1"):
        _C.cost([part | {"kernel": [0] * len(part["kernel"])}], trn2)


# ---- what holds for every family


def some_parts() -> Iterator[Part]:
    rng = random.Random(1)
    for _ in range(12):
        yield softmax(rng, some_size(rng, 5000), some_size(rng, 3000))
        yield norm(rng, some_size(rng, 5000), some_size(rng, 3000), rng.choice(["layer", "rms", "batch"]))
        yield reduction(rng, some_size(rng, 5000), some_size(rng, 3000))
        yield attention(rng, 800)
        yield conv(rng, rng.choice(DIRECTIONS), 100, 30)


def test_four_times_the_rows_cost_no_less(target: Any) -> None:
    """Of time 5 % less is let pass: with another longest stage another's first tile is its fill."""
    for part in some_parts():
        key = "batch" if "batch" in part else "rows"
        larger = part | {key: 4 * part[key]}
        if part["family"] == "norm" and part["kind"] == "batch":
            larger["channels"] = larger["rows"]
        if part["family"] == "reduction":
            for name in ("inputs", "outputs"):
                larger[name] = [access(a["dtype"], 4 * a["elements"]) for a in part[name]]
        before, after = (_C.cost([p], target) for p in (part, larger))
        assert after["seconds"] >= 0.95 * before["seconds"], part
        assert after["counts"]["hbm_read_bytes"] >= before["counts"]["hbm_read_bytes"]


BUFFER = re.compile(r"^  (sbuf|psum) (\S+) (\S+) \[(\d+) x (\d+)\] copies (\d+)$", re.MULTILINE)
TILE = re.compile(r"(\w+)\[([\d :x]+)\]")
SBUF_BYTES = {**BYTES, "uint8": 1, "uint32": 4}


def large_parts(rng: random.Random) -> Iterator[Part]:
    yield softmax(rng, some_size(rng, 20_000), some_size(rng, 100_000))
    yield norm(rng, some_size(rng, 20_000), some_size(rng, 100_000), rng.choice(["layer", "rms", "batch"]))
    groups, each, spatial = rng.choice([1, 32, 200]), rng.choice([1, 4, 10]), rng.choice([1, 7, 5000])
    yield norm(rng, groups * 3, each * spatial, "group", channels=each * groups, spatial=spatial)
    yield norm(rng, some_size(rng, 300), 1000, "batch", spatial=rng.choice([1, 10, 1000]))
    yield reduction(rng, some_size(rng, 5000), some_size(rng, 200_000))
    yield reduction(rng, 1, some_size(rng, 20_000_000))
    yield attention(rng, rng.choice([500, 5000, 50_000]))
    yield conv(rng, rng.choice(DIRECTIONS), rng.choice([100, 1000]), rng.choice([20, 60, 300]))


@pytest.mark.parametrize("name", ["trn1", "trn2", "trn3", "inf2"])
@pytest.mark.parametrize("seed", SEEDS)
def test_tiles_fit_their_buffers_and_buffers_fit_the_core(name: str, seed: int) -> None:
    record = torch_trn.target_files.load(name)
    for part in large_parts(random.Random(seed)):
        text = _C.program_text([part], _C.Target(record))
        limits, used = {}, {"sbuf": 0, "psum": 0}
        for memory, buffer, dtype, partitions, elements, copies in BUFFER.findall(text):
            used[memory] += SBUF_BYTES[dtype] * int(elements) * int(copies)
            limits[buffer] = (int(partitions), int(elements))
        assert used["sbuf"] <= record["core"]["sbuf_bytes_per_partition"], part
        assert used["psum"] <= record["core"]["psum_bytes_per_partition"], part
        for line in text.split("\nnest ", 1)[-1].splitlines():
            for buffer, shape in TILE.findall(line):
                if buffer in limits:
                    sizes = [dim.split(":") for dim in shape.split(" x ")]
                    last = sum((int(size) - 1) * int((stride or ["1"])[0]) for size, *stride in sizes[1:])
                    assert int(sizes[0][0]) <= limits[buffer][0], (part, line)
                    assert last < limits[buffer][1], (part, line)


def test_only_products_have_model_flops(target: Any) -> None:
    for part in some_parts():
        result = _C.cost([part], target)
        assert (result["model_flops"] > 0) == (part["family"] in ("conv", "attention"))
        assert result["seconds"] > 0
        assert result["counts"]["dma_transfers"] > 0


def test_counts_are_the_same_every_time(target: Any) -> None:
    for part in some_parts():
        assert _C.cost([part], target) == _C.cost([part], target)


@pytest.mark.parametrize(
    "alu, dtype, measured, tolerance",
    [
        ("add", "float32", 639, 0.2),
        ("add", "bfloat16", 315, 0.2),
        ("maximum", "float32", 177, 0.5),
        ("maximum", "bfloat16", 97, 0.5),
    ],
)
def test_reductions_run_as_fast_as_measured(trn2: Any, alu: str, dtype: str, measured: float, tolerance: float) -> None:
    """Gigabytes per second of one trn2 device, best shape (docs/contract.md)."""
    elements = 1 << 26
    part = reduction(random.Random(0), 1, elements) | {
        "across_partitions": False,
        "alu": alu,
        "prologue": [],
        "epilogue": [],
        "places": False,
        "variance": False,
        "inputs": [access(dtype, elements)],
        "outputs": [access(dtype, 1)],
    }
    rate = sum(traffic(trn2, part)) / _C.cost([part], trn2)["seconds"] / 1e9
    assert abs(rate - measured) / measured < tolerance, rate
