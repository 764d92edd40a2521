"""softmax and log_softmax as programs, executed instruction by instruction, against float64."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from programs import EPSILON, empty, from_device, load_target, run, some_size, to_device

from torch_trn import _C


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def target(request: pytest.FixtureRequest) -> Any:
    return load_target(request.param)


def softmax_part(rows: int, cols: int, dtype: str, out: str, **fields: bool) -> dict[str, Any]:
    part: dict[str, Any] = {"family": "softmax", "rows": rows, "cols": cols, "in_dtype": dtype, "out_dtype": out}
    return part | {"log": False, "backward": False, "across_partitions": False} | fields


def as_rows(values: torch.Tensor, across: bool) -> np.ndarray[Any, Any]:
    return (values.T if across else values).contiguous().numpy()


def forward(part: dict[str, Any], target: Any, x: torch.Tensor) -> torch.Tensor:
    rows, cols, out = part["rows"], part["cols"], part["out_dtype"]
    result = empty(rows * cols, out)
    run(part, target, [to_device(as_rows(x, part["across_partitions"]), part["in_dtype"])], [result])
    values = torch.from_numpy(from_device(result, out))
    return values.reshape(cols, rows).T if part["across_partitions"] else values.reshape(rows, cols)


def backward(part: dict[str, Any], target: Any, grad: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    rows, cols, out = part["rows"], part["cols"], part["out_dtype"]
    result = empty(rows * cols, out)
    inputs = [to_device(as_rows(t, part["across_partitions"]), part["in_dtype"]) for t in (grad, y)]
    run(part, target, inputs, [result])
    values = torch.from_numpy(from_device(result, out))
    return values.reshape(cols, rows).T if part["across_partitions"] else values.reshape(rows, cols)


def rounded(values: torch.Tensor, dtype: str) -> torch.Tensor:
    return values.to(getattr(torch, dtype)).to(torch.float64)


def some_case(seed: int, largest_cols: int = 1200) -> tuple[random.Random, int, int, str, bool, bool]:
    rng = random.Random(seed)
    rows, cols = some_size(rng, 700), some_size(rng, largest_cols)
    if rng.random() < 0.1:
        rows, cols = rng.randint(1, 5), rng.randint(5_000, 60_000)  # chunks of a row
    elif rng.random() < 0.2:
        rows, cols = rng.randint(8_000, 60_000), rng.randint(1, 24)  # classes of an image's pixels
    return rng, rows, cols, rng.choice(["float32", "bfloat16", "float16"]), rng.random() < 0.5, rng.random() < 0.3


@pytest.mark.parametrize("seed", range(100))
def test_forward(target: Any, seed: int) -> None:
    rng, rows, cols, dtype, log, across = some_case(seed)
    out = rng.choice([dtype, "float32"])
    generator = torch.Generator().manual_seed(seed)
    x = rounded(torch.randn(rows, cols, generator=generator, dtype=torch.float64) * rng.choice([1, 10]), dtype)
    part = softmax_part(rows, cols, dtype, out, log=log, across_partitions=across)
    result = forward(part, target, x)
    exact = (torch.log_softmax if log else torch.softmax)(x, 1)
    # exp's argument is rounded to fp32 (x up to 60) and its sum grows by one rounding per element in 64 partial sums.
    relative = 2**-23 * (x.abs().max().item() + 16 + cols / 64) + EPSILON[out]
    bound = (exact.abs() + 1) * relative if log else exact * relative + 2**-25 * (out == "float16") + 1e-38
    assert ((result - exact).abs() <= bound).all(), (part, (result - exact).abs().max())


@pytest.mark.parametrize("seed", range(100))
def test_backward(target: Any, seed: int) -> None:
    rng, rows, cols, dtype, log, across = some_case(seed)
    out = rng.choice([dtype, "float32"])
    generator = torch.Generator().manual_seed(seed)
    x, grad = torch.randn(2, rows, cols, generator=generator, dtype=torch.float64)
    y = rounded((torch.log_softmax if log else torch.softmax)(x, 1), dtype)
    grad = rounded(grad, dtype)
    result = backward(
        softmax_part(rows, cols, dtype, out, log=log, backward=True, across_partitions=across), target, grad, y
    )
    sums = grad.sum(1, keepdim=True) if log else (grad * y).sum(1, keepdim=True)
    terms = (grad.abs() if log else (grad * y).abs()).sum(1, keepdim=True)
    exact = grad - y.exp() * sums if log else (grad - sums) * y
    scale = grad.abs() + y.exp() * terms if log else (grad.abs() + terms) * y
    relative = 2**-23 * (y.abs().max().item() + 16 + cols / 64)
    bound = scale * relative + exact.abs() * EPSILON[out] + 2**-25 * (out == "float16") + 1e-38
    assert ((result - exact).abs() <= bound).all(), (result - exact).abs().max()


def with_special_values(cols: int) -> torch.Tensor:
    x = torch.zeros(6, cols, dtype=torch.float64)
    x[0] = -torch.inf
    x[1, 1] = torch.inf
    x[2, 2] = torch.nan
    x[3, 3:] = -torch.inf
    x[4] = -1e38
    return x


@pytest.mark.parametrize("cols", [5, 40_000])
def test_special_values(target: Any, cols: int) -> None:
    x = with_special_values(cols)
    for log in (False, True):
        result = forward(softmax_part(6, cols, "float32", "float32", log=log), target, x)
        expected = (torch.log_softmax if log else torch.softmax)(x.float(), 1).double()
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("log", [False, True])
def test_special_values_across_partitions(target: Any, log: bool) -> None:
    x = with_special_values(5).repeat(4_000, 1)
    result = forward(softmax_part(*x.shape, "float32", "float32", log=log, across_partitions=True), target, x)
    expected = (torch.log_softmax if log else torch.softmax)(x.float(), 1).double()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("cols", [2, 21])
def test_a_short_outer_axis_takes_a_small_multiple_of_its_bytes(
    target: Any, cols: int, log: bool, backward: bool
) -> None:
    """The classes of an image's pixels, [1, cols, 1024, 1024]."""
    part = softmax_part(1 << 20, cols, "float32", "float32", log=log, backward=backward, across_partitions=True)
    seconds = (3 if backward else 2) * cols * 4 * (1 << 20) / target.device.hbm_bytes_per_second
    assert _C.cost([part], target)["seconds"] < 6 * seconds


def test_threads(target: Any) -> None:
    for seed in range(6):
        _rng, rows, cols, dtype, log, across = some_case(seed)
        part = softmax_part(rows, cols, dtype, dtype, log=log, across_partitions=across)
        x = to_device(np.random.default_rng(seed).standard_normal(rows * cols), dtype)
        results = []
        for num_threads in (1, 3):
            result = empty(rows * cols, dtype)
            counts = _C.execute(part, target, [x], [result], num_threads=num_threads)
            assert counts == _C.cost([part], target)["counts"]
            results.append(result.tobytes())
        assert results[0] == results[1], part
