"""How scripts come to the backend: default, by name, with a device, by torchrun, split groups, the neuron identity."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import running


def chosen():
    rank, size = dist.get_rank(), dist.get_world_size()
    x = torch.full((2,), float(rank), device="trn")
    dist.all_reduce(x)
    try:
        dist.all_reduce(torch.ones(2))
        cpu = "accepted"
    except RuntimeError as error:
        cpu = str(error)
    group = dist.group.WORLD
    return (
        dist.get_backend(),
        dist.get_default_backend_for_device("trn"),
        type(group._get_backend(torch.device("trn"))).__name__,
        x.tolist() == [sum(range(size))] * 2,
        "No backend type associated with device type cpu" in cpu,
        nn_step(),
    )


def nn_step():
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 3).to("trn"))
    model(torch.ones(2, 3, device="trn")).sum().backward()
    return model.module.weight.grad.device.type


def test_init_process_group_without_arguments():
    with running(2, backend=None) as ranks:
        assert ranks(chosen) == [("trn", "trn", "ProcessGroupTrn", True, True, "trn")] * 2


BODY = """
import datetime, os
import torch, torch.distributed as dist
name = os.environ.get("TORCH_TRN_DEVICE_NAME", "trn")
rank = int(os.environ["RANK"])
dist.init_process_group(device_id=torch.device(name, rank), timeout=datetime.timedelta(seconds=30))
assert dist.get_backend() == name, dist.get_backend()
x = torch.full((2,), float(rank), device=name)
dist.all_reduce(x)
assert x.tolist() == [6.0, 6.0], x
half = dist.split_group(split_ranks=[[0, 1], [2, 3]])
y = torch.full((2,), float(rank), device=name)
dist.all_reduce(y, group=half)
assert y.tolist() == [1.0, 1.0] if rank < 2 else [5.0, 5.0], y
mesh = dist.init_device_mesh(name, (2, 2), mesh_dim_names=("a", "b"))
z = torch.full((2,), float(rank), device=name)
dist.all_reduce(z, group=mesh["a"].get_group())
assert z.tolist() == [2.0 * (rank % 2) + 2.0] * 2, z
outs = [torch.empty(2, device=name) for _ in range(4)]
dist.all_gather(outs, x)
dist.barrier()
print("rank", rank, "done", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("setting", [{}, {"TORCH_TRN_DEVICE_NAME": "neuron"}, {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}])
def test_torchrun_with_a_device_and_split_groups(setting, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(BODY)
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", str(script)],
        env=clean | {"OMP_NUM_THREADS": "1"} | setting,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("done") == 4


def saved(folder):
    """Saves a sharded model and optimizer; loads them into another sharding and into a plain model."""
    import torch.distributed.checkpoint as dcp
    import trainings
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.fsdp import fully_shard

    size = dist.get_world_size()

    def sharded(mesh):
        model = trainings.mlp().to("trn")
        for layer in model:
            if isinstance(layer, torch.nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    def state(model, optimizer):
        parameters, moments = get_state_dict(model, optimizer)
        return {"model": parameters, "optimizer": moments}

    model, optimizer = sharded(dist.init_device_mesh("trn", (size,)))
    trainings.train(model, model, torch.device("trn"), optimizer=optimizer)
    dcp.save(state(model, optimizer), checkpoint_id=folder)
    expected = [trainings.full(parameter) for parameter in model.parameters()]
    losses = trainings.train(model, model, torch.device("trn"), optimizer=optimizer, steps=2)

    found = {}
    mesh = dist.init_device_mesh("trn", (size // 2, 2), mesh_dim_names=("replicate", "shard"))
    other, other_optimizer = sharded(mesh)
    loaded = state(other, other_optimizer)
    dcp.load(loaded, checkpoint_id=folder)
    set_state_dict(other, other_optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    found["resharded"] = all(torch.equal(a, trainings.full(b)) for a, b in zip(expected, other.parameters()))
    again = trainings.train(other, other, torch.device("trn"), optimizer=other_optimizer, steps=2)
    found["goes on"] = torch.allclose(torch.tensor(losses), torch.tensor(again), rtol=1e-5)
    plain = trainings.mlp().to("trn")
    loaded = {"model": plain.state_dict()}
    dcp.load(loaded, checkpoint_id=folder)
    plain.load_state_dict(loaded["model"])
    found["plain"] = all(torch.equal(a, trainings.full(b)) for a, b in zip(expected, plain.parameters()))
    return found


def test_checkpoints_save_load_and_reshard(four_ranks, tmp_path):
    for found in four_ranks(saved, str(Path(tmp_path) / "checkpoint")):
        assert all(found.values()), found
