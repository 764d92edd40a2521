"""Fake quantization by its programs: values of the grid as the CPU has them, gradients against the CPU's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.ao.quantization import FusedMovingAvgObsFakeQuantize, MovingAveragePerChannelMinMaxObserver

import torch_trn

Tensor = torch.Tensor

pytestmark = pytest.mark.usefixtures("hardware")

X = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0)) * 3
SCALE = torch.linspace(0.02, 0.3, 6)
ZERO = torch.tensor([0, 3, -2, 7, 1, 0], dtype=torch.int32)
FORMS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]] = {
    "tensor": lambda x, on: torch.fake_quantize_per_tensor_affine(x, 0.07, 3, -128, 127),
    "tensor_of_tensors": lambda x, on: torch.fake_quantize_per_tensor_affine(x, on(SCALE[3]), on(ZERO[1]), 0, 63),
    "channels": lambda x, on: torch.fake_quantize_per_channel_affine(x, on(SCALE), on(ZERO), 1, -8, 7),
    "channels_of_floats": lambda x, on: torch.fake_quantize_per_channel_affine(x, on(SCALE), on(ZERO + 0.3), 1, -8, 7),
}


@pytest.mark.parametrize("name", FORMS)
def test_fake_quantize(name: str) -> None:
    def run(device: str) -> list[Tensor]:
        x = X.to(device).requires_grad_()
        out = FORMS[name](x, lambda t: t.to(device))
        return [out.detach().cpu(), torch.autograd.grad(out.square().sum(), x)[0].cpu()]

    expected = run("cpu")
    for _ in range(2):
        torch_trn.reference_operators(clear=True)
        for got, exact in zip(run("trn"), expected, strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6)
        assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("by_channel", [False, True])
def test_learnt_grids(by_channel: bool) -> None:
    def run(device: str) -> list[Tensor]:
        count = 6 if by_channel else 1
        leaves = [t.to(device).requires_grad_() for t in (X, SCALE[:count], ZERO[:count] + 0.4)]
        function = getattr(torch, f"_fake_quantize_learnable_per_{'channel' if by_channel else 'tensor'}_affine")
        out = function(*leaves, *((1,) if by_channel else ()), -8, 7, 0.5)
        return [t.detach().cpu() for t in (out, *torch.autograd.grad(out.square().sum(), leaves))]

    expected = run("cpu")
    for _ in range(2):
        torch_trn.reference_operators(clear=True)
        for got, exact in zip(run("trn"), expected, strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())
        assert torch_trn.reference_operators() == {}


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_observer_sets_the_grid(symmetric: bool, by_channel: bool) -> None:
    """Moving averages, scale and zero over several batches; then without the observer, and without either."""
    kind = "channel" if by_channel else "tensor"
    options: dict[str, Any] = {"qscheme": getattr(torch, f"per_{kind}_{'symmetric' if symmetric else 'affine'}")}
    if by_channel:
        options |= {"observer": MovingAveragePerChannelMinMaxObserver, "ch_axis": 0}
    if not by_channel and not symmetric:
        options |= {"quant_min": 0, "quant_max": 255, "dtype": torch.quint8}
    else:
        options |= {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}

    def run(device: str) -> list[Tensor]:
        torch.manual_seed(3)
        module = FusedMovingAvgObsFakeQuantize(**options).to(device)
        seen = []
        for step in range(5):
            x = (torch.randn(6, 20) * (step + 1) + 0.5).to(device)
            seen.append(module(x).detach().cpu())
            seen += [t.cpu().float().clone() for t in (module.scale, module.zero_point)]
            if step == 2:
                module.disable_observer()
            if step == 3:
                module.disable_fake_quant()
        observer = module.activation_post_process
        return [*seen, observer.min_val.cpu(), observer.max_val.cpu()]

    expected = run("cpu")
    torch_trn.reference_operators(clear=True)
    got = run("trn")
    assert torch_trn.reference_operators() == {}
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5)
