"""Functions at the ends of their ranges in hardware numerics, as docs/numerics.md has it; float64 is the oracle."""

import pytest
import torch
from torch.nn import functional as F

import torch_trn

pytestmark = pytest.mark.usefixtures("hardware")
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("name", ["sin", "cos"])
@pytest.mark.parametrize(("largest", "error"), [(1e5, 5e-7), (3e5, 5e-6), (1e6, 0.04)])
def test_the_reduction_of_angles(name: str, largest: float, error: float) -> None:
    x = torch.linspace(-largest, largest, 100_001)
    got = getattr(torch, name)(x.to("trn")).cpu().double()
    assert (got - getattr(torch, name)(x.double())).abs().max() < error


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_waves_of_large_angles_are_bounded(name: str) -> None:
    x = torch.tensor([1e6, -1e7, 3e8, 1e10, -1e10, 1e15, 1e20, -1e20, 1e30, 3e38])
    assert (getattr(torch, name)(x.to("trn")).cpu().abs() <= 1).all()
    assert getattr(torch, name)(torch.tensor([INF, -INF, NAN]).to("trn")).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_products_of_nothing(dtype: torch.dtype) -> None:
    """An expert without tokens has a gradient: factors with no inner axis leave zeros, or what they are added to."""

    def results(device: str) -> list[torch.Tensor]:
        left, right = torch.ones(3, 0, dtype=dtype, device=device), torch.ones(0, 4, dtype=dtype, device=device)
        row = torch.arange(4).to(dtype).to(device)
        ones = torch.ones(3, 2, dtype=dtype, device=device), torch.ones(2, 4, dtype=dtype, device=device)
        products = [left @ right, left @ right[:, 0], right[:, 0] @ left[0], torch.bmm(left[None], right[None])]
        sums = [torch.addmm(added, left, right, beta=2) for added in (row, row[:3, None])]
        scaled = [torch.addmm(row, *ones, alpha=0, beta=3), torch.addmm(row, left, right, beta=0)]
        return [
            *products,
            *sums,
            *scaled,
            torch.baddbmm(row.expand(2, 3, 4), left.expand(2, 3, 0), right[None].expand(2, 0, 4)),
        ]

    for expected, got in zip(results("cpu"), results("trn"), strict=True):
        assert torch.equal(got.cpu(), expected)
    assert torch_trn.reference_operators() == {}


def test_functions_near_their_ends() -> None:
    def at(function: object, *values: float) -> list[float]:
        return function(torch.tensor(values).to("trn")).cpu().tolist()  # type: ignore[operator,no-any-return]

    assert all(value != value for value in at(torch.acosh, 0.5, -1.0, -1000.0, -3000.0))
    assert at(torch.acosh, -1e4, 1.9e19) == [-INF, INF] and at(torch.acosh, 1.8e19) == [pytest.approx(45.03, rel=1e-4)]
    assert at(torch.asinh, 1.71e38) == [INF] and at(torch.asinh, 1.6e38) == [pytest.approx(88.6614, rel=1e-4)]
    assert at(torch.sinh, 88.73, -88.73) == [INF, -INF] and at(torch.cosh, 88.73) == [INF]
    assert at(torch.cosh, 88.7) == [pytest.approx(1.662988e38, rel=1e-4)]
    assert at(torch.lgamma, -1e-20) == [pytest.approx(46.0517, rel=1e-5)] and at(torch.lgamma, -1e-23) == [INF]
    assert at(F.elu, -1e-10) == at(F.selu, -1e-10) == at(F.celu, -1e-10) == [0]
    x = torch.linspace(-2, 0, 100_001)
    assert (F.elu(x.to("trn")).cpu().double() - F.elu(x.double())).abs().max() < 6e-8
    assert at(F.logsigmoid, 17.0) == [0] and at(F.logsigmoid, 16.0)[0] < 0
    assert at(torch.signbit, -0.0, -1.0, NAN, -NAN) == [False, True, False, False]
