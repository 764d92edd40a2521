"""Twenty training steps on the device are CPU eager's to the last bit: losses, gradients, parameters, buffers."""

import copy

import pytest
import torch
from models import MODELS, OPTIMIZERS, Batch, loss_of
from torch import nn

STEPS = 20


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, device: torch.device
) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    losses, gradients = [], []
    for step in range(STEPS):
        x, y = (t.to(device) for t in batch(step))
        loss = loss_of(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        gradients.append({name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        losses.append(loss.item())
    return losses, gradients


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_training_is_bit_equal_to_cpu(name: str, optimizer: str, device: torch.device, seeded: None) -> None:
    build, batch = MODELS[name]
    on_cpu = build()
    on_device = copy.deepcopy(on_cpu).to(device)
    cpu_losses, cpu_gradients = _train(on_cpu, OPTIMIZERS[optimizer](on_cpu.parameters()), batch, torch.device("cpu"))
    losses, gradients = _train(on_device, OPTIMIZERS[optimizer](on_device.parameters()), batch, device)
    assert losses == cpu_losses
    assert losses[-1] != losses[0]
    for step, (got, want) in enumerate(zip(gradients, cpu_gradients, strict=True)):
        assert got.keys() == want.keys()
        different = [parameter for parameter in want if not torch.equal(got[parameter], want[parameter])]
        assert not different, f"step {step}: gradients of {different}"
    state = on_device.state_dict()
    for key, value in on_cpu.state_dict().items():
        assert torch.equal(state[key].cpu(), value), key


def test_a_moved_model_keeps_its_tied_weights(device: torch.device) -> None:
    model = MODELS["gpt"][0]().to(device)
    assert model.head.weight is model.tok.weight
