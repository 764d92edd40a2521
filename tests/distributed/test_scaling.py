"""A recording scaled to another data-parallel width is the recording of a run at that width."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import torch_trn

WIDTH = 512


def step():
    dist.init_process_group()
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers).to("trn"), bucket_cap_mb=1)
    model(torch.randn(256, WIDTH, device="trn")).square().mean().backward()
    with torch_trn.profile() as prof:
        model(torch.randn(256, WIDTH, device="trn")).square().mean().backward()
    return prof


def recorded(size):
    return torch_trn.simulate(step, size, target="trn2", values=False).values[0]


def test_it_is_the_run_at_that_width():
    small = recorded(8)
    widths = [8, 64, 256, 1024]
    for width, scaled in zip(widths, torch_trn.scale(small, widths), strict=True):
        run = recorded(width)
        assert scaled.devices == width
        assert [row["ranks"] for row in run.collectives] == [list(range(width))] * len(run.collectives)
        assert scaled.seconds == pytest.approx(run.device_seconds, rel=1e-6)
        assert scaled.exposed_collective_seconds == pytest.approx(run.exposed_collective_seconds, rel=1e-6)


def test_the_same_width_is_the_recording_itself():
    small = recorded(16)
    (same,) = torch_trn.scale(small, [16])
    assert same.seconds == pytest.approx(small.device_seconds, rel=1e-12)
    assert same.energy_joules == pytest.approx(16 * small.energy_joules, rel=1e-12)
    assert same.cost_usd == pytest.approx(16 * small.cost_usd, rel=1e-12)


def test_to_a_million_chips():
    steps = torch_trn.scale(recorded(8), [4096, 4_000_000])
    assert steps[1].devices == 4_000_000
    assert steps[0].seconds < steps[1].seconds
    assert 0 < steps[0].communication_share < steps[1].communication_share < 1
    assert steps[1].energy_joules > 900 * steps[0].energy_joules


def test_wrong_calls_are_refused():
    small = recorded(8)
    with pytest.raises(ValueError, match=r"\[scale\] .* got 2 ranks, limit \[8\]"):
        torch_trn.scale(small, [16], group=[0, 1])
    with pytest.raises(ValueError, match=r"\[scale\] a width is a number of ranks; got 0"):
        torch_trn.scale(small, [0])
    with torch_trn.profile() as alone:
        torch.ones(2, device="trn").neg()
    with pytest.raises(ValueError, match=r"\[scale\].*got no collective"):
        torch_trn.scale(alone, [16])


def stages_with_replicas():
    """Two stages, each under DDP: the first is rank 0 of its replicas, the second rank 0 of the other half."""
    dist.init_process_group()
    half = dist.get_world_size() // 2
    mesh = dist.init_device_mesh("trn", (2, half), mesh_dim_names=("pipeline", "data"))
    stage, pipeline = mesh.get_local_rank("pipeline"), mesh.get_group("pipeline")
    layers = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(1 + stage)]).to("trn")
    model = nn.parallel.DistributedDataParallel(layers, process_group=mesh.get_group("data"))
    box = torch.randn(256, WIDTH, device="trn")
    for _ in range(3):
        if stage:
            dist.recv(box, group_src=0, group=pipeline)
        out = model(box)
        if not stage:
            dist.send(out.detach(), group_dst=1, group=pipeline)
        out.square().mean().backward()


def test_roles_that_wait_for_each_other():
    def run(size):
        return torch_trn.simulate(stages_with_replicas, size, roles=[0, size // 2], target="trn2", values=False)

    small = run(8)
    assert small.times[0].waiting_seconds > 0
    widths = [2, 4, 32, 256]
    for width, scaled in zip(widths, torch_trn.scale(small, widths, group=range(4)), strict=True):
        wide = run(2 * width)
        assert scaled.devices == 2 * width
        assert scaled.seconds == pytest.approx(wide.device_seconds, rel=0.02)
    with pytest.raises(ValueError, match=r"got 3 ranks, limit \[2, 4\]"):
        torch_trn.scale(small, [16], group=[0, 1, 2])
