"""LSTM and GRU, whole and as cells, against the CPU."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from torch_trn import _C

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def train(layer: nn.Module, *inputs, device: str) -> list[torch.Tensor]:
    """Outputs, final states, and the gradients of inputs and parameters."""
    layer = layer.to(device)
    layer.zero_grad()
    moved = [x.detach().to(device).requires_grad_() for x in inputs]
    state = tuple(moved[1:]) if len(moved) > 2 else moved[1] if len(moved) > 1 else None
    results = layer(moved[0], state) if state is not None else layer(moved[0])
    flat = []
    for result in results if isinstance(results, tuple) else (results,):
        flat += list(result) if isinstance(result, tuple) else [result]
    sum((x * torch.linspace(-1, 1, x.numel(), device=device).view(x.shape)).sum() for x in flat).backward()
    tensors = flat + [x.grad for x in moved] + [p.grad for p in layer.parameters()]
    return [x.detach().cpu().clone() for x in tensors]


def same(layer: nn.Module, *inputs: torch.Tensor, tolerance: float = 1e-5) -> None:
    expected = train(layer, *inputs, device="cpu")
    actual = train(layer, *inputs, device="trn")
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True)])
def test_layer(seeded, name, bias, layers, bidirectional):
    layer = LAYERS[name](5, 7, num_layers=layers, bias=bias, bidirectional=bidirectional, batch_first=True)
    same(layer, torch.randn(3, 4, 5))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_layer_with_states(seeded, name):
    states = [torch.randn(1, 3, 7) for _ in range(2 if name == "lstm" else 1)]
    same(LAYERS[name](5, 7), torch.randn(4, 3, 5), *states)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_double_precision_is_exact_to_rounding(seeded, name):
    same(LAYERS[name](5, 7).double(), torch.randn(4, 3, 5).double(), tolerance=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_bfloat16(seeded, name):
    same(LAYERS[name](8, 8).bfloat16(), torch.randn(3, 2, 8).bfloat16(), tolerance=6e-2)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projection_and_unbatched(seeded):
    same(nn.LSTM(5, 7, proj_size=3), torch.randn(4, 2, 5))
    same(nn.LSTM(5, 7), torch.randn(4, 5))
    same(nn.GRU(5, 7), torch.randn(4, 5))


@pytest.mark.parametrize("bias", [True, False])
def test_cells(seeded, bias):
    x, h, c = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    same(nn.LSTMCell(5, 7, bias=bias), x, h, c)
    same(nn.GRUCell(5, 7, bias=bias), x, h)


@pytest.mark.parametrize("output", [0, 1])
def test_one_output_of_the_lstm_cell_in_the_loss(seeded, output):
    cell, x = nn.LSTMCell(5, 7), torch.randn(3, 5)
    grads = {}
    for device in ("cpu", "trn"):
        cell.to(device).zero_grad()
        cell(x.to(device))[output].square().sum().backward()
        grads[device] = [p.grad.cpu().clone() for p in cell.parameters()]
    for actual, expected in zip(grads["trn"], grads["cpu"], strict=True):
        torch.testing.assert_close(actual, expected)


def test_packed_sequences(seeded):
    layer, x, lengths = nn.LSTM(5, 7, bidirectional=True), torch.randn(6, 3, 5), torch.tensor([6, 4, 1])
    results = []
    for device in ("cpu", "trn"):
        packed = nn.utils.rnn.pack_padded_sequence(x.to(device), lengths)
        output, (h, c) = layer.to(device)(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(output)
        results.append([padded.detach().cpu(), h.detach().cpu(), c.detach().cpu()])
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gradcheck(seeded, name):
    cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[name](2, 3).double().to("trn")
    x = torch.randn(2, 2, dtype=torch.double, device="trn", requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cell(x), (x,))
    assert torch.autograd.gradgradcheck(lambda x: cell(x), (x,))


def test_a_cell_is_one_launch(seeded):
    cell, x = nn.LSTMCell(5, 7).to("trn"), torch.randn(3, 5, device="trn")
    state = torch.zeros(3, 7, device="trn"), torch.zeros(3, 7, device="trn")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.PrivateUse1]) as prof:
        h, c = cell(x, state)
    kernels = [kernel.name for event in prof.events() for kernel in event.kernels]
    assert sum("fused_lstm_cell" in name for name in kernels) == 1
    assert h.device.type == c.device.type == "trn"
    assert _C.storage_in_hbm(h) and _C.storage_in_hbm(c)


def test_gates_of_the_wrong_width_raise():
    x = torch.ones(2, 8, device="trn")
    with pytest.raises(RuntimeError, match=r"the state is .batch, hidden. of 4 gates"):
        torch.ops.aten._thnn_fused_lstm_cell(x, x, torch.ones(2, 3, device="trn"))
    with pytest.raises(RuntimeError, match="of 3 gates"):
        torch.ops.aten._thnn_fused_gru_cell(x, x, torch.ones(2, 3, device="trn"))
