"""Profiles of simulated ranks against those of processes: each rank's is its own, to the last count."""

import pytest
import torch
import torch.distributed as dist
import trainings
from torch import nn

import torch_trn

# Not seconds: in a process it depends on chance which stream runs what follows an all_reduce.
COUNTS = [
    "steps",
    "num_devices",
    "launches",
    "flops_by_dtype",
    "hardware_flops_by_dtype",
    "hbm_read_bytes",
    "hbm_write_bytes",
    "dma_transfers",
    "busy_cycles",
    "host_transfers",
    "fallbacks",
    "narrowing",
]
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, which processes only print


def profiled():
    """A rank's whole report in both modes: the second rank has more to do than the first."""
    device = trainings.device_of("trn")
    model = nn.parallel.DistributedDataParallel(trainings.mlp().to(device))
    optimizer = torch.optim.AdamW(model.parameters())
    with torch_trn.profile() as prof:
        for step in range(2):
            for _ in range(1 + dist.get_rank()):
                with model.no_sync():
                    model(trainings.batch(step).to(device)).square().mean().backward()
            loss = model(trainings.batch(step).to(device)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
    return [prof.to_dict(), prof.compiled().to_dict()]


def simulated():
    dist.init_process_group("cpu:gloo,trn:trn")
    return profiled()


def calls(report):
    """What collectives move and take; what of it is exposed depends on when the other ranks arrive."""
    kept = ("count", "bytes", "moved_bytes", "seconds")
    return {kind: {name: row[name] for name in kept} for kind, row in report["collectives_by_kind"].items()}


def test_each_rank_has_the_profile_of_a_process(two_ranks):
    in_processes = two_ranks(profiled)
    job = torch_trn.simulate(simulated, 2)
    for rank, (theirs, ours) in enumerate(zip(in_processes, job.results, strict=True)):
        for a, b in zip(theirs, ours, strict=True):
            assert a["steps"] == b["steps"] == 2 and a["host_syncs"]
            assert {key: a[key] for key in COUNTS} == {key: b[key] for key in COUNTS}
            assert calls(a) == calls(b)
        whole = job.profiles[rank]
        assert whole.steps == 2 and whole.flops == theirs[0]["flops"]
        assert whole.collectives_by_kind.keys() >= {"all_reduce"}
    assert job.profiles[0].flops < job.profiles[1].flops
    assert repr(job) == "<torch_trn.Simulation of 2 ranks>"


def test_the_ranks_make_one_report_as_processes_do(two_ranks):
    in_processes = torch_trn.merge([reports[0] for reports in two_ranks(profiled)])
    job = torch_trn.simulate(simulated, 2)
    inside = torch_trn.merge([reports[0] for reports in job.results])
    assert inside.matrix == in_processes.matrix != {}
    assert inside.imbalance == pytest.approx(in_processes.imbalance) and inside.imbalance > 0.1
    assert inside.slowest_rank == in_processes.slowest_rank == 1
    # Of the whole function, the same kind of report.
    assert (job.report.world_size, job.report.slowest_rank, job.report.missing_ranks) == (2, 1, [])
    text = str(job)
    assert "torch_trn job on" in text and "2 ranks, linear" in text and "Bytes from rank to rank" in text
    assert str(torch_trn.simulate(len, 2, args=("ab",), profile=False)) == "<torch_trn.Simulation of 2 ranks>"
