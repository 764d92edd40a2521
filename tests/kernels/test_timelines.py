"""Every family's programs in motion: the work is what was counted, the time within bounds of the closed form's.

The closed form knows no order: it takes each nest's slowest stage, the first tile's way through the others, and DMA
latencies. The timeline schedules every instruction. Below 1: nests overlap, which the closed form adds up. Above 1: a
block waits for all of its loads at once, or a chain of small tiles has fewer copies than stages.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import random_parts as parts
import test_families_b as moving
from random_parts import Part, some_size

import torch_trn.target_files
from torch_trn import _C
from torch_trn.timeline import timeline

TARGETS = ["trn1", "trn2", "trn3", "inf2"]
MOST_INSTRUCTIONS = 50_000


def matmul(rng: random.Random) -> Part:
    dtype = rng.choice(["float32", "bfloat16"])
    batch = rng.choice([1, 1, 4])
    return {
        "family": "matmul",
        "batch": batch,
        "a_batch": batch,
        "b_batch": batch,
        "m": some_size(rng, 4096),
        "n": some_size(rng, 4096),
        "k": some_size(rng, 4096),
        "a_dtype": dtype,
        "b_dtype": dtype,
        "out_dtype": dtype,
        "a_k_major": rng.random() < 0.5,
        "b_k_major": rng.random() < 0.5,
        "bias": [],
        "alpha": 1.0,
        "beta": 1.0,
    }


def pointwise(rng: random.Random) -> Part:
    n, dtype = some_size(rng, 1 << 24), rng.choice(["float32", "bfloat16"])
    steps = [parts.step("activation", function="exp"), parts.step("tensor_scalar", "add")]
    return {
        "family": "pointwise",
        "elements": n,
        "inputs": [parts.access(dtype, n)] * rng.randint(1, 2),
        "outputs": [parts.access(dtype, n)],
        "steps": rng.choices(steps, k=rng.randint(1, 6)),
        "segments": 1,
        "axes": [],
        "repeats": [],
    }


def nll_loss(rng: random.Random) -> Part:
    return {
        "family": "nll_loss",
        "batch": some_size(rng, 4096),
        "classes": some_size(rng, 60_000),
        "positions": rng.choice([1, 1, 20]),
        "dtype": rng.choice(["float32", "bfloat16"]),
        "index_dtype": "int64",
        "weight": rng.random() < 0.5,
        "backward": rng.random() < 0.5,
        "reduction": rng.choice(["none", "mean", "sum"]),
        "ignored": -100.0,
    }


def box(rng: random.Random) -> Part:
    """A dense tensor with its axes in another order, some of them backwards."""
    sizes = [rng.choice([2, 3, 8, 60, 128, 300]) for _ in range(rng.randint(2, 3))]
    strides, stride = [0] * len(sizes), 1
    for axis in rng.sample(range(len(sizes)), len(sizes)):
        strides[axis], stride = stride, stride * sizes[axis]
    dense = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    dtype = rng.choice(["float32", "bfloat16"])
    return {
        "family": "box",
        "src_dtype": dtype,
        "dst_dtype": dtype,
        "src_elements": stride,
        "dst_elements": stride,
        "src_offset": 0,
        "dst_offset": 0,
        "axes": [
            {"size": size, "from": strides[axis], "to": dense[axis], "reversed": rng.random() < 0.3}
            for axis, size in enumerate(sizes)
        ],
    }


def taps(rng: random.Random) -> Part:
    """An axis twice as long, by linear interpolation."""
    size, dtype = rng.randint(2, 600), rng.choice(["float32", "bfloat16"])
    runs = [(0, 0, 0.75), (0, 0, 0.25), (2, 0, 0.25), (2, 1, 0.75)]
    return {
        "family": "taps",
        "outer": some_size(rng, 2000),
        "in": size,
        "out": 2 * size,
        "inner": rng.choice([1, 64, 500]),
        "src_dtype": dtype,
        "dst_dtype": dtype,
        "runs": [
            {"to": to, "to_step": 2, "from": first, "from_step": 1, "count": size - 1, "weight": weight}
            for to, first, weight in runs
        ],
    }


def band(rng: random.Random) -> Part:
    rows, cols = some_size(rng, 4096), some_size(rng, 4096)
    return {
        "family": "band",
        "matrices": rng.choice([1, 4, 300]),
        "rows": rows,
        "cols": cols,
        "least": 0,
        "most": rows - 1,
        "dtype": rng.choice(["float32", "bfloat16"]),
        "has_input": rng.random() < 0.8,
    }


def rank(rng: random.Random) -> Part:
    dtype = rng.choice(["float32", "bfloat16"])
    return {
        "family": "rank",
        "tables": rng.choice([1, 1, 4]),
        "length": some_size(rng, 5000),
        "queries": some_size(rng, 100_000),
        "key_dtype": dtype,
        "query_dtype": dtype,
        "out_dtype": "int64",
        "alu": "less",
        "any": False,
    }


GENERATORS: dict[str, Callable[[random.Random], Part]] = {
    "matmul": matmul,
    "pointwise": pointwise,
    "softmax": lambda rng: parts.softmax(rng, some_size(rng, 8192), some_size(rng, 8192)),
    "norm": lambda rng: parts.norm(
        rng, some_size(rng, 8192), some_size(rng, 4096), rng.choice(["layer", "rms", "group", "batch"])
    ),
    "reduction": lambda rng: parts.reduction(rng, some_size(rng, 4096), some_size(rng, 8192)),
    "attention": lambda rng: parts.attention(rng, 1024),
    "conv": lambda rng: parts.conv(rng, rng.choice(["forward", "input_gradient", "weight_gradient"]), 256, 40),
    "copy": moving.random_copy,
    "index": moving.random_index,
    "window": moving.random_window,
    "taps": taps,
    "band": band,
    "rank": rank,
    "scan": moving.random_scan,
    "sort": moving.random_sort,
    "generic": moving.random_generic,
    "nll_loss": nll_loss,
    "box": box,
}


def cases(family: str, count: int) -> list[tuple[Any, Part, dict[str, Any]]]:
    """Target, part and its cost, of launches that do something and are not too long to walk."""
    rng = random.Random(family)
    loaded = {name: _C.Target(torch_trn.target_files.load(name)) for name in TARGETS}
    found: list[tuple[Any, Part, dict[str, Any]]] = []
    while len(found) < count:
        target, part = loaded[rng.choice(TARGETS)], GENERATORS[family](rng)
        cost = _C.cost([part], target)
        if 0 < sum(cost["counts"]["instructions"].values()) <= MOST_INSTRUCTIONS:
            found.append((target, part, cost))
    return found


def clocks(target: Any) -> dict[str, float]:
    fields = target.to_dict()
    core = fields["core"]
    return {
        "tensor": core["tensor_clock_hz"] * fields["device"]["tensor_efficiency"],
        "vector": core["vector_clock_hz"],
        "scalar": core["scalar_clock_hz"],
        "gpsimd": core["gpsimd_clock_hz"],
    }


@pytest.mark.parametrize("family", GENERATORS)
def test_what_moves_is_what_was_counted(family: str) -> None:
    for target, part, cost in cases(family, 40):
        columns = _C.timeline(part, target)
        start, end, engine = columns["start_seconds"], columns["end_seconds"], columns["engine"]
        counted = cost["counts"]
        for number, name in enumerate(columns["engines"]):
            mine = engine == number
            assert mine.sum() == counted["instructions"][name], (name, part)
            if name in clocks(target):
                cycles = (end[mine] - start[mine]).sum() * clocks(target)[name]
                assert cycles == pytest.approx(counted["busy_cycles"][name], rel=1e-6), (name, part)
        moved = (end - start)[engine == columns["engines"].index("dma")].sum()
        assert moved == pytest.approx(cost["busy_seconds"]["dma"], rel=1e-6), part
        assert columns["seconds"] >= max(columns["busy_seconds"].values()) * (1 - 1e-9)


@pytest.mark.parametrize("family", GENERATORS)
def test_an_engine_does_one_thing_at_a_time(family: str) -> None:
    for target, part, _ in cases(family, 20):
        columns = _C.timeline(part, target)
        dma = columns["engines"].index("dma")
        lanes = np.where(columns["engine"] == dma, -1, columns["core"] * 16 + columns["engine"])
        for lane in np.unique(lanes):
            order = np.argsort(columns["start_seconds"][lanes == lane], kind="stable")
            starts, ends = columns["start_seconds"][lanes == lane][order], columns["end_seconds"][lanes == lane][order]
            assert (starts[1:] >= ends[:-1] - 1e-15).all(), part


def test_the_closed_form_is_within_its_bounds() -> None:
    """Over all families: two of three programs within 10 %, nine of ten from 0.7 to 1.3, all within a factor of 2."""
    ratios = {
        family: [_C.timeline(part, target)["seconds"] / cost["seconds"] for target, part, cost in cases(family, 40)]
        for family in GENERATORS
    }
    every = np.concatenate(list(ratios.values()))
    assert every.min() > 0.5 and every.max() < 2, ratios
    assert np.quantile(every, 0.05) > 0.7 and np.quantile(every, 0.95) < 1.3
    assert np.mean(abs(every - 1) < 0.1) > 0.66
    for family, values in ratios.items():
        assert 0.85 < np.median(values) < 1.1, family


def small_tiles() -> dict[str, Part]:
    """Many trips of little work each: what they wait for is latency."""
    product = matmul(random.Random(0)) | dict.fromkeys(("a_dtype", "b_dtype", "out_dtype"), "float32")
    product |= {"a_k_major": False, "b_k_major": True}
    batches = dict.fromkeys(("batch", "a_batch", "b_batch"), 512)
    tensors = pointwise(random.Random(0)) | {"elements": 1750, "segments": 50, "axes": [], "repeats": []}
    step = {"opcode": "tensor_scalar", "alu": "add", "function": "copy", "scalar": 1.0, "alu1": "none", "scalar1": 1.0}
    tensors["steps"] = [step | {"dst": 96, "a": 1, "b": 0, "c": 0}]
    tensors |= {role: [parts.access("float32", 1750)] for role in ("inputs", "outputs")}
    columns = {
        "family": "index",
        "kind": "gather",
        "num_rows": 2100,
        "row_elements": 1,
        "dtype": "float32",
        "index_dtype": "int64",
        "num_indices": 7,
        "base_elements": 0,
        "table_rows": 64,
        "num_tables": 300,
        "columns": 0,
        "wraps": False,
        "scales": False,
        "axes": [],
    }
    return {
        "products of 8 x 8": product | batches | {"m": 8, "n": 8, "k": 8},
        "a list of tensors": tensors,
        "columns by index": columns,
    }


@pytest.mark.parametrize("name", small_tiles())
@pytest.mark.parametrize("chip", TARGETS)
def test_small_tiles_wait_in_the_closed_form_too(chip: str, name: str) -> None:
    part, target = small_tiles()[name], _C.Target(torch_trn.target_files.load(chip))
    ratio = _C.timeline(part, target)["seconds"] / _C.cost([part], target)["seconds"]
    assert 0.7 < ratio < 1.4, ratio


@pytest.mark.parametrize("name", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("k_major", [True, False])
def test_large_products_keep_the_array_busy(name: str, k_major: bool) -> None:
    """At least 90 % of the time, as real kernels reach; with every instruction on the clock."""
    part = matmul(random.Random(0)) | {"batch": 1, "a_batch": 1, "b_batch": 1, "a_k_major": k_major, "b_k_major": True}
    part |= {"m": 4096, "n": 4096, "k": 4096} | dict.fromkeys(("a_dtype", "b_dtype", "out_dtype"), "bfloat16")
    assert timeline(part, name).busy["tensor"] >= 0.9


def test_a_program_that_is_too_long_to_walk() -> None:
    part = matmul(random.Random(0)) | {"m": 10**6, "n": 10**6, "k": 10**6}
    with pytest.raises(NotImplementedError, match=r"\[timeline\] a program of at most 4000000 instructions"):
        timeline(part)
    with pytest.raises(ValueError, match="field 'm' is required"):
        timeline({name: value for name, value in part.items() if name != "m"})
