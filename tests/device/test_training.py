"""Optimizers, attention, recurrent and normalising layers: a training step against the CPU."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

X = torch.randn(4, 6)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.device.type == "trn"
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0, equal_nan=True)


def train(model, optimizer, x, target, steps=5):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


OPTIMIZERS = {
    "sgd": lambda p, **k: torch.optim.SGD(p, lr=0.1, momentum=0.9, **k),
    "adam": lambda p, **k: torch.optim.Adam(p, lr=0.01, **k),
    "adamw": lambda p, **k: torch.optim.AdamW(p, lr=0.01, **k),
    "adagrad": lambda p, **k: torch.optim.Adagrad(p, lr=0.05, **k),
    "rmsprop": lambda p, **k: torch.optim.RMSprop(p, lr=0.01, **k),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("variant", [{}, {"foreach": True}, {"foreach": False}, {"fused": True}])
def test_optimizer(name, variant):
    if variant.get("fused") and name == "rmsprop":
        pytest.skip("torch has no fused RMSprop")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    twin = copy.deepcopy(model).to("trn")
    x, target = torch.randn(16, 8), torch.randint(3, (16,))
    expected = train(model, OPTIMIZERS[name](model.parameters(), **variant), x, target)
    actual = train(twin, OPTIMIZERS[name](twin.parameters(), **variant), x.to("trn"), target.to("trn"))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    for p, q in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=1e-4, atol=1e-6)


def operators_of(work) -> set[str]:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = set()

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.add(function._schema.name)
            return function(*args, **(kwargs or {}))

    with Log():
        work()
    return seen


def test_foreach_is_the_default_and_fused_is_taken():
    model = nn.Linear(4, 4).to("trn")
    model(torch.ones(1, 4, device="trn")).sum().backward()
    default = operators_of(torch.optim.AdamW(model.parameters()).step)
    assert any(name.startswith("aten::_foreach_") for name in default)
    assert "aten::_fused_adamw_" in operators_of(torch.optim.AdamW(model.parameters(), fused=True).step)
    assert "aten::_fused_sgd_" in operators_of(torch.optim.SGD(model.parameters(), fused=True).step)


def test_clip_and_zero_grad():
    model = nn.Linear(4, 4).to("trn")
    (100 * model(torch.ones(1, 4, device="trn"))).sum().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert norm.device.type == "trn" and norm.item() > 1
    total = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert total == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_attention_takes_the_fused_path(causal, mask):
    if causal and mask:
        pytest.skip("torch refuses both")
    q, k, v = (torch.randn(2, 3, 8, 16) for _ in range(3))
    bias = torch.randn(8, 8) if mask else None

    def run(q, k, v, bias):
        q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
        out.square().sum().backward()
        return [out.detach(), q.grad, k.grad, v.grad]

    moved = [None if t is None else t.to("trn") for t in (q, k, v, bias)]
    for actual, expected in zip(run(*moved), run(q, k, v, bias), strict=True):
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)
    seen = operators_of(lambda: run(*moved))
    assert "aten::_scaled_dot_product_fused_attention_overrideable" in seen
    assert "aten::_scaled_dot_product_fused_attention_overrideable_backward" in seen


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind):
    torch.manual_seed(0)
    layer = kind(4, 8, num_layers=2, bidirectional=True)
    twin = copy.deepcopy(layer).to("trn")
    x = torch.randn(5, 3, 4)
    expected, actual = layer(x)[0], twin(x.to("trn"))[0]
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for p, q in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(p.grad.cpu(), q.grad, rtol=1e-4, atol=1e-5)


def test_batch_norm_updates_running_statistics():
    layer = nn.BatchNorm1d(6)
    twin = copy.deepcopy(layer).to("trn")
    layer(X)
    twin(X.to("trn"))
    same(twin.running_mean, layer.running_mean)
    same(twin.running_var, layer.running_var)
    assert twin.num_batches_tracked.item() == 1


def test_transformer_encoder_fast_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    twin = copy.deepcopy(layer).to("trn")
    x = torch.randn(2, 5, 16)
    with torch.inference_mode():
        torch.testing.assert_close(twin(x.to("trn")).cpu(), layer(x), rtol=1e-4, atol=1e-5)
