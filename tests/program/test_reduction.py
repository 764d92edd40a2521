"""Reductions as programs, executed instruction by instruction, against float64 torch."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import EPSILON, access, empty, from_device, load_target, run, some_size, step, to_device

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
        "inputs": [access(dtype, rows * cols)],
        "outputs": [access(out, rows)],
    }
    return part | fields


def some_extents(rng: random.Random) -> tuple[int, int]:
    shape = rng.random()
    if shape < 0.2:  # few long rows: spread over the partitions
        return rng.randint(1, 4), rng.randint(8_000, 300_000)
    if shape < 0.3:  # chunks of a row
        return rng.randint(65, 70), rng.randint(20_000, 40_000)
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
@pytest.mark.parametrize("shape", [(3, 40_000), (200, 30), (70, 30_000)])
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
