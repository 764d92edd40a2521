"""Recurrent cells and glu, whose programs read and write parts of tensors, against float64 on the CPU."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_trn


def results(model: nn.Module, x: torch.Tensor, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Outputs, then the gradients of the input and the parameters."""
    model, x = model.to(device, dtype), x.detach().to(device, dtype).requires_grad_()
    made = model(x)
    outputs = [t for t in torch.utils._pytree.tree_leaves(made) if isinstance(t, torch.Tensor)]
    grads = torch.autograd.grad(sum(t.square().sum() for t in outputs), [x, *model.parameters()])
    return [t.detach().cpu().double() for t in (*outputs, *grads)]


def compare(make: Any, x: torch.Tensor) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return make()

    want = results(model(), x, "cpu", torch.float64)
    torch_trn.reference_operators(clear=True)
    with torch_trn.set_numerics("hardware"):
        got = results(model(), x, "trn", torch.float32)
    assert torch_trn.reference_operators(clear=True) == {}
    for ours, exact in zip(got, want, strict=True):
        assert (ours - exact).abs().max() <= 2.0**-24 * 256 * exact.abs().max().clamp_min(1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [6, 136])
def test_layers(kind: type[nn.RNNBase], bias: bool, hidden: int) -> None:
    compare(lambda: kind(5, hidden, 2, bias=bias, bidirectional=True), torch.randn(4, 3, 5))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_cells(kind: type[nn.RNNCellBase]) -> None:
    compare(lambda: kind(5, 7), torch.randn(130, 5))


def test_a_cell_of_which_only_the_state_is_used() -> None:
    class State(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cell(x)[1]

    compare(State, torch.randn(3, 5))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_glu(dim: int) -> None:
    class Glu(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.glu(x, dim)

    compare(Glu, torch.randn(4, 6, 10))


def test_the_bias_gradients_are_counted() -> None:
    cell = nn.LSTMCell(8, 16).to("trn")
    x = torch.randn(4, 8, device="trn")
    loss = cell(x)[0].sum()
    with torch_trn.profile() as prof:
        loss.backward()
    (row,) = [row for row in prof.by_operator() if row.name == "_thnn_fused_lstm_cell_backward_impl"]
    # grad_hy, cx, cy and the workspace in, the gates' and the state's gradients out; then the gates in, one bias out
    state, gates = 4 * 16 * 4, 4 * 64 * 4
    assert row.hbm_write_bytes == gates + state + 64 * 4
