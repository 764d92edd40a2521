"""Elements per second of the emulated engines, by instruction and dtype: `python benchmarks/emu_engines.py`."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torch_trn.emu import NeuronCore

PARTITIONS, COLUMNS = 128, 2048
DTYPES = ("float32", "bfloat16", "float16", "float8_e5m2")
FUNCTIONS = ("copy", "exp", "log", "tanh", "erf", "sigmoid", "gelu", "sin", "sqrt")


def seconds(call: Callable[[], Any], least: float = 0.1) -> float:
    """The best of five batches, each at least `least` / 5 long."""
    call()
    count, best = 1, float("inf")
    while True:
        start = time.perf_counter()
        for _ in range(count):
            call()
        taken = time.perf_counter() - start
        if taken >= least / 5:
            break
        count *= 2
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def rates() -> dict[str, float]:
    """Giga elements per second by "instruction dtype"; giga multiply-adds for nc_matmul."""
    result = {}
    for dtype in DTYPES:
        core = NeuronCore("trn2")
        a, b, out = (core.sbuf(dtype, PARTITIONS, COLUMNS) for _ in range(3))
        raw = np.random.default_rng(0).uniform(0.5, 1.5, (PARTITIONS, COLUMNS)).astype(np.float32)
        wide = core.sbuf("float32", PARTITIONS, COLUMNS)
        core.load(wide, raw)
        for tile in (a, b):
            core.tensor_copy(tile, wide)
        codes = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.uint16, "float8_e5m2": np.uint8}[dtype]
        array = np.zeros((PARTITIONS, COLUMNS), codes)
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
            "dma_transpose 128x128": lambda a=square, out=turned, core=core: core.dma_transpose(out, a),
        }
        for name, call in work.items():
            if name != "store":
                core.tensor_copy(a, wide)
            elements = PARTITIONS * (128 if "128x128" in name else COLUMNS)
            result[f"{name} {dtype}"] = elements / seconds(call) / 1e9
        psum, stationary = core.psum("float32", 128, 512), a.part(128, 0, 128)
        moving = b.part(128, 0, 512)
        call = lambda core=core, p=psum, s=stationary, m=moving: core.nc_matmul(p, s, m)  # noqa: E731
        result[f"nc_matmul {dtype}"] = 128 * 128 * 512 / seconds(call) / 1e9
    return result


def softmax_ratio(rows: int = 16384, columns: int = 1024) -> float:
    """Time of a softmax of 16M elements, instruction by instruction from HBM to HBM, over CPU eager's on one thread."""
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
    ratio = seconds(run) / seconds(lambda: torch.softmax(eager, 1))
    assert np.allclose(y, torch.softmax(eager, 1).numpy(), rtol=1e-5)
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="also write the rates to this file")
    parser.add_argument("--before", help="a file written by --json, for the ratios")
    options = parser.parse_args()
    found = rates()
    before = {}
    if options.before:
        with open(options.before, encoding="utf-8") as file:
            before = json.load(file)
    for name, rate in found.items():
        ratio = f"{rate / before[name]:8.1f}x" if name in before else ""
        print(f"{name:40s} {rate:8.3f} G/s {ratio}")
    print(f"{'softmax of 16M over CPU eager':40s} {softmax_ratio():8.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
