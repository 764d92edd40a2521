"""HBM bytes of the data-moving families against closed forms, their engine work, and the shape of their programs."""

import math
import random
import re
from typing import Any

import pytest

import torch_trn.target_files
from torch_trn import _C

Part = dict[str, Any]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}
DTYPES = list(BYTES)
BYTES["uint32"] = 4
SEEDS = range(40)
# Fields of which only what executes depends.
PICKS: Part = {"table_rows": 0, "num_tables": 1, "columns": 0, "wraps": False, "axes": [], "scales": False}
PLANES: Part = {name: [] for name in ("in", "out", "kernel", "stride", "padding", "dilation")}
PLANES |= {"planes": 0, "counts_padding": True, "divisor": 0}
MATRICES: Part = {"rows": 0, "cols": 0, "repeated_elements": 0}


@pytest.fixture(scope="module", params=["trn1", "trn2", "trn3", "inf2"])
def target(request: pytest.FixtureRequest) -> Any:
    return _C.Target(torch_trn.target_files.load(request.param))


def cost(target: Any, part: Part) -> dict[str, Any]:
    result: dict[str, Any] = _C.cost([part], target)
    return result


def access(dtype: str, elements: int, contiguous: int | None = None, span: int = 0) -> dict[str, Any]:
    run = contiguous or elements
    return {"dtype": dtype, "elements": elements, "contiguous_elements": run, "span_elements": span}


def bytes_of(accesses: list[dict[str, Any]]) -> int:
    return sum(BYTES[a["dtype"]] * a["elements"] for a in accesses)


