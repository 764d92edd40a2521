"""Softmax and reductions in hardware numerics, through torch: layouts, dtypes, backward; against float64 on the CPU."""

import pytest
import torch

import torch_trn

REDUCTIONS = ["sum", "mean", "amax", "amin", "any", "all", "count_nonzero", "nansum", "norm"]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float64: 2e-6}
DTYPES = [*TOLERANCE, torch.int32, torch.bool]


pytestmark = pytest.mark.usefixtures("hardware")


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    return [x, x.transpose(0, 2), x[:, ::2], x[:1].expand(3, -1, -1)]


def reduce(name: str, x: torch.Tensor, dim: object) -> torch.Tensor:
    function = torch.linalg.vector_norm if name == "norm" else getattr(torch, name)
    return function(x) if dim is None else function(x, dim=dim)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [None, 0, 1, 2, (0, 2), (1, 2)])
def test_reductions(name: str, dtype: torch.dtype, dim: object) -> None:
    if name in ("mean", "norm") and not dtype.is_floating_point:
        pytest.skip("floating-point only")
    x = torch.randn(4, 70, 130, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    for value in layouts(x):
        result = reduce(name, value.to("trn"), dim).cpu()
        exact = reduce(name, value.double() if dtype.is_floating_point else value, dim)
        assert result.dtype == reduce(name, value, dim).dtype
        if result.dtype.is_floating_point:
            scale = value.double().abs().sum() / (value.numel() if name == "mean" else result.numel())
            assert torch.allclose(result.double(), exact, rtol=TOLERANCE[dtype], atol=1e-6 * scale.item())
        else:
            assert torch.equal(result, exact)
    assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_softmax_and_its_backward(log: bool, dtype: torch.dtype, dim: int) -> None:
    function = torch.log_softmax if log else torch.softmax
    x, grad = torch.randn(2, 4, 70, 130, generator=torch.Generator().manual_seed(1)).to(dtype)
    for value, upstream in zip(layouts(x), layouts(grad), strict=True):
        mine, oracle = (t.detach().requires_grad_() for t in (value.to("trn"), value.double()))
        result, exact = function(mine, dim), function(oracle, dim)
        result.backward(upstream.to("trn"))
        exact.backward(upstream.double())
        bound = 4 * TOLERANCE[dtype]
        assert torch.allclose(result.cpu().double(), exact, rtol=bound, atol=bound)
        assert torch.allclose(mine.grad.cpu().double(), oracle.grad, rtol=bound, atol=bound * (8 if log else 1))
    assert torch_trn.reference_operators() == {}


def test_losses_and_norms() -> None:
    x, y = torch.randn(2, 50, 60, generator=torch.Generator().manual_seed(2))
    for reduction in ("mean", "sum"):
        loss = torch.nn.functional.mse_loss(x.to("trn"), y.to("trn"), reduction=reduction)
        exact = torch.nn.functional.mse_loss(x.double(), y.double(), reduction=reduction)
        assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for p in (0, 1, 2, 3, 0.5, float("inf"), -float("inf")):
        norm = torch.linalg.vector_norm(x.to("trn"), p, dim=1).cpu()
        # A power is the exponential of a logarithm: fp32's error times the exponent's.
        assert torch.allclose(norm.double(), torch.linalg.vector_norm(x.double(), p, dim=1), rtol=2e-5)
    assert torch_trn.reference_operators() == {}
