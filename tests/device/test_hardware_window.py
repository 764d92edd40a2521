"""Pooling by its programs, forward and backward: values against the CPU in any layout, and nothing left out."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_trn

Tensor = torch.Tensor


pytestmark = pytest.mark.usefixtures("hardware")


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max_resnet": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_dilated": lambda x: F.max_pool2d(x, 2, 2, 1, 2, ceil_mode=True),
    "average": lambda x: F.avg_pool2d(x, 2),
    "average_overlapping": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average_without_padding": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False),
    "average_ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average_divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (4, 8)),
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, (8, 4)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_exact": lambda x: F.interpolate(x, scale_factor=3, mode="nearest-exact"),
    "nearest_size": lambda x: F.interpolate(x, size=[3 * n for n in x.shape[2:]]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_forward_and_backward(name: str, dtype: torch.dtype) -> None:
    """A few fp32 roundings, and one to the type."""
    function = POOLS[name]
    x = torch.randn(3, 50, 16, 24).to(dtype)
    layouts: list[Callable[[Tensor], Tensor]] = [
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[..., ::2, 8:],
        lambda x: x[0].transpose(1, 2),
    ]
    for layout in layouts:
        exact = layout(x).double().requires_grad_()
        expected = function(exact)
        gradient = torch.randn(expected.shape).to(dtype)
        (expected_gradient,) = torch.autograd.grad(expected, exact, gradient.double())
        for _ in range(2):  # the first launch computes for the layout, the second does not
            given = layout(x.to("trn")).detach().requires_grad_()
            torch_trn.reference_operators(clear=True)
            out = function(given)
            (got_gradient,) = torch.autograd.grad(out, given, gradient.to("trn"))
            assert torch_trn.reference_operators() == {}
            bound = 2**-7 if dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(out.cpu().double(), expected.detach(), rtol=bound, atol=1e-6)
            torch.testing.assert_close(got_gradient.cpu().double(), expected_gradient, rtol=bound, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: F.max_pool2d(x, 9, 1, 4), (1, 3, 64, 64)),
        (lambda x: F.avg_pool2d(x, 5, 1, 2), (1, 2, 53, 60)),
        (lambda x: F.avg_pool2d(x, 5, 1, 2, count_include_pad=False), (1, 2, 53, 60)),
        (lambda x: F.max_pool1d(x, 33, 1, 16), (2, 1, 4096)),
        (lambda x: F.max_pool2d(x, (40, 50), 1), (1, 1, 90, 90)),
    ],
)
def test_windows_that_overlap_more_than_an_instruction_reads(
    function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> None:
    x = torch.randint(-40, 40, shape).float()
    results = []
    for device in ("cpu", "trn"):
        leaf = x.clone().to(device).requires_grad_()
        torch_trn.reference_operators(clear=True)
        out = function(leaf)
        out.backward(torch.ones_like(out))
        assert leaf.grad is not None
        results.append((out.detach().cpu(), leaf.grad.cpu()))
    assert torch_trn.reference_operators(clear=True) == {}
    torch.testing.assert_close(results[1], results[0])


def test_a_small_network_learns_as_on_the_cpu() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 4)
    )
    x = torch.randn(5, 3, 16, 16)
    model(x).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.to("trn")
    model(x.to("trn")).square().mean().backward()
    got = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_what_has_no_program_is_listed() -> None:
    x = torch.randn(2, 3, 8, 8, device="trn")
    torch_trn.reference_operators(clear=True)
    F.max_pool2d(x.masked_fill(x > 1, float("nan")), 2)
    F.adaptive_max_pool2d(x, 3)
    F.interpolate(x, scale_factor=2)
    assert set(torch_trn.reference_operators(clear=True)) == {"max_pool2d_with_indices"}


def test_unpooling() -> None:
    x, gradient = torch.randn(3, 50, 16, 24), torch.randn(3, 50, 16, 24)
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    expected = F.max_unpool2d(pooled, places, 2)
    torch_trn.reference_operators(clear=True)
    for _ in range(2):
        given = pooled.to("trn").requires_grad_()
        out = F.max_unpool2d(given, places.to("trn"), 2)
        out.backward(gradient.to("trn"))
        assert given.grad is not None
        assert torch.equal(out.cpu(), expected)
        assert torch.equal(given.grad.cpu(), gradient.flatten(2).gather(2, places.flatten(2)).view_as(pooled))
    assert torch_trn.reference_operators(clear=True) == {}
