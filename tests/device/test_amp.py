"""Autocast with CUDA's lists, GradScaler, and training under both."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

trn = torch.trn
X = torch.randn(4, 4)

LOWER = {
    "mm": lambda x: x @ x,
    "linear": lambda x: F.linear(x, x),
    "addmm": lambda x: torch.addmm(x, x, x),
    "bmm": lambda x: torch.bmm(x[None], x[None]),
    "conv2d": lambda x: F.conv2d(x[None, None], x[None, None, :2, :2]),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x[None, None], x[None, None, :2, :2]),
    "einsum": lambda x: torch.einsum("ij,jk->ik", x, x),
    "prelu": lambda x: F.prelu(x, x[0, :1]),
    "sdpa": lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]),
}
FLOAT32 = {
    "exp": torch.exp,
    "log": lambda x: torch.log(x.abs() + 1),
    "pow": lambda x: x**2,
    "rsqrt": lambda x: x.abs().rsqrt(),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "sum": lambda x: x.sum(),
    "cumsum": lambda x: x.cumsum(0),
    "norm": lambda x: x.norm(),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "mse_loss": lambda x: F.mse_loss(x, x),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x),
}
UNCHANGED = {"relu": torch.relu, "add": lambda x: x + x, "max": lambda x: x.max(), "transpose": lambda x: x.t()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOWER)
def test_lower_precision_list(name, dtype):
    with torch.autocast("trn", dtype=dtype):
        assert LOWER[name](X.to("trn")).dtype == dtype
    assert LOWER[name](X.to("trn")).dtype == torch.float32


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_list(name):
    with torch.autocast("trn", dtype=torch.bfloat16):
        assert FLOAT32[name](X.to("trn", torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("name", UNCHANGED)
def test_other_operators_keep_their_dtype(name):
    with torch.autocast("trn", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            assert UNCHANGED[name](X.to("trn", dtype)).dtype == dtype


def test_promote_list():
    with torch.autocast("trn", dtype=torch.bfloat16):
        a, b = X.to("trn"), X.to("trn", torch.bfloat16)
        assert torch.addcmul(a, b, b).dtype == torch.float32
        assert torch.dot(a[0], b[0]).dtype == torch.float32
        assert torch.atan2(b, b).dtype == torch.bfloat16


def test_float64_and_cpu_tensors_are_left_alone():
    with torch.autocast("trn", dtype=torch.bfloat16):
        assert (X.to("trn", torch.float64) @ X.to("trn", torch.float64)).dtype == torch.float64
        assert (X @ X).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (X.to("trn") @ X.to("trn")).dtype == torch.float32


def test_binary_cross_entropy_is_refused():
    p = X.to("trn").sigmoid()
    with torch.autocast("trn"), pytest.raises(RuntimeError, match="unsafe to autocast"):
        F.binary_cross_entropy(p, p.detach())
    with torch.autocast("trn"):
        assert F.binary_cross_entropy_with_logits(p, p.detach()).dtype == torch.float32


def test_values_are_those_of_the_cast():
    x = X.to("trn")
    with torch.autocast("trn", dtype=torch.bfloat16):
        y = x @ x
    assert torch.equal(y.cpu(), X.bfloat16() @ X.bfloat16())


def test_nesting_state_and_cache():
    assert torch.amp.is_autocast_available("trn")
    assert not torch.is_autocast_enabled("trn")
    weight = X.to("trn").requires_grad_()
    with torch.autocast("trn", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("trn") and torch.get_autocast_dtype("trn") == torch.bfloat16
        with torch.autocast("trn", enabled=False):
            assert (weight @ weight).dtype == torch.float32
        first = F.linear(X.to("trn"), weight)
        F.linear(first, weight).sum().backward()
    assert weight.grad.dtype == torch.float32


def test_supported_dtypes():
    assert set(trn.get_amp_supported_dtype()) == {torch.float32, torch.float16, torch.bfloat16}
    with pytest.warns(UserWarning, match="not supported"), torch.autocast("trn", dtype=torch.float64):
        assert not torch.is_autocast_enabled("trn")


def test_module_amp():
    with trn.amp.autocast(dtype=torch.bfloat16):
        assert (X.to("trn") @ X.to("trn")).dtype == torch.bfloat16

    class Half(torch.autograd.Function):
        @staticmethod
        @trn.amp.custom_fwd(cast_inputs=torch.float32)
        def forward(ctx, x):
            assert not torch.is_autocast_enabled("trn")
            return x * 2

        @staticmethod
        @trn.amp.custom_bwd
        def backward(ctx, gradient):
            return gradient * 2

    x = X.to("trn", torch.bfloat16).requires_grad_()
    with trn.amp.autocast(dtype=torch.bfloat16):
        y = Half.apply(x)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert torch.equal(x.grad.cpu(), torch.full_like(X, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize("make", [lambda: torch.amp.GradScaler("trn", init_scale=8.0), lambda: trn.amp.GradScaler(8.0)])
def test_grad_scaler_steps_and_skips(make):
    scaler = make()
    weight = nn.Parameter(torch.ones(3, device="trn"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler.scale(weight.sum()).backward()
    assert weight.grad[0].item() == 8.0
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight.detach().cpu(), torch.zeros(3))
    optimizer.zero_grad()
    scaler.scale((weight * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight.detach().cpu(), torch.zeros(3))
    assert scaler.get_scale() == 4.0
    restored = make()
    restored.load_state_dict(scaler.state_dict())
    assert restored.get_scale() == 4.0


def test_training_matches_cpu_autocast_free_of_overflow():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4))
    twin = copy.deepcopy(model).to("trn")
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, twin)]
    scaler = torch.amp.GradScaler("trn", init_scale=1024.0)
    x, target = torch.randn(32, 16), torch.randint(4, (32,))
    losses = []
    for _ in range(10):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), target)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        with torch.autocast("trn", dtype=torch.bfloat16):
            mirrored = F.cross_entropy(twin(x.to("trn")), target.to("trn"))
        optimizers[1].zero_grad()
        scaler.scale(mirrored).backward()
        scaler.step(optimizers[1])
        scaler.update()
        losses.append((loss.item(), mirrored.item()))
    assert losses[-1][1] < losses[0][1]
    for cpu, device in losses:
        assert device == pytest.approx(cpu, rel=0.02, abs=0.02)
