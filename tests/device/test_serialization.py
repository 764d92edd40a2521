"""torch.save, torch.load, map_location, deepcopy, pickle, storages."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

trn = torch.trn


def save_load(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]
)
def test_tensor_round_trip(dtype):
    x = torch.arange(24).reshape(4, 6).to(dtype)
    y = save_load(x.to("trn"))
    assert y.device == torch.device("trn:0") and torch.equal(y.cpu(), x)


@pytest.mark.parametrize("location", ["cpu", torch.device("cpu"), {"trn:0": "cpu"}, lambda storage, _: storage.cpu()])
def test_map_location_to_cpu(location):
    x = torch.arange(5.0)
    y = save_load(x.to("trn"), map_location=location)
    assert y.device.type == "cpu" and torch.equal(x, y)


@pytest.mark.parametrize("location", ["trn", "trn:0", torch.device("trn", 0)])
def test_map_location_to_device(location):
    x = torch.arange(5.0)
    y = save_load(x, map_location=location)
    assert y.device == torch.device("trn:0") and torch.equal(x, y.cpu())


def test_map_location_to_a_missing_device_raises():
    with pytest.raises(RuntimeError, match="99"):
        save_load(torch.ones(2), map_location="trn:99")


@pytest.mark.skipif(trn.device_count() < 2, reason="needs two devices")
def test_device_index_survives():
    x = torch.ones(3, device="trn:1")
    assert save_load(x).device.index == 1
    assert save_load(x, map_location="trn:0").device.index == 0
    with trn.device(1):
        assert save_load(torch.ones(3), map_location="trn").device.index == 1


def test_views_keep_sharing():
    x = torch.arange(10.0, device="trn")
    a, b = save_load([x, x[2:5]])
    a[2] = 100
    assert b[0].item() == 100
    strided = save_load(x.reshape(2, 5).t())
    assert strided.stride() == (1, 5)


@pytest.mark.parametrize("options", [{"mmap": True}, {"weights_only": False}, {"weights_only": True}])
def test_load_options(tmp_path, options):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(6.0, device="trn")}, path)
    loaded = torch.load(path, **options)["a"]
    assert loaded.device.type == "trn" and torch.equal(loaded.cpu(), torch.arange(6.0))
    assert torch.load(path, map_location="cpu", **options)["a"].device.type == "cpu"


def test_legacy_format():
    buffer = io.BytesIO()
    torch.save(torch.arange(6.0, device="trn"), buffer, _use_new_zipfile_serialization=False)
    buffer.seek(0)
    loaded = torch.load(buffer)
    assert loaded.device.type == "trn" and torch.equal(loaded.cpu(), torch.arange(6.0))


def test_pickle():
    x = torch.arange(6.0, device="trn").reshape(2, 3).requires_grad_()
    y = pickle.loads(pickle.dumps(x))
    assert y.device.type == "trn" and y.requires_grad and torch.equal(x.detach().cpu(), y.detach().cpu())
    y = (y + 1).sum()
    y.backward()
    parameter = pickle.loads(pickle.dumps(nn.Parameter(torch.ones(3, device="trn"))))
    assert isinstance(parameter, nn.Parameter) and parameter.device.type == "trn"


def test_deepcopy_and_copy():
    x = torch.arange(6.0, device="trn")
    y = copy.deepcopy(x)
    y.zero_()
    assert x.sum().item() == 15
    assert copy.copy(x).data_ptr() == x.data_ptr()
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to("trn")
    twin = copy.deepcopy(model)
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert a.device == b.device and a.data_ptr() != b.data_ptr() and torch.equal(a.cpu(), b.cpu())


def test_module_and_optimizer_state(tmp_path):
    def make():
        torch.manual_seed(0)
        model = nn.Linear(4, 4).to("trn")
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    x = torch.ones(2, 4, device="trn")

    def steps(model, optimizer, number):
        for _ in range(number):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    straight = make()
    steps(*straight, 6)
    first = make()
    steps(*first, 3)
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": first[0].state_dict(), "optimizer": first[1].state_dict(), "rng": trn.get_rng_state()}, path)
    resumed = make()
    checkpoint = torch.load(path, map_location="trn")
    resumed[0].load_state_dict(checkpoint["model"])
    resumed[1].load_state_dict(checkpoint["optimizer"])
    steps(*resumed, 3)
    for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a.detach().cpu(), b.detach().cpu())


def test_to_keeps_parameters_and_ties():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.a.weight
    model.to("trn")
    assert model.a.weight is model.b.weight is before
    assert before.device.type == "trn"
    model.b(model.a(torch.ones(1, 3, device="trn"))).sum().backward()
    old = before.detach().clone()
    optimizer.step()
    assert not torch.equal(old.cpu(), model.a.weight.detach().cpu())
    model.to("cpu")
    assert model.a.weight is before and before.device.type == "cpu"


def test_data_assignment_between_devices():
    p = nn.Parameter(torch.ones(3))
    p.data = torch.zeros(3, device="trn")
    assert p.device.type == "trn"


def test_storage():
    x = torch.arange(4.0, device="trn")
    storage = x.untyped_storage()
    assert storage.device == torch.device("trn:0") and storage.nbytes() == 16
    assert torch.equal(torch.tensor([], device="trn").set_(storage, 1, (2,)).cpu(), torch.tensor([1.0, 2.0]))
    assert storage.cpu().device.type == "cpu"
    fresh = torch.UntypedStorage(16, device="trn")
    fresh.copy_(storage)
    assert torch.equal(torch.tensor([], device="trn").set_(fresh, 0, (4,)).cpu(), x.cpu())
    assert fresh.clone().nbytes() == 16
    assert storage.data_ptr() == x.data_ptr()


def test_swap_tensors():
    a, b = torch.ones(2, device="trn"), torch.zeros(3)
    torch.utils.swap_tensors(a, b)
    assert a.device.type == "cpu" and b.device.type == "trn"
