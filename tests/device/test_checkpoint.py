"""Activation checkpointing: gradients, random state, memory."""

import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

trn = torch.trn


def block(width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.5), nn.Linear(width, width)).to("trn")


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_same_gradients_with_dropout(use_reentrant):
    model = block()
    x = torch.randn(8, 64, device="trn", requires_grad=True)

    def run(call):
        model.zero_grad()
        x.grad = None
        torch.manual_seed(5)
        out = call()
        out.sum().backward()
        return [out.detach().cpu(), x.grad.cpu()] + [p.grad.cpu().clone() for p in model.parameters()]

    plain = run(lambda: model(x))
    stored = run(lambda: checkpoint(model, x, use_reentrant=use_reentrant))
    for a, b in zip(plain, stored, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_random_state_goes_on_as_without(use_reentrant):
    model = block()
    x = torch.randn(8, 64, device="trn", requires_grad=True)
    torch.manual_seed(5)
    model(x).sum().backward()
    expected = trn.get_rng_state()
    torch.manual_seed(5)
    checkpoint(model, x, use_reentrant=use_reentrant).sum().backward()
    assert torch.equal(expected, trn.get_rng_state())


def test_saves_memory():
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.GELU()) for _ in range(8)]).to("trn")
    x = torch.randn(1024, 256, device="trn", requires_grad=True)

    def peak(call) -> int:
        gc.collect()
        trn.reset_peak_memory_stats()
        call().sum().backward()
        return trn.max_memory_allocated()

    plain = peak(lambda: layers(x))
    stored = peak(lambda: checkpoint_sequential(layers, 8, x, use_reentrant=False))
    assert stored < 0.7 * plain


def test_selective():
    model = block()
    x = torch.randn(8, 64, device="trn", requires_grad=True)
    contexts = lambda: create_selective_checkpoint_contexts([torch.ops.aten.addmm.default])  # noqa: E731
    torch.manual_seed(5)
    checkpoint(model, x, use_reentrant=False, context_fn=contexts).sum().backward()
    stored = x.grad.cpu().clone()
    x.grad = None
    torch.manual_seed(5)
    model(x).sum().backward()
    assert torch.equal(stored, x.grad.cpu())


def test_autocast_is_restored():
    layer = nn.Linear(8, 8).to("trn")
    x = torch.randn(2, 8, device="trn", requires_grad=True)
    seen = []

    def run(x):
        y = layer(x)
        seen.append(y.dtype)
        return y.sin()

    with torch.autocast("trn", dtype=torch.bfloat16):
        out = checkpoint(run, x, use_reentrant=False)
    out.float().sum().backward()
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_mixed_cpu_and_device_arguments():
    x, scale = torch.randn(4, device="trn", requires_grad=True), torch.tensor(2.0)
    checkpoint(lambda x, s: x * s, x, scale, use_reentrant=False).sum().backward()
    assert x.grad.tolist() == [2, 2, 2, 2]
