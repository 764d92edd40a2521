"""nll_loss and cross_entropy in hardware numerics, through torch: weights, reductions, spatial targets, gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
SHAPES = [(37,), (200, 37), (3, 37, 50), (2, 5, 20, 30)]


@pytest.fixture(autouse=True)
def hardware() -> Iterator[None]:
    torch.manual_seed(0)
    torch_trn.reference_operators(clear=True)
    with torch_trn.set_numerics("hardware"):
        yield
    assert torch_trn.reference_operators(clear=True) == {}


def case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    classes = shape[0] if len(shape) == 1 else shape[1]
    targets = torch.randint(0, classes, () if len(shape) == 1 else (shape[0], *shape[2:]))
    targets = torch.where(torch.rand(targets.shape) < 0.2, 3, targets) if targets.dim() else targets
    return torch.randn(shape).to(dtype), targets, (torch.rand(classes) + 0.5).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nll_loss_and_its_gradient(shape: tuple[int, ...], reduction: str, dtype: torch.dtype) -> None:
    x, targets, weight = case(shape, dtype)
    for weights, ignored in ((None, -100), (weight, 3)):
        for _ in range(2):
            mine, oracle = (t.detach().requires_grad_() for t in (x.to("trn"), x.double()))
            on_device = None if weights is None else weights.to("trn")
            wide = None if weights is None else weights.double()
            loss = F.nll_loss(mine, targets.to("trn"), on_device, ignore_index=ignored, reduction=reduction)
            exact = F.nll_loss(oracle, targets, wide, ignore_index=ignored, reduction=reduction)
            upstream = torch.randn(exact.shape).to(dtype)
            loss.backward(upstream.to("trn"))
            exact.backward(upstream.double())
            assert mine.grad is not None and oracle.grad is not None
            tolerance = TOLERANCE[dtype]
            scale = max(exact.abs().max().item(), 1)
            torch.testing.assert_close(loss.cpu().double(), exact, rtol=tolerance, atol=tolerance * scale)
            torch.testing.assert_close(mine.grad.cpu().double(), oracle.grad, rtol=2 * tolerance, atol=tolerance)


def test_cross_entropy_of_strided_logits() -> None:
    x, targets, _ = case((3, 37, 50), torch.float32)
    views = (lambda t: t, lambda t: t[:, 3:30], lambda t: t.transpose(1, 2).contiguous().transpose(1, 2))
    targets = targets.clamp_max(26)
    for view in views:
        mine, oracle = (t.detach().requires_grad_() for t in (x.to("trn"), x.double()))
        loss, exact = F.cross_entropy(view(mine), targets.to("trn")), F.cross_entropy(view(oracle), targets)
        loss.backward()
        exact.backward()
        assert mine.grad is not None and oracle.grad is not None
        assert loss.item() == pytest.approx(exact.item(), rel=2e-6)
        torch.testing.assert_close(mine.grad.cpu().double(), oracle.grad, rtol=1e-5, atol=1e-7)


def test_nothing_but_ignored_targets() -> None:
    x, targets = torch.randn(4, 5).to("trn"), torch.full((4,), -100).to("trn")
    for _ in range(2):
        assert F.nll_loss(x, targets).isnan().item()
        assert F.nll_loss(x, targets, reduction="sum").item() == 0


def test_a_target_out_of_range_is_an_error_every_time() -> None:
    x = torch.randn(4, 5).to("trn")
    good, bad = (torch.tensor([0, one, 2, 3]).to("trn") for one in (1, 5))
    F.nll_loss(x, good)
    F.nll_loss(x, good)
    with pytest.raises(IndexError, match=r"Target 5 is out of bounds\."):
        F.nll_loss(x, bad)


@pytest.mark.parametrize("name", ["mse_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_against_a_target_that_repeats(name: str, reduction: str) -> None:
    x, row = torch.rand(6, 10), torch.rand(10)
    mine, oracle = (t.detach().requires_grad_() for t in (x.to("trn"), x.double()))
    loss = getattr(F, name)(mine, row.to("trn").expand(6, 10), reduction=reduction)
    exact = getattr(F, name)(oracle, row.double().expand(6, 10), reduction=reduction)
    loss.sum().backward()
    exact.sum().backward()
    assert mine.grad is not None and oracle.grad is not None
    torch.testing.assert_close(loss.cpu().double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.grad.cpu().double(), oracle.grad, rtol=1e-4, atol=1e-6)
