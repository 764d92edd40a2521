"""Cumulative operators and sorting by their programs: values against the CPU in any layout, and nothing left out."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import torch_trn

Tensor = torch.Tensor
EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


pytestmark = pytest.mark.usefixtures("hardware")


def runs(function: Callable[..., Any], *arguments: Tensor) -> Iterator[Any]:
    """Three launches: the first computes for the layout, the others do not."""
    for _ in range(3):
        on_device = [a.to("trn") for a in arguments]
        torch_trn.reference_operators(clear=True)
        yield function(*on_device)
        assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_sums(dtype: torch.dtype) -> None:
    x = torch.randn(20, 70, 33).to(dtype)
    for dim in range(3):
        exact, magnitude = x.double().cumsum(dim), x.double().abs().cumsum(dim)
        for out in runs(lambda x: x.cumsum(dim), x):  # noqa: B023
            assert ((out.cpu().double() - exact).abs() <= (70 * 2.0**-24 + EPSILON[dtype]) * magnitude).all()
    transposed = x[0].t()[::2]
    for out in runs(lambda x: x.cumsum(0), transposed):
        torch.testing.assert_close(out.cpu().float(), transposed.float().cumsum(0), rtol=2e-2, atol=1e-1)
    for out in runs(lambda x: x[3].cumprod(0).cumsum_(-1), x):
        assert out.shape == (70, 33)


def test_running_counts() -> None:
    mask = torch.randint(0, 2, (9, 400)).bool()
    for out in runs(lambda x: x.cumsum(1), mask):
        assert torch.equal(out.cpu(), mask.cumsum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_running_extremes(dtype: torch.dtype) -> None:
    x = torch.randint(-50, 50, (30, 200)).to(dtype)
    for function in (torch.cummax, torch.cummin):
        for dim in (0, 1):
            expected = function(x, dim)
            for values, places in runs(lambda x: function(x, dim), x):  # noqa: B023
                assert torch.equal(values.cpu(), expected[0]) and torch.equal(places.cpu(), expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_sorting(dtype: torch.dtype) -> None:
    x = torch.randint(-500, 500, (6, 300, 40)).to(dtype)
    for dim in range(3):
        for descending in (False, True):
            expected = x.sort(dim, descending=descending).values
            for values, places in runs(lambda x: x.sort(dim, descending=descending), x):  # noqa: B023
                assert torch.equal(values.cpu(), expected)
                assert torch.equal(x.gather(dim, places.cpu()), expected)
    for places in runs(lambda x: x[0, :, 0].argsort(), x):
        assert torch.equal(x[0, :, 0][places.cpu()], x[0, :, 0].sort().values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_few(dtype: torch.dtype) -> None:
    x = torch.randn(50, 600).to(dtype)
    for dim, k, largest in ((1, 5, True), (0, 7, False), (-1, 40, True)):
        expected = x.topk(k, dim, largest).values
        for values, places in runs(lambda x: x.topk(k, dim, largest), x):  # noqa: B023
            assert torch.equal(values.cpu(), expected)
            assert torch.equal(x.gather(dim, places.cpu()), expected)


def test_the_first_of_equals_comes_first() -> None:
    x = torch.randint(0, 3, (40, 30))
    for descending in (False, True):
        expected = x.sort(stable=True, descending=descending).indices
        for _, places in runs(lambda x: x.sort(stable=True, descending=descending), x):  # noqa: B023
            assert torch.equal(places.cpu(), expected)


def test_gradients() -> None:
    x, gradient = torch.randn(20, 50), torch.randint(-3, 3, (20, 4)).float()

    def backward(x: Tensor, gradient: Tensor) -> Tensor:
        x.requires_grad_()
        x.topk(4).values.backward(gradient)
        assert x.grad is not None
        return x.grad

    expected = backward(x.clone(), gradient)
    assert torch.equal(backward(x.to("trn"), gradient.to("trn")).cpu(), expected)
    torch.testing.assert_close(x.to("trn").cumsum(1).flip(1).cpu(), x.cumsum(1).flip(1))


def test_what_has_no_program_is_listed() -> None:
    x = torch.tensor([1.0, float("nan"), float("-inf")], device="trn")
    torch_trn.reference_operators(clear=True)
    x.topk(2)
    torch.zeros(2, 5000, device="trn").sort(stable=True)
    assert set(torch_trn.reference_operators(clear=True)) >= {"topk", "sort.stable"}
