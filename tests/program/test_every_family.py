"""What runs is what was counted: a thousand random launches of every family, each executed once.

Counts do not depend on values, so that operands are zeros: places of a first row too. A program tells its operands.
"""

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_attention
import test_box
import test_broadcast
import test_by_place
import test_conv
import test_copy
import test_matmul
import test_norm
import test_scan
import test_window
from programs import BYTES, access, load_target, pointwise_part, some_size, step
from test_index import index_part
from test_nll_loss import nll_part
from test_sort import sort_part

from torch_trn import _C

Part = dict[str, Any]

CASES = 1000
TARGETS = ["trn1", "trn2", "trn3", "inf2"]
FLOATS = ["float32", "bfloat16", "float16", "float64"]
BUFFER = re.compile(r"^  hbm \S+ (\w+) \[(\d+)\].*?\b(input|output)\b", re.MULTILINE)


def matmul(rng: random.Random) -> Part:
    return test_matmul.random_part(rng, 140)


def conv(rng: random.Random) -> Part:
    return test_conv.random_part(rng, rng.choice(test_conv.DIRECTIONS), 40, 60)


def attention(rng: random.Random) -> Part:
    part = test_attention.random_part(rng, 150)
    if rng.random() < 0.3:
        extents = [part[name] for name in ("batch", "heads", "q_len", "kv_len")]
        part |= {"causal": False, "mask": [rng.choice([1, extent]) for extent in extents]}
        part["mask_dtype"] = rng.choice([part["dtype"], "float32"])
    return part | {"dropout": 0.0}


