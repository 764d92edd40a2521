"""Elements per second of the emulated engines, by instruction and dtype: `python benchmarks/emu_engines.py`."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rows import Row, arguments, emit

from torch_trn.emu import NeuronCore

PARTITIONS, COLUMNS = 128, 2048
CODES = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.uint16, "float8_e5m2": np.uint8}
FUNCTIONS = ("copy", "exp", "log", "tanh", "erf", "sigmoid", "gelu", "sin", "sqrt")


def seconds(call: Callable[[], Any], least: float) -> float:
    """The best of five batches, each at least `least` long."""
    call()
    count, best = 1, float("inf")
    while True:
        start = time.perf_counter()
        for _ in range(count):
            call()
        taken = time.perf_counter() - start
        if taken >= least:
            break
        count *= 2
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def rates(least: float) -> dict[str, float]:
    """Giga elements per second by "instruction dtype"; giga multiply-adds for nc_matmul."""
    result = {}
    for dtype, code in CODES.items():
        core = NeuronCore("trn2")
        a, b, out = (core.sbuf(dtype, PARTITIONS, COLUMNS) for _ in range(3))
        raw = np.random.default_rng(0).uniform(0.5, 1.5, (PARTITIONS, COLUMNS)).astype(np.float32)
        wide = core.sbuf("float32", PARTITIONS, COLUMNS)
        core.load(wide, raw)
        for tile in (a, b):
            core.tensor_copy(tile, wide)
        array = np.zeros((PARTITIONS, COLUMNS), code)
        work: dict[str, Callable[[], Any]] = {
            "load": lambda a=a, x=array, core=core: core.load(a, x),
            "store": lambda a=a, x=array, core=core: core.store(x, a),
            "tensor_copy": lambda a=a, out=out, core=core: core.tensor_copy(out, a),
            "tensor_copy from float32": lambda out=out, wide=wide, core=core: core.tensor_copy(out, wide),
            "tensor_tensor add": lambda a=a, b=b, out=out, core=core: core.tensor_tensor(out, a, b, "add"),
            "tensor_tensor maximum": lambda a=a, b=b, out=out, core=core: core.tensor_tensor(out, a, b, "maximum"),
        }
        for name in FUNCTIONS:
            work[f"activation {name}"] = lambda a=a, out=out, core=core, name=name: core.activation(out, name, a)
        square, turned = a.part(128, 0, 128), out.part(128, 0, 128)
        column = core.sbuf("float32", PARTITIONS, 1)
        core.memset(column, 0.5)
        work |= {
            "tensor_scalar, vectors": lambda a=a, out=out, core=core, v=column: core.tensor_scalar(
                out, a, "multiply", v, op1="add", operand1=v
            ),
            "tensor_reduce add": lambda a=a, core=core, v=column: core.tensor_reduce(v, "add", a, 1),
            "tensor_reduce maximum": lambda a=a, core=core, v=column: core.tensor_reduce(v, "maximum", a, 1),
            "activation_reduce exp": lambda a=a, out=out, core=core, v=column: core.activation_reduce(
                out, "exp", a, "add", v, bias=-1.0
            ),
        }
        if code != np.uint8:  # the DMA engine turns elements of 2 and 4 bytes
            work["dma_transpose 128x128"] = lambda a=square, out=turned, core=core: core.dma_transpose(out, a)
        for name, call in work.items():
            if name != "store":
                core.tensor_copy(a, wide)
            elements = PARTITIONS * (128 if "128x128" in name else COLUMNS)
            result[f"{name} {dtype}"] = elements / seconds(call, least) / 1e9
        psum, stationary = core.psum("float32", 128, 512), a.part(128, 0, 128)
        moving = b.part(128, 0, 512)
        call = lambda core=core, p=psum, s=stationary, m=moving: core.nc_matmul(p, s, m)  # noqa: E731
        result[f"nc_matmul {dtype}"] = 128 * 128 * 512 / seconds(call, least) / 1e9
    return result


def softmax_ratio(rows: int, least: float, columns: int = 1024) -> float:
    """Time of a softmax of [rows, columns], instruction by instruction from HBM to HBM, over CPU's on one thread."""
    core = NeuronCore("trn2")
    x = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    y = np.empty_like(x)
    data, result = core.sbuf("float32", PARTITIONS, columns), core.sbuf("float32", PARTITIONS, columns)
    largest, total, inverse = (core.sbuf("float32", PARTITIONS, 1) for _ in range(3))

    def run() -> None:
        for row in range(0, rows, PARTITIONS):
            core.load(data, x[row : row + PARTITIONS])
            core.tensor_reduce(largest, "maximum", data, 1, negate=True)
            core.activation_reduce(result, "exp", data, "add", total, bias=largest)
            core.reciprocal(inverse, total)
            core.tensor_scalar(result, result, "multiply", inverse)
            core.store(y[row : row + PARTITIONS], result)

    torch.set_num_threads(1)
    eager = torch.from_numpy(x)
    ratio = seconds(run, least) / seconds(lambda: torch.softmax(eager, 1), least)
    assert np.allclose(y, torch.softmax(eager, 1).numpy(), rtol=1e-5)
    return ratio


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--least", type=float, default=0.02, help="seconds of a batch")
        parser.add_argument("--rows", type=int, default=16384, help="of the softmax")

    options = arguments(__doc__, add)
    rows = [Row(f"{name}, G/s", "", f"{rate:.3f}") for name, rate in rates(options.least).items()]
    ratio = softmax_ratio(options.rows, options.least)
    rows.append(Row(f"softmax of [{options.rows}, 1024] by instructions over CPU, one thread", "", f"{ratio:.2f}"))
    emit(rows, options.json)


if __name__ == "__main__":
    main()
