"""Model FLOPs of a training step against closed forms, and torch's FlopCounterMode on the device against both."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from models import CNN, GPT, gpt_batch, image_batch, loss_of, mlp, vector_batch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import torch_trn

BATCH = 4
LSTM_STEPS, LSTM_INPUT, LSTM_HIDDEN, LSTM_LAYERS = 6, 20, 24, 2
MLP_SIZES = (20, 64, 64, 10)


@dataclass
class Case:
    """A model, a loss over it and what its forward and backward passes cost."""

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, torch.device], torch.Tensor]
    forward: int
    backward: int


def _case_gpt(fused: bool) -> Case:
    forward = GPT().forward_flops(BATCH)

    def loss(model: nn.Module, device: torch.device) -> torch.Tensor:
        return loss_of(model, *(t.to(device) for t in gpt_batch(0, BATCH)))

    # Every product has two gradients: the embedding in front of the first layer is trained.
    return Case(lambda: GPT(fused=fused), loss, forward, 2 * forward)


def _case_layers(
    build: Callable[[], nn.Module], layers: list[int], batch: Callable[..., tuple[torch.Tensor, ...]]
) -> Case:
    def loss(model: nn.Module, device: torch.device) -> torch.Tensor:
        return loss_of(model, *(t.to(device) for t in batch(0, BATCH)))

    # The input is data: the first layer has no input gradient.
    return Case(build, loss, sum(layers), 2 * sum(layers) - layers[0])


def _case_lstm() -> Case:
    gates = 4 * LSTM_HIDDEN
    input_sizes = [LSTM_INPUT] + [LSTM_HIDDEN] * (LSTM_LAYERS - 1)
    by_input = [2 * LSTM_STEPS * BATCH * size * gates for size in input_sizes]
    by_hidden = [2 * LSTM_STEPS * BATCH * LSTM_HIDDEN * gates] * LSTM_LAYERS
    forward = sum(by_input) + sum(by_hidden)
    # No gradient for the data, nor for the initial hidden state of each layer (one of the steps).
    backward = 2 * forward - by_input[0] - sum(h // LSTM_STEPS for h in by_hidden)

    def loss(model: nn.Module, device: torch.device) -> torch.Tensor:
        x = torch.randn(LSTM_STEPS, BATCH, LSTM_INPUT, generator=torch.Generator().manual_seed(0))
        output, _ = model(x.to(device))
        result: torch.Tensor = output.square().mean()
        return result

    return Case(lambda: nn.LSTM(LSTM_INPUT, LSTM_HIDDEN, LSTM_LAYERS), loss, forward, backward)


CASES = {
    "gpt with sdpa": _case_gpt(fused=True),
    "gpt with explicit attention": _case_gpt(fused=False),
    "mlp": _case_layers(
        lambda: mlp(MLP_SIZES),
        [2 * BATCH * a * b for a, b in itertools.pairwise(MLP_SIZES)],
        vector_batch,
    ),
    "cnn": _case_layers(CNN, CNN().layer_flops(BATCH), image_batch),
    "lstm": _case_lstm(),
}


@pytest.mark.parametrize("name", CASES)
def test_flops_equal_the_closed_form(name: str, device: torch.device) -> None:
    case = CASES[name]
    model = case.build().to(device)
    with torch_trn.profile() as prof:
        case.loss(model, device).backward()
    phases = {row.name: row.flops for row in prof.by_phase()}
    assert phases["forward"] == case.forward
    assert phases["backward"] == case.backward
    assert prof.flops == case.forward + case.backward
    assert sum(row.flops for row in prof.by_module()) == prof.flops
    assert sum(row.flops for row in prof.by_line()) == prof.flops
    assert sum(row.flops for row in prof.by_operator()) == prof.flops
    assert sum(prof.flops_by_dtype.values()) == prof.flops
    assert prof.hardware_flops >= prof.flops


@pytest.mark.parametrize("name", CASES)
def test_flop_counter_mode_agrees(name: str, device: torch.device) -> None:
    case = CASES[name]
    model = case.build().to(device)
    with FlopCounterMode(display=False) as forward:
        loss = case.loss(model, device)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward.get_total_flops() == case.forward
    assert backward.get_total_flops() == case.backward


def test_an_optimizer_step_has_no_model_flops(device: torch.device) -> None:
    case = CASES["mlp"]
    model = case.build().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    case.loss(model, device).backward()
    with torch_trn.profile() as prof:
        optimizer.step()
    assert prof.launches > 0
    assert prof.flops == 0
    assert [row.name for row in prof.by_phase()] == ["optimizer"]


@pytest.mark.parametrize("tokens", [1, 2, 16, 33])
def test_causal_attention_is_counted_whole_and_halved_beside_it(tokens: int, device: torch.device) -> None:
    batch, heads, width = 2, 3, 8
    q, k, v = (torch.randn(batch, heads, tokens, width, device=device, requires_grad=True) for _ in range(3))
    with torch_trn.profile() as prof:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
    per_pair = 2 * 2 * batch * heads * width * 3
    assert prof.flops == per_pair * tokens * tokens
    assert prof.causal_flops == per_pair * tokens * (tokens + 1) // 2


def test_checkpointed_recomputation_is_hardware_flops_only(device: torch.device) -> None:
    from torch.utils.checkpoint import checkpoint

    model = mlp((20, 20, 20)).to(device)
    x = torch.randn(BATCH, 20, device=device, requires_grad=True)
    with torch_trn.profile() as plain:
        model(x).sum().backward()
    with torch_trn.profile() as again:
        checkpoint(model, x, use_reentrant=False).sum().backward()
    assert again.flops == plain.flops
    assert again.hardware_flops > plain.hardware_flops


def test_by_module_names_the_layers(device: torch.device) -> None:
    model = GPT().to(device)
    with torch_trn.profile() as prof:
        loss_of(model, *(t.to(device) for t in gpt_batch(0, BATCH))).backward()
    flops = {row.name: row.flops for row in prof.by_module()}
    rows = BATCH * model.tokens
    for block in range(model.layers):
        assert flops[f"blocks.{block}.attn.qkv"] == 3 * 2 * rows * model.width * 3 * model.width
        assert flops[f"blocks.{block}.attn"] == 3 * 4 * BATCH * model.tokens**2 * model.width
        assert flops[f"blocks.{block}.mlp.0"] == 3 * 2 * rows * model.width * 4 * model.width
