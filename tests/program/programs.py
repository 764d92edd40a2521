"""Specs, arrays of the device's dtypes and closed forms that the program tests share."""

import random
from typing import Any

import numpy as np
import torch

from torch_trn import _C, target_files

Array = np.ndarray[Any, Any]

BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "bool": 1,
}
# Relative rounding of one store.
EPSILON = {"float32": 2**-24, "bfloat16": 2**-8, "float16": 2**-11, "float64": 2**-24}


def load_target(name: str) -> Any:
    return _C.Target(target_files.load(name))


def to_device(values: Array, dtype: str) -> Array:
    """The bytes of `values` in a dtype, rounded to nearest even by torch; an oracle of its own."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype))
    return tensor.flatten().view(torch.uint8).numpy().copy() if tensor.numel() else np.empty(0, np.uint8)


def from_device(stored: Array, dtype: str) -> Array:
    """float64 values of stored bytes."""
    return torch.from_numpy(stored).view(getattr(torch, dtype)).to(torch.float64).numpy()


def empty(elements: int, dtype: str) -> Array:
    """Room for a result, filled with ones so that unwritten elements show."""
    return np.full(elements * BYTES[dtype], 0xFF, dtype=np.uint8)


def access(dtype: str, elements: int, contiguous: int | None = None, span: int = 0) -> dict[str, Any]:
    run = contiguous or elements
    return {"dtype": dtype, "elements": elements, "contiguous_elements": run, "span_elements": span}


def matmul_part(m: int, n: int, k: int, dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    part: dict[str, Any] = {
        "family": "matmul",
        "batch": 1,
        "m": m,
        "n": n,
        "k": k,
        "a_dtype": dtype,
        "b_dtype": dtype,
        "out_dtype": dtype,
        "a_k_major": False,
        "b_k_major": True,
        "bias": [],
        "alpha": 1.0,
        "beta": 1.0,
    }
    part.update(fields)
    part.setdefault("a_batch", part["batch"])
    part.setdefault("b_batch", part["batch"])
    return part


def step(opcode: str, alu: str = "none", function: str = "copy", scalar: float = 0.0) -> dict[str, Any]:
    named = {"alu1": "none", "scalar1": 1.0, "dst": 0, "a": 0, "b": 0, "c": 0}
    return {"opcode": opcode, "alu": alu, "function": function, "scalar": scalar} | named


def pointwise_part(
    elements: int,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    segments: int = 1,
) -> dict[str, Any]:
    return {
        "family": "pointwise",
        "elements": elements,
        "inputs": inputs,
        "outputs": outputs,
        "steps": steps,
        "segments": segments,
        "axes": [],
        "repeats": [],
    }


def run(part: dict[str, Any], target: Any, inputs: list[Array], outputs: list[Array]) -> dict[str, Any]:
    """Executes, and demands that what ran is what was counted."""
    executed = _C.execute(part, target, inputs, outputs)
    counted = _C.cost([part], target)["counts"]
    assert executed == counted, part
    return dict(counted)


def some_size(rng: random.Random, largest: int) -> int:
    """Sizes on both sides of the tiles' edges."""
    near = rng.choice([1, 2, 127, 128, 129, 256, 384, 511, 512, 513])
    return min(largest, near) if rng.random() < 0.5 else rng.randint(1, largest)
