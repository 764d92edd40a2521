"""DataLoader with pin_memory and workers feeding the device."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

DATA = TensorDataset(torch.arange(40.0).reshape(20, 2), torch.arange(20))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pin_memory", [False, True])
def test_batches_arrive(workers, pin_memory):
    torch.ones(1, device="trn")
    loader = DataLoader(DATA, batch_size=6, num_workers=workers, pin_memory=pin_memory)
    rows = []
    for x, y in loader:
        assert x.is_pinned() == pin_memory == y.is_pinned()
        x, y = x.to("trn", non_blocking=True), y.to("trn", non_blocking=True)
        assert torch.equal((x[:, 0] / 2).long().cpu(), y.cpu())
        rows += y.tolist()
    assert rows == list(range(20))


def test_pinned_structures():
    loader = DataLoader([{"a": torch.ones(2), "b": (torch.zeros(1), "text")}] * 4, batch_size=2, pin_memory=True)
    for batch in loader:
        assert batch["a"].is_pinned() and batch["b"][0].is_pinned()
        assert batch["a"].to("trn").sum().item() == 4


def test_shuffle_draws_from_the_cpu():
    state = torch.trn.get_rng_state()
    torch.default_generator.manual_seed(3)
    first = [y.tolist() for _, y in DataLoader(DATA, batch_size=5, shuffle=True)]
    torch.default_generator.manual_seed(3)
    assert first == [y.tolist() for _, y in DataLoader(DATA, batch_size=5, shuffle=True)]
    assert torch.equal(state, torch.trn.get_rng_state())


def test_seeded_workers_survive_an_initialised_device():
    torch.trn.manual_seed(0)
    torch.ones(1, device="trn")
    loader = DataLoader(DATA, num_workers=2, persistent_workers=True)
    assert sum(1 for _ in loader) == 20


def test_default_device():
    torch.set_default_device("trn")
    try:
        x = next(iter(DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2)))[0]
        assert x.device.type == "trn"
    finally:
        torch.set_default_device(None)
