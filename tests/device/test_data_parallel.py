"""nn.DataParallel and torch.trn.comm: one process, several devices."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import data_parallel, gather, replicate, scatter
from torch.trn import comm

pytestmark = pytest.mark.skipif(torch.trn.device_count() < 2, reason="needs two devices")


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def train(module, place, steps=3):
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for number in range(steps):
        x = torch.randn(7, 3, generator=torch.Generator().manual_seed(number), dtype=torch.double).to(place)
        loss = module(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach().cpu() for parameter in module.parameters()]


def test_trains_as_one_device():
    """Rows over the devices and gradients back: the CPU's training, but for the order of sums."""
    losses, parameters = train(model(), "cpu")
    for devices in (None, [0, 1], [1, 0]):
        place = f"trn:{devices[0] if devices else 0}"
        own_losses, own_parameters = train(nn.DataParallel(model().to(place), devices), place)
        assert own_losses == pytest.approx(losses, rel=1e-12)
        for own, expected in zip(own_parameters, parameters, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


def test_each_device_holds_its_share():
    module = nn.DataParallel(model().to("trn"), [0, 1])
    seen = []
    module.module[0].register_forward_hook(lambda _, given, result: seen.append((result.device.index, len(result))))
    y = module(torch.ones(5, 3, dtype=torch.double))  # from the host, as a loader gives it
    assert sorted(seen) == [(0, 3), (1, 2)] and y.device == torch.device("trn:0")
    seen.clear()
    assert len(module(torch.ones(1, 3, dtype=torch.double))) == 1 and seen == [(0, 1)]
    expected = model()(torch.ones(5, 3, dtype=torch.double))
    torch.testing.assert_close(y.cpu(), expected)
    torch.testing.assert_close(data_parallel(module.module, torch.ones(5, 3, device="trn").double(), [0, 1]), y)


def test_buffers_of_the_first_replica_stay():
    module = nn.DataParallel(nn.BatchNorm1d(3).to("trn"), [0, 1])
    x = torch.arange(12.0).view(4, 3)
    module(x)
    alone = nn.BatchNorm1d(3)
    alone(x[:2])
    assert torch.equal(module.module.running_mean.cpu(), alone.running_mean)


def test_scatter_gather_and_replicate():
    x = torch.arange(10.0, device="trn").view(5, 2).requires_grad_()
    parts = scatter(x, [0, 1])
    assert [(part.device.index, part.tolist()) for part in parts] == [
        (0, x[:3].tolist()),
        (1, x[3:].tolist()),
    ]
    whole = gather(parts, 1)
    assert whole.device.index == 1 and torch.equal(whole.cpu(), x.cpu())
    (whole * torch.arange(5.0, device="trn:1")[:, None]).sum().backward()
    assert x.grad[:, 0].tolist() == [0, 1, 2, 3, 4]
    copies = replicate(nn.Linear(2, 2).to("trn"), [0, 1])
    assert [copied.weight.device.index for copied in copies] == [0, 1]
    assert gather(parts, "cpu").device.type == "cpu"


def test_comm():
    x = torch.arange(6.0, device="trn").view(3, 2)
    first, second = comm.broadcast(x, [0, 1])
    assert first is x and second.device.index == 1 and torch.equal(second.cpu(), x.cpu())
    out = [torch.empty(3, 2, device="trn:1")]
    assert comm.broadcast(x, out=out)[0] is out[0] and torch.equal(out[0].cpu(), x.cpu())
    assert [part.shape[0] for part in comm.scatter(x, [0, 1], [1, 2])] == [1, 2]
    halves = [torch.empty(3, 1, device=f"trn:{index}") for index in (0, 1)]
    comm.scatter(x, out=halves, dim=1)
    assert halves[1].flatten().tolist() == [1, 3, 5]
    assert torch.equal(comm.gather(halves, dim=1, destination=0).cpu(), x.cpu())
    assert torch.equal(comm.gather(halves, dim=1, out=torch.empty(3, 2, device="trn")).cpu(), x.cpu())
    assert comm.reduce_add([x, x.to("trn:1")], 1).tolist() == (2 * x).tolist()
    copies = comm.broadcast_coalesced([x, copy.deepcopy(x)], [0, 1])
    assert [[part.device.index for part in parts] for parts in copies] == [[0, 0], [1, 1]]


def test_errors():
    x = torch.ones(3, 2, device="trn")
    with pytest.raises(RuntimeError, match=r"\[broadcast\] .* got one on 'trn:0', limit \['trn:1'\]"):
        comm.broadcast(x, [1, 0])
    with pytest.raises(RuntimeError, match=r"\[broadcast\] out tensors have .* got \[2\], limit \[3, 2\]"):
        comm.broadcast(x, out=[torch.empty(2, device="trn:1")])
    with pytest.raises(RuntimeError, match=r"\[scatter\] there is a chunk .* got \[1, 1\], limit 2 chunks of 3"):
        comm.scatter(x, [0, 1], [1, 1])
