"""Saving and resuming: a run that stops half-way and goes on loses nothing, to the last bit.

    python examples/save_resume.py

Prints the losses of an uninterrupted run and of one that was saved and resumed on a new model.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1)).to("trn")
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)  # data and dropout of a step depend on its number only
        x = torch.randn(16, 32, device="trn")
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


torch.manual_seed(0)
model, optimizer = fresh()
start = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "checkpoint.pt"
    torch.save(start, path)
    whole = train(model, optimizer, range(6))

    first_model, first_optimizer = fresh()
    state = torch.load(path)
    first_model.load_state_dict(state["model"])
    first_optimizer.load_state_dict(state["optimizer"])
    first = train(first_model, first_optimizer, range(3))
    torch.save({"model": first_model.state_dict(), "optimizer": first_optimizer.state_dict()}, path)

    second_model, second_optimizer = fresh()
    state = torch.load(path, map_location="trn")
    second_model.load_state_dict(state["model"])
    second_optimizer.load_state_dict(state["optimizer"])
    resumed = first + train(second_model, second_optimizer, range(3, 6))

print("uninterrupted", *(f"{loss:.6f}" for loss in whole))
print("resumed      ", *(f"{loss:.6f}" for loss in resumed))
assert whole == resumed