def strided(rng: random.Random, dtype: str, elements: int) -> dict[str, Any]:
    """Dense; in runs; or in runs with gaps of one length."""
    run = rng.choice([n for n in (1, 2, 3, 64) if elements % n == 0])
    kind = rng.choice(["dense", "dense", "runs", "gaps"])
    if kind == "dense":
        return access(dtype, elements)
    return access(dtype, elements, run, elements // run * (run + rng.randint(1, 3)) if kind == "gaps" else 0)


def pointwise(rng: random.Random) -> Part:
    if rng.random() < 0.3:
        axes = [rng.choice([2, 3, 5, 64, 127, 129]) for _ in range(rng.randint(1, 3))]
        repeated = [{axis for axis in range(len(axes)) if rng.random() < 0.4} for _ in range(rng.randint(1, 3))]
        dtypes = [rng.choice(FLOATS) for _ in repeated]
        return test_broadcast.broadcast_part(axes, repeated, dtypes, rng.choice(FLOATS), "add")
    segments = rng.choice([1, 1, 1, 2, 7])
    period = some_size(rng, 600) if segments == 1 else 1
    n = period * some_size(rng, max(1, 20_000 // period)) * segments
    narrow = [dtype for dtype in BYTES if BYTES[dtype] < 8 and "8" not in dtype]
    inputs = [strided(rng, rng.choice(narrow), n) for _ in range(rng.randint(1, 2))]
    inputs += [access(rng.choice(FLOATS), few) for few in (1, period) if few < n and rng.random() < 0.4]
    steps = [step("tensor_tensor", rng.choice(["add", "multiply", "maximum"])) for _ in range(len(inputs) - 1)]
    steps += [step("activation", function=rng.choice(["exp", "relu", "square"])) for _ in range(rng.randint(0, 2))]
    steps += [step("tensor_scalar", "add", scalar=1.0)]
    outputs = [strided(rng, rng.choice(narrow), n) for _ in range(rng.randint(1, 2))]
    return pointwise_part(n, inputs, outputs, steps, segments)


def reduction(rng: random.Random) -> Part:
    rows, cols = some_size(rng, 300), some_size(rng, 400)
    if rng.random() < 0.1:
        rows, cols = rng.randint(1, 3), rng.randint(8000, 20_000)
    dtype, kind = rng.choice([*FLOATS, "int32"]), rng.choice(["plain", "plain", "places", "variance"])
    part = {
        "family": "reduction",
        "rows": rows,
        "cols": cols,
        "across_partitions": rng.random() < 0.4,
        "alu": rng.choice(["add", "maximum", "minimum", "multiply"]),
        "prologue": [],
        "epilogue": [],
        "places": kind == "places",
        "variance": kind == "variance",
        "correction": 1.0,
        "inputs": [access(dtype, rows * cols)],
        "outputs": [access(dtype, rows)],
    }
    if kind == "plain":
        if rng.random() < 0.5:
            part["inputs"] *= 2
            part["prologue"] = [step("tensor_tensor", "multiply"), step("activation", function="abs")]
        part["epilogue"] = [step("tensor_scalar", "multiply", scalar=0.5)] if rng.random() < 0.5 else []
        return part
    floats = rng.choice(FLOATS)
    part["inputs"] = [access(floats, rows * cols)]
    part["alu"] = rng.choice(["maximum", "minimum"]) if kind == "places" else "add"
    second = "int64" if kind == "places" else floats
    part["outputs"] = [access(floats, rows), access(second, rows)]
    return part


def softmax(rng: random.Random) -> Part:
    long = rng.random() < 0.05
    dtype = rng.choice(FLOATS)
    return {
        "family": "softmax",
        "rows": rng.randint(1, 3) if long else some_size(rng, 300),
        "cols": rng.randint(20_000, 40_000) if long else some_size(rng, 300),
        "in_dtype": dtype,
        "out_dtype": rng.choice([dtype, "float32"]),
        "log": rng.random() < 0.5,
        "backward": rng.random() < 0.5,
        "across_partitions": rng.random() < 0.3,
    }


def norm(rng: random.Random) -> Part:
    while True:
        part = test_norm.random_part(rng, rng.choice(["layer", "rms", "group", "batch"]), 300)
        if part["rows"] * part["cols"] < 30_000:
            return part


def copy(rng: random.Random) -> Part:
    dtypes = [dtype for dtype in BYTES if "8" not in dtype]
    src = rng.choice(dtypes)
    dst = src if rng.random() < 0.6 else rng.choice(dtypes)
    kind = rng.choice(["strided", "transpose", "broadcast"])
    if kind == "strided":
        n = some_size(rng, 30_000)
        return test_copy.copy_part(strided(rng, src, n), access(dst, n, rng.choice([n, 1])))
    rows, cols, count = some_size(rng, 300), some_size(rng, 200), rng.choice([1, 1, 3])
    n = count * rows * cols
    if kind == "transpose":
        src, dst = rng.choice(test_copy.SMALL), rng.choice(test_copy.SMALL)
        return test_copy.copy_part(access(src, n), access(dst, n), transpose=True, rows=rows, cols=cols)
    return test_copy.copy_part(access(src, count * cols), access(dst, n), repeated_elements=cols)


def box(rng: random.Random) -> Part:
    while True:
        part = test_box.random_box(rng)
        if np.prod([axis["size"] for axis in part["axes"]]) < 30_000:
            return part


def index(rng: random.Random) -> Part:
    kind = rng.choice(["gather", "scatter", "scatter_add"])
    dtype = rng.choice(FLOATS if kind == "scatter_add" else list(BYTES))
    tables, table_rows = rng.choice([1, 1, 3]), some_size(rng, 300)
    form = rng.choice(["rows", "rows", "elements", "axes"])
    if form == "elements":
        columns, picks = rng.choice([1, 2, 50, 129]), some_size(rng, 60)
        n = tables * picks * columns
        part = index_part(kind, n, 1, n, table_rows=table_rows, num_tables=tables, columns=columns)
    else:
        row = rng.choice([2, 5, 64, 128, 129, 513])
        n = some_size(rng, max(1, 30_000 // (row * tables)))
        index_dtype = rng.choice(["int32", "int64"])
        part = index_part(kind, n * tables, row, n, table_rows=table_rows, num_tables=tables, index_dtype=index_dtype)
        part["wraps"] = rng.random() < 0.3
        if form == "axes":
            axes = [rng.randint(1, 9) for _ in range(rng.randint(2, 3))]
            part |= {"axes": axes, "num_indices": n * len(axes), "table_rows": int(np.prod(axes)), "wraps": True}
    if kind != "gather" and rng.random() < 0.5:
        part["base_elements"] = tables * part["table_rows"] * max(part["columns"], 1) * part["row_elements"]
    return part | {"dtype": dtype}


def nll_loss(rng: random.Random) -> Part:
    positions = rng.choice([1, 1, 2, 50, 300])
    return nll_part(
        some_size(rng, max(1, 1000 // positions)),
        some_size(rng, 200),
        positions,
        dtype=rng.choice(FLOATS),
        index_dtype=rng.choice(["int32", "int64"]),
        weight=rng.random() < 0.5,
        backward=rng.random() < 0.5,
        reduction=rng.choice(["none", "mean", "sum"]),
    )


def window(rng: random.Random) -> Part:
    while True:
        part, _ = test_window.random_window(rng, rng.choice(["max_pool", "average_pool"]), rng.random() < 0.5)
        if part["in_elements"] < 30_000:
            return part


def scan(rng: random.Random) -> Part:
    cols = some_size(rng, 400)
    rows, alu = some_size(rng, max(1, 20_000 // cols)), rng.choice(["add", "multiply", "maximum", "minimum"])
    if rng.random() < 0.03:
        rows, cols = 1, rng.randint(20_000, 40_000)
    positions = alu in ("maximum", "minimum") and rng.random() < 0.5
    src = rng.choice([*FLOATS, "int32"])
    return test_scan.scan_part(rows, cols, alu, src, rng.choice([src, "float32"]), positions)


def sort(rng: random.Random) -> Part:
    cols = some_size(rng, 600)
    rows = some_size(rng, max(1, 6000 // cols))
    k = rng.choice([1, 8, 9, 20, cols])
    return sort_part(rows, cols, min(k, cols), rng.choice(FLOATS), rng.random() < 0.5)


def transfer(rng: random.Random) -> Part:
    to_device, from_device = rng.choice([(True, False), (False, True), (True, True)])
    return {
        "family": "transfer",
        "bytes": rng.randint(1, 1 << 30),
        "to_device": to_device,
        "from_device": from_device,
    }


def generic(rng: random.Random) -> Part:
    sizes = [some_size(rng, 50_000) for _ in range(rng.randint(1, 4))]
    operands = [access(rng.choice(list(BYTES)), n, rng.choice([n, 1])) for n in sizes]
    return {"family": "generic", "inputs": operands[1:], "outputs": operands[:1]}


EXECUTED: dict[str, Callable[[random.Random], Part]] = {
    "matmul": matmul,
    "conv": conv,
    "attention": attention,
    "pointwise": pointwise,
    "reduction": reduction,
    "softmax": softmax,
    "norm": norm,
    "copy": copy,
    "box": box,
    "index": index,
    "nll_loss": nll_loss,
    "window": window,
    "taps": lambda rng: test_by_place.random_taps(rng, 10_000),
    "band": test_by_place.random_band,
    "rank": test_by_place.random_rank,
    "scan": scan,
    "sort": sort,
}
# These compute nothing, so that their instructions are walked one by one.
WALKED: dict[str, Callable[[random.Random], Part]] = {"transfer": transfer, "generic": generic}


def test_every_family_is_here() -> None:
    families = {row["family"] for row in _C.op_table()} - {"host"}
    assert families == EXECUTED.keys() | WALKED.keys()


def cases(family: str, generator: Callable[[random.Random], Part]) -> list[tuple[Any, Part]]:
    rng, targets = random.Random(family), [load_target(name) for name in TARGETS]
    return [(rng.choice(targets), generator(rng)) for _ in range(CASES)]


@pytest.mark.parametrize("family", EXECUTED)
def test_executed_counts_are_counted_ones(family: str) -> None:
    for target, part in cases(family, EXECUTED[family]):
        operands: dict[str, list[Any]] = {"input": [], "output": []}
        for dtype, elements, role in BUFFER.findall(_C.program_text([part], target)):
            operands[role].append(np.zeros(int(elements) * BYTES[dtype], np.uint8))
        executed = _C.execute(part, target, operands["input"], operands["output"])
        assert executed == _C.cost([part], target)["counts"], part


@pytest.mark.parametrize("family", WALKED)
def test_walked_instructions_are_counted_ones(family: str) -> None:
    for target, part in cases(family, WALKED[family]):
        counts, columns = _C.cost([part], target)["counts"], _C.timeline(part, target)
        walked = np.bincount(columns["engine"], minlength=len(columns["engines"]))
        assert dict(zip(columns["engines"], walked.tolist(), strict=True)) == counts["instructions"], part
