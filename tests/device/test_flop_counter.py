"""FlopCounterMode over device tensors, against closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import torch_trn


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_matmul():
    x, y = torch.randn(8, 16, device="trn"), torch.randn(16, 32, device="trn")
    assert counted(lambda: x @ y) == 2 * 8 * 16 * 32


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("value_dim", [16, 24])
def test_attention(causal, value_dim):
    batch, heads, queries, keys, dim = 2, 3, 8, 8 if causal else 10, 16
    q = torch.randn(batch, heads, queries, dim, device="trn", requires_grad=True)
    k = torch.randn(batch, heads, keys, dim, device="trn", requires_grad=True)
    v = torch.randn(batch, heads, keys, value_dim, device="trn", requires_grad=True)
    forward = 2 * batch * heads * queries * keys * (dim + value_dim)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)) == forward
    assert counted(lambda: out.sum().backward()) == 2 * forward


def test_convolution():
    layer = nn.Conv2d(3, 5, 3, padding=1).to("trn")
    x = torch.randn(2, 3, 8, 8, device="trn", requires_grad=True)
    forward = 2 * 2 * 5 * 8 * 8 * 3 * 9
    assert counted(lambda: layer(x)) == forward
    out = layer(x)
    assert counted(lambda: out.sum().backward()) == 2 * forward


def test_mlp_step():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to("trn")
    x = torch.randn(8, 16, device="trn")
    forward = 2 * 8 * (16 * 32 + 32 * 4)
    assert counted(lambda: model(x)) == forward
    # The input needs no gradient: the first layer has one backward matmul, the second two.
    assert counted(lambda: model(x).sum().backward()) == 2 * forward + 2 * 8 * 32 * 4


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="trn")


# docs/counters.md names them: a formula of torch's own makes a row wrong.
WITHOUT_FORMULA = {
    "mv": (lambda: random(4, 8).mv(random(8)), 2 * 4 * 8),
    "dot": (lambda: random(8).dot(random(8)), 2 * 8),
    "vdot": (lambda: torch.vdot(random(8), random(8)), 2 * 8),
    "addmv": (lambda: torch.addmv(random(4), random(4, 8), random(8)), 2 * 4 * 8),
    "addr": (lambda: torch.addr(random(4, 8), random(4), random(8)), 2 * 4 * 8),
    "addbmm": (lambda: torch.addbmm(random(4, 5), random(2, 4, 8), random(2, 8, 5)), 2 * 2 * 4 * 8 * 5),
    "_addmm_activation": (lambda: torch._addmm_activation(random(5), random(4, 8), random(8, 5)), 2 * 4 * 8 * 5),
}


@pytest.mark.parametrize("name", WITHOUT_FORMULA)
def test_products_that_flop_counter_mode_has_no_formula_for(name):
    work, flops = WITHOUT_FORMULA[name]
    with torch_trn.profile() as prof:
        work()
    assert prof.flops == flops
    assert counted(work) == 0
