"""Random launches of each family, as the spec dicts that `_C.cost` takes."""

import math
import random
from typing import Any

Part = dict[str, Any]

FLOATS = ["float32", "bfloat16", "float16", "float64"]


def some_size(rng: random.Random, largest: int) -> int:
    """Sizes on a log scale, half of them multiples of 128, and now and then 1."""
    size = int(math.exp(rng.uniform(0, math.log(largest))))
    return max(1, size // 128 * 128) if rng.random() < 0.5 else size


def access(dtype: str, elements: int) -> dict[str, Any]:
    return {"dtype": dtype, "elements": elements, "contiguous_elements": elements, "span_elements": 0}


def softmax(rng: random.Random, rows: int, cols: int, **fields: Any) -> Part:
    return {
        "family": "softmax",
        "rows": rows,
        "cols": cols,
        "in_dtype": rng.choice(FLOATS),
        "out_dtype": rng.choice(FLOATS),
        "log": rng.random() < 0.5,
        "backward": rng.random() < 0.5,
        "across_partitions": rng.random() < 0.3,
    } | fields


def norm(rng: random.Random, rows: int, cols: int, kind: str, **fields: Any) -> Part:
    dtype = rng.choice(FLOATS)
    return {
        "family": "norm",
        "kind": kind,
        "rows": rows,
        "cols": cols,
        "channels": cols if kind in ("layer", "rms") else rows,
        "dtype": dtype,
        "parameter_dtype": rng.choice([dtype, "float32"]),
        "weight": rng.random() < 0.7,
        "bias": rng.random() < 0.5 and kind != "rms",
        "backward": rng.random() < 0.5,
        "input_gradient": rng.random() < 0.8,
        "weight_gradient": rng.random() < 0.8,
        "bias_gradient": rng.random() < 0.8 and kind != "rms",
        "training": rng.random() < 0.6,
        "running_statistics": rng.random() < 0.6,
        "spatial": 0,
        "eps": 1e-5,
        "momentum": 0.1,
    } | fields


def step(opcode: str, alu: str = "none", function: str = "copy", scalar: float = 0.0) -> Part:
    named = {"alu1": "none", "scalar1": 1.0, "dst": 0, "a": 0, "b": 0, "c": 0}
    return {"opcode": opcode, "alu": alu, "function": function, "scalar": scalar} | named


def reduction(rng: random.Random, rows: int, cols: int, **fields: Any) -> Part:
    dtype = rng.choice([*FLOATS, "int32", "int64", "bool"])
    alu = rng.choice(["add", "maximum", "minimum", "multiply", "logical_or"])
    outputs = [access(dtype, rows)]
    if alu == "maximum" and rng.random() < 0.5:
        outputs.append(access("int64", rows))
    prologue = [] if rng.random() < 0.6 else [step("tensor_tensor", "multiply")]
    inputs = [access(dtype, rows * cols)] + [access(dtype, rng.choice([1, cols, rows * cols]))] * rng.randint(0, 1)
    return {
        "family": "reduction",
        "rows": rows,
        "cols": cols,
        "across_partitions": rng.random() < 0.4,
        "alu": alu,
        "prologue": prologue,
        "epilogue": [],
        "places": False,
        "variance": False,
        "correction": 0.0,
        "inputs": inputs,
        "outputs": outputs,
    } | fields


def attention(rng: random.Random, longest: int, **fields: Any) -> Part:
    kv_heads = rng.choice([1, 2, 3, 8])
    head_dim = rng.choice([16, 64, 80, 128, 192])
    return {
        "family": "attention",
        "batch": rng.randint(1, 5),
        "heads": kv_heads * rng.choice([1, 1, 4, 7]),
        "kv_heads": kv_heads,
        "q_len": some_size(rng, longest),
        "kv_len": some_size(rng, longest),
        "head_dim": head_dim,
        "value_dim": rng.choice([head_dim, 64]),
        "dtype": rng.choice(FLOATS),
        "causal": rng.random() < 0.5,
        "backward": rng.random() < 0.5,
        "dropout": 0.25 if rng.random() < 0.2 else 0.0,
        "scale": 0.25,
        "mask": [],
        "mask_dtype": "float32",
    } | fields


def conv(rng: random.Random, direction: str, channels: int, size: int, **fields: Any) -> Part:
    axes = rng.choice([1, 2, 2, 3])
    groups = rng.choice([1, 1, 1, 2, 5, 32])
    each_in, each_out = rng.randint(1, max(channels // groups, 1)), rng.randint(1, max(channels // groups, 1))
    if groups == 32 and rng.random() < 0.5:
        each_in = each_out = 1
    kernel = [rng.choice([1, 2, 3, 5]) for _ in range(axes)]
    stride = [rng.choice([1, 1, 2, 3]) for _ in range(axes)]
    padding = [rng.choice([0, 1, k // 2]) for k in kernel]
    dilation = [rng.choice([1, 1, 2]) for _ in range(axes)]
    low = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    most = size if axes < 3 else size // 3
    inputs = [rng.randint(n, max(n, most)) for n in low]
    outputs = [(i + 2 * p - n) // s + 1 for i, p, n, s in zip(inputs, padding, low, stride, strict=True)]
    return {
        "family": "conv",
        "direction": direction,
        "batch": rng.randint(1, 6),
        "in_channels": each_in * groups,
        "out_channels": each_out * groups,
        "groups": groups,
        "in": inputs,
        "out": outputs,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "dtype": rng.choice(FLOATS),
        "bias": rng.random() < 0.5,
    } | fields