def some_size(rng: random.Random, largest: int = 3_000_000) -> int:
    """Sizes on a log scale, half of them multiples of 128, and now and then 1."""
    size = int(math.exp(rng.uniform(0, math.log(largest))))
    return max(1, size // 128 * 128) if rng.random() < 0.5 else size


def check(target: Any, part: Part, read: int, written: int) -> dict[str, Any]:
    result = cost(target, part)
    counts = result["counts"]
    assert (counts["hbm_read_bytes"], counts["hbm_write_bytes"]) == (read, written), part
    assert result["model_flops"] == 0
    assert (result["seconds"] > 0) == (read + written > 0), part
    return result


def random_copy(rng: random.Random) -> Part:
    src, dst = rng.choice(DTYPES), rng.choice(DTYPES)
    n = some_size(rng)
    transpose = rng.random() < 0.3
    read = max(1, n // rng.choice([1, 1, 1, 2, 12])) if not transpose else n
    return {
        "family": "copy",
        "elements": n,
        "src": access(src, read, rng.choice([None, 1, max(1, read // 3)])),
        "dst": access(dst if rng.random() < 0.5 else src, n, rng.choice([None, 1, 64])),
        "transpose": transpose,
        **MATRICES,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_copy_bytes(target: Any, seed: int) -> None:
    part = random_copy(random.Random(seed))
    check(target, part, bytes_of([part["src"]]), bytes_of([part["dst"]]))


def test_copy_of_one_dtype_takes_no_engine(target: Any) -> None:
    part = {
        "family": "copy",
        "elements": 1 << 20,
        "src": access("float32", 1 << 20),
        "dst": access("float32", 1 << 20),
        "transpose": False,
        **MATRICES,
    }
    counts = cost(target, part)["counts"]
    assert {name: n for name, n in counts["instructions"].items() if n and name != "dma"} == {}


def test_cast_is_a_vector_copy(target: Any) -> None:
    part = {
        "family": "copy",
        "elements": 1 << 20,
        "src": access("float32", 1 << 20),
        "dst": access("bfloat16", 1 << 20),
        "transpose": False,
        **MATRICES,
    }
    counts = cost(target, part)["counts"]
    assert counts["instructions"]["vector"] > 0
    assert counts["instructions"]["tensor"] == 0


def test_strided_copy_is_slower_by_its_descriptors(target: Any) -> None:
    n = 1 << 22
    part: Part = {"family": "copy", "elements": n, "dst": access("float32", n), "transpose": False, **MATRICES}
    dense = cost(target, {**part, "src": access("float32", n)})
    strided = cost(target, {**part, "src": access("float32", n, 64)})
    assert strided["counts"]["dma_descriptors"] >= n // 64
    assert strided["seconds"] > 1.5 * dense["seconds"]


@pytest.mark.parametrize(("run", "pitch"), [(1, 2), (1, 7), (2, 3), (16, 32), (32, 96)])
def test_short_gaps_move_with_their_runs(target: Any, run: int, pitch: int) -> None:
    """One side spaced: its whole span is read; where it is written, it is read first, for what lies in the gaps."""
    n = 16 * 3 * 128 * 96
    dense, spaced = access("float32", n), access("float32", n, run, n // run * pitch)
    part: Part = {"family": "copy", "elements": n, "transpose": False, **MATRICES}
    check(target, {**part, "src": spaced, "dst": dense}, 4 * n // run * pitch, 4 * n)
    check(target, {**part, "src": dense, "dst": spaced}, 4 * n + 4 * n // run * pitch, 4 * n // run * pitch)
    runs = cost(target, {**part, "src": access("float32", n, run), "dst": dense})
    assert cost(target, {**part, "src": spaced, "dst": dense})["seconds"] < runs["seconds"] / 2


def test_wide_gaps_are_skipped(target: Any) -> None:
    n = 1 << 18
    part: Part = {"family": "copy", "elements": n, "dst": access("float32", n), "transpose": False, **MATRICES}
    check(target, {**part, "src": access("float32", n, 1, 4096 * n)}, 4 * n, 4 * n)
    check(target, {**part, "src": access("float32", n, 1024, 2 * n)}, 4 * n, 4 * n)


def test_transposes_run_on_the_tensor_engine(target: Any) -> None:
    """Of NeuronCore-v2, which spreads NaN there, those of two bytes on the DMA."""
    n = 1024 * 1024
    part: Part = {"family": "copy", "elements": n, "transpose": True, **MATRICES}
    wide = cost(target, {**part, "src": access("float32", n), "dst": access("float32", n)})["counts"]
    narrow = cost(target, {**part, "src": access("bfloat16", n), "dst": access("bfloat16", n)})["counts"]
    assert wide["instructions"]["tensor"] == n // (128 * 128)
    assert wide["transpose_flops"] == sum(wide["hardware_flops"].values()) == 2 * n * 128
    by_dma = target.core.generation == "NeuronCore-v2"
    assert narrow["instructions"]["tensor"] == (0 if by_dma else n // (128 * 128))
    assert narrow["transpose_flops"] == (0 if by_dma else 2 * n * 128)


def random_index(rng: random.Random) -> Part:
    rows = some_size(rng, 60_000)
    row = some_size(rng, 4096) if rng.random() < 0.7 else 1
    kind = rng.choice(["gather", "scatter", "scatter_add"])
    return {
        "family": "index",
        "kind": kind,
        "num_rows": rows,
        "row_elements": row,
        "dtype": rng.choice(DTYPES),
        "index_dtype": rng.choice(["int32", "int64"]),
        "num_indices": rng.choice([rows, rows, rows * 2, max(1, rows // 3)]),
        "base_elements": some_size(rng) if kind != "gather" and rng.random() < 0.5 else 0,
        **PICKS,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_index_bytes(target: Any, seed: int) -> None:
    part = random_index(random.Random(seed))
    rows = part["num_rows"] * part["row_elements"] * BYTES[part["dtype"]]
    base = part["base_elements"] * BYTES[part["dtype"]]
    indices = part["num_indices"] * BYTES[part["index_dtype"]]
    read = rows * (2 if part["kind"] == "scatter_add" else 1) + indices + base
    check(target, part, read, rows + base)


def test_gather_takes_a_descriptor_per_row(target: Any) -> None:
    part = {
        "family": "index",
        "kind": "gather",
        "num_rows": 4096,
        "row_elements": 768,
        "dtype": "float32",
        "index_dtype": "int32",
        "num_indices": 4096,
        "base_elements": 0,
        **PICKS,
    }
    assert cost(target, part)["counts"]["dma_descriptors"] >= 4096


def test_int64_index_is_hundreds_of_times_slower(target: Any) -> None:
    part: Part = {
        "family": "index",
        "kind": "gather",
        "num_rows": 1 << 24,
        "row_elements": 1,
        "dtype": "float32",
        "num_indices": 1 << 24,
        "base_elements": 0,
        **PICKS,
    }
    slow = cost(target, {**part, "index_dtype": "int64"})["seconds"]
    fast = cost(target, {**part, "index_dtype": "int32"})["seconds"]
    assert 100 < slow / fast < 1000


def random_window(rng: random.Random) -> Part:
    kind = rng.choice(["max_pool", "average_pool", "upsample"])
    return {
        "family": "window",
        "kind": kind,
        "in_elements": some_size(rng),
        "out_elements": some_size(rng),
        "taps": rng.choice([1, 2, 4, 8, 9, 27]),
        "dtype": rng.choice(["float32", "bfloat16", "float64"]),
        "indices": kind == "max_pool" and rng.random() < 0.5,
        "backward": rng.random() < 0.5,
        **PLANES,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_window_bytes(target: Any, seed: int) -> None:
    part = random_window(random.Random(seed))
    small = part["in_elements"] * BYTES[part["dtype"]]
    large = part["out_elements"] * BYTES[part["dtype"]]
    indices = 8 * part["out_elements"] if part["indices"] else 0
    if part["backward"]:
        check(target, part, large + indices, small)
    else:
        check(target, part, small, large + indices)


def random_scan(rng: random.Random) -> Part:
    rows, cols = some_size(rng, 5000), some_size(rng, 5000)
    n = rows * cols
    dtype = rng.choice(DTYPES)
    outputs = [access(dtype, n, rng.choice([None, 1]))]
    alu = rng.choice(["add", "multiply", "maximum", "minimum"])
    if alu in ("maximum", "minimum"):
        outputs.append(access("int64", n))
    return {
        "family": "scan",
        "rows": rows,
        "cols": cols,
        "alu": alu,
        "inputs": [access(dtype, n, rng.choice([None, 1, cols]))],
        "outputs": outputs,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_scan_bytes(target: Any, seed: int) -> None:
    part = random_scan(random.Random(seed))
    check(target, part, bytes_of(part["inputs"]), bytes_of(part["outputs"]))


def random_sort(rng: random.Random) -> Part:
    rows, cols = some_size(rng, 3000), some_size(rng, 5000)
    k = cols if rng.random() < 0.5 else rng.randint(1, cols)
    dtype = rng.choice(["float32", "bfloat16", "int32", "int64"])
    return {
        "family": "sort",
        "ascending": False,
        "rows": rows,
        "cols": cols,
        "k": k,
        "inputs": [access(dtype, rows * cols)],
        "outputs": [access(dtype, rows * k), access("int64", rows * k)],
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_sort_bytes(target: Any, seed: int) -> None:
    part = random_sort(random.Random(seed))
    check(target, part, bytes_of(part["inputs"]), bytes_of(part["outputs"]))


def test_topk_takes_a_pass_per_eight(target: Any) -> None:
    part: Part = {
        "family": "sort",
        "ascending": False,
        "rows": 128,
        "cols": 1024,
        "inputs": [access("float32", 128 * 1024)],
    }

    def vector_cycles(k: int) -> int:
        outputs = [access("float32", 128 * k), access("int64", 128 * k)]
        return int(cost(target, {**part, "k": k, "outputs": outputs})["counts"]["busy_cycles"]["vector"])

    one, two, four = vector_cycles(8), vector_cycles(16), vector_cycles(32)
    assert 2 * (two - one) <= four - two + 2 * 64
    assert vector_cycles(7) <= one < two < four


@pytest.mark.parametrize(
    ("to_device", "from_device"), [(True, False), (False, True), (True, True)], ids=["to", "from", "between"]
)
@pytest.mark.parametrize("size", [1, 127, 128, 4096, 12_345_677, 1 << 30])
def test_transfer_bytes(target: Any, to_device: bool, from_device: bool, size: int) -> None:
    part = {"family": "transfer", "bytes": size, "to_device": to_device, "from_device": from_device}
    result = check(target, part, size if from_device else 0, size if to_device else 0)
    assert {name: n for name, n in result["counts"]["instructions"].items() if n and name != "dma"} == {}


@pytest.mark.parametrize("name", ["trn1", "trn2", "trn3"])
def test_transfer_runs_at_the_speed_of_the_host_link(name: str) -> None:
    record = torch_trn.target_files.load(name)
    part = {"family": "transfer", "bytes": 1 << 30, "to_device": True, "from_device": False}
    seconds = cost(_C.Target(record), part)["seconds"]
    assert seconds == pytest.approx((1 << 30) / record["device"]["host_bytes_per_second"], rel=0.02)


def random_generic(rng: random.Random) -> Part:
    n = some_size(rng)
    return {
        "family": "generic",
        "inputs": [
            access(rng.choice(DTYPES), rng.choice([n, n, max(1, n // 7), 1]), rng.choice([None, 1]))
            for _ in range(rng.randint(0, 4))
        ],
        "outputs": [access(rng.choice(DTYPES), rng.choice([n, 2 * n + 3, 1])) for _ in range(rng.randint(1, 3))],
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_generic_bytes(target: Any, seed: int) -> None:
    part = random_generic(random.Random(seed))
    check(target, part, bytes_of(part["inputs"]), bytes_of(part["outputs"]))


EMPTY: list[Part] = [
    {
        "family": "copy",
        "elements": 0,
        "src": access("float32", 0),
        "dst": access("float32", 0),
        "transpose": False,
        **MATRICES,
    },
    {
        "family": "index",
        "kind": "gather",
        "num_rows": 0,
        "row_elements": 16,
        "dtype": "float32",
        "index_dtype": "int64",
        "num_indices": 0,
        "base_elements": 0,
        **PICKS,
    },
    {
        "family": "window",
        "kind": "max_pool",
        "in_elements": 0,
        "out_elements": 0,
        "taps": 4,
        "dtype": "float32",
        "indices": False,
        "backward": False,
        **PLANES,
    },
    {
        "family": "box",
        "src_dtype": "float32",
        "dst_dtype": "float32",
        "src_elements": 0,
        "dst_elements": 0,
        "src_offset": 0,
        "dst_offset": 0,
        "axes": [{"size": 0, "from": 1, "to": 1, "reversed": False}],
    },
    {"family": "scan", "rows": 0, "cols": 8, "alu": "add", "inputs": [], "outputs": []},
    {"family": "sort", "ascending": False, "rows": 8, "cols": 0, "k": 0, "inputs": [], "outputs": []},
    {"family": "transfer", "bytes": 0, "to_device": True, "from_device": False},
    {"family": "generic", "inputs": [], "outputs": []},
]


@pytest.mark.parametrize("part", EMPTY, ids=lambda part: part["family"])
def test_nothing_to_do_costs_nothing(target: Any, part: Part) -> None:
    check(target, part, 0, 0)


def test_a_transfer_needs_a_direction(target: Any) -> None:
    part = {"family": "transfer", "bytes": 5, "to_device": False, "from_device": False}
    with pytest.raises(ValueError, match=r"\[transfer\] .* Set to_device, from_device or both\."):
        cost(target, part)


def test_cost_of_a_spec_is_the_sum_over_its_parts(target: Any) -> None:
    rng = random.Random(3)
    spec = [random_copy(rng), random_scan(rng), random_sort(rng)]
    parts = [cost(target, part) for part in spec]
    whole = _C.cost(spec, target)
    for name, amount in whole["counts"].items():
        if isinstance(amount, int):
            assert amount == sum(part["counts"][name] for part in parts)
        else:
            assert all(amount[key] == sum(part["counts"][name].get(key, 0) for part in parts) for key in amount)
    assert whole["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert whole["bound_by"] == max(parts, key=lambda part: part["seconds"])["bound_by"]


def sort_of(rows: int, cols: int, k: int) -> Part:
    return {
        "family": "sort",
        "ascending": False,
        "rows": rows,
        "cols": cols,
        "k": k,
        "inputs": [access("float32", rows * cols)],
        "outputs": [access("float32", rows * k), access("int64", rows * k)],
    }


def test_program_text_lists_buffers_and_instructions(target: Any) -> None:
    text = _C.program_text([sort_of(256, 64, 16)], target)
    assert text.startswith("program sort\n")
    for word in ("hbm ", "sbuf ", "nest ", "loop ", "dma.dma_copy", "vector.max8", "vector.nc_match_replace8"):
        assert word in text


BUFFER = re.compile(r"^  (sbuf|psum) (\S+) (\S+) \[(\d+) x (\d+)\] copies (\d+)$", re.MULTILINE)
TILE = re.compile(r"(\w+)\[([\d :x]+)\]")


@pytest.mark.parametrize("name", ["trn1", "trn2", "trn3", "inf2"])
@pytest.mark.parametrize("seed", SEEDS)
def test_tiles_fit_their_buffers_and_buffers_fit_the_core(name: str, seed: int) -> None:
    record = torch_trn.target_files.load(name)
    rng = random.Random(seed)
    makers = [random_copy, random_index, random_window, random_scan, random_sort, random_generic]
    for make in makers:
        part = make(rng)
        text = _C.program_text([part], _C.Target(record))
        limits, used = {}, {"sbuf": 0, "psum": 0}
        for memory, buffer, dtype, partitions, elements, copies in BUFFER.findall(text):
            used[memory] += BYTES[dtype] * int(elements) * int(copies)
            limits[buffer] = (int(partitions), int(elements))
        assert used["sbuf"] <= record["core"]["sbuf_bytes_per_partition"], part
        assert used["psum"] <= record["core"]["psum_bytes_per_partition"], part
        for line in text.splitlines():
            for buffer, shape in TILE.findall(line) if line.startswith("    ") else []:
                if buffer in limits:
                    sizes = [dim.split(":") for dim in shape.split(" x ")]
                    last = sum((int(size) - 1) * int((stride or ["1"])[0]) for size, *stride in sizes[1:])
                    assert int(sizes[0][0]) <= limits[buffer][0], (part, line)
                    assert last < limits[buffer][1], (part, line)
