"""Collectives in a profile: counts and bytes against CommDebugMode and closed forms."""

import pytest
import torch
import torch.distributed as dist
import trainings
from torch import nn


def recorded(work):
    import torch_trn

    with torch_trn.profile() as prof:
        work()
    return prof.collectives


def each_call():
    """One call of each kind, of 24 elements in the larger tensor."""
    rank, size = dist.get_rank(), dist.get_world_size()
    part = 24 // size

    def ones(count, dtype=torch.float32):
        return torch.ones(count, dtype=dtype, device="trn")

    def work():
        dist.all_reduce(ones(24))
        dist.all_gather_into_tensor(ones(24), ones(part))
        dist.reduce_scatter_tensor(ones(part), ones(24))
        dist.broadcast(ones(24), 0)
        dist.reduce(ones(24), 0)
        dist.gather(ones(part), [ones(part) for _ in range(size)] if rank == 0 else None, 0)
        dist.all_to_all_single(ones(24, torch.bfloat16), ones(24, torch.bfloat16))
        dist.send(ones(5), 1) if rank == 0 else dist.recv(ones(5), 0) if rank == 1 else None

    return (
        rank,
        size,
        [
            (row["op"], row["dtype"], row["bytes"], row["moved_bytes"], row["count"], row["ranks"])
            for row in recorded(work)
        ],
    )


@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_bytes_are_the_closed_forms(ranks, request):
    for rank, size, rows in request.getfixturevalue(ranks)(each_call):
        everyone, chunk = list(range(size)), 24 * 4 // size
        expected = [
            ("all_reduce", "float32", 96, 2 * chunk * (size - 1), 1, everyone),
            ("all_gather_into_tensor", "float32", 96, chunk * (size - 1), 1, everyone),
            ("reduce_scatter_tensor", "float32", 96, chunk * (size - 1), 1, everyone),
            ("broadcast", "float32", 96, 96 if rank == 0 else 0, 1, everyone),
            ("reduce", "float32", 96, 0 if rank == 0 else 96, 1, everyone),
            ("gather", "float32", 96 if rank == 0 else chunk, 0 if rank == 0 else chunk, 1, everyone),
            ("all_to_all_single", "bfloat16", 48, 48 * (size - 1) // size, 1, everyone),
        ]
        if rank < 2:
            expected.append(("recv" if rank else "send", "float32", 20, 0 if rank else 20, 1, everyone))
        assert sorted(rows) == sorted(expected)


def per_step(build, steps=3):
    """(op, calls, bytes) of `steps` steps as CommDebugMode and as the profile saw them, after two others."""
    from torch.distributed.tensor.debug import CommDebugMode

    device = trainings.device_of("trn")
    model = build(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

    def step():
        model(trainings.batch(0).to(device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):  # DDP orders its buckets after the first
        step()
    seen = CommDebugMode()
    with seen:
        step()
    rows = recorded(lambda: [step() for _ in range(steps)])
    counts = {}
    for row in rows:
        calls, moved = counts.get(row["op"], (0, 0))
        counts[row["op"]] = calls + row["count"], moved + row["count"] * row["moved_bytes"]
    return (
        {str(name): count for name, count in seen.get_comm_counts().items()},
        {op: (calls / steps, moved / steps) for op, (calls, moved) in counts.items()},
        sum(parameter.numel() for parameter in model.parameters()),
        {row["module"] for row in rows},
        {row["line"].rpartition(":")[0].rpartition("/")[2] for row in rows},
    )


def ddp_model(device):
    return nn.parallel.DistributedDataParallel(trainings.mlp().to(device))


def fsdp_model(device):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("trn", (dist.get_world_size(),))
    model = trainings.mlp().to(device)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel_model(device):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = dist.init_device_mesh("trn", (dist.get_world_size(),))
    model = trainings.blocks().to(device)
    for block in model:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_ddp_steps(ranks, request):
    pool = request.getfixturevalue(ranks)
    for debug, counts, parameters, _, lines in pool(per_step, ddp_model):
        assert debug == {"c10d.allreduce_": 1}
        # One bucket; and bytes of every gradient, reduced and sent round again.
        size = pool.world_size
        assert counts == {"all_reduce": (1, 2 * 4 * parameters * (size - 1) // size)}
        assert lines == {"test_recording.py"}


@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_fsdp2_steps(ranks, request):
    pool = request.getfixturevalue(ranks)
    for debug, counts, _, modules, _ in pool(per_step, fsdp_model):
        size, layers = pool.world_size, 6
        whole = sum(4 * (16 * 32 + bias) for bias in (32, 16)) * 3
        moved = whole * (size - 1) // size
        assert debug == {"c10d._allgather_base_": 2 * layers, "c10d._reduce_scatter_base_": layers}
        # Gathered once for forward and once for backward; gradients scattered once.
        assert counts == {
            "all_gather_into_tensor": (2 * layers, 2 * moved),
            "reduce_scatter_tensor": (layers, moved),
        }
        assert len(modules) > 1


@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_tensor_parallel_steps(ranks, request):
    pool = request.getfixturevalue(ranks)
    for debug, counts, _, _, _ in pool(per_step, tensor_parallel_model):
        size, bytes_of_batch = pool.world_size, 4 * trainings.BATCH * trainings.WIDTH
        # Forward: one sum after each block's second product. Backward: one before its first.
        assert debug == {"c10d_functional.all_reduce": 4}
        assert counts == {"all_reduce": (4, 4 * 2 * bytes_of_batch * (size - 1) // size)}
