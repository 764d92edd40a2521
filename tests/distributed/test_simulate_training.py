"""Eight ranks in one process against eight processes on the CPU over gloo: every training, bit by bit."""

import os

import pytest
import torch
import torch.distributed as dist
import trainings
from ranks import running
from test_recording import ddp_model, fsdp_model, per_step, tensor_parallel_model
from torch import nn

import torch_trn

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, which processes only print

RANKS, STEPS = 8, 20
NAMES = [
    "ddp",
    "ddp_powersgd",
    "fsdp1",
    "fsdp2",
    "hsdp",
    "tensor_parallel",
    "sequence_parallel",
    "pipeline_1f1b",
    "zero_optimizer",
]


def simulated(fn, *args, world_size=RANKS):
    """In a world of its own; with one thread, as torchrun's processes have."""

    def rank():
        dist.init_process_group("cpu:gloo,trn:trn")
        return fn(*args)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch_trn.simulate(rank, world_size, profile=False).results
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def in_processes():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with running(RANKS, device="cpu", backend="gloo", start="forkserver") as ranks:
        return ranks(trainings.of_steps, STEPS, NAMES, "cpu", seconds=240)


@pytest.fixture(scope="module")
def in_one_process():
    return simulated(trainings.of_steps, STEPS, NAMES, "trn")


@pytest.mark.parametrize("name", NAMES)
def test_the_bits_of_processes(name, in_processes, in_one_process):
    for rank, (theirs, ours) in enumerate(zip(in_processes, in_one_process)):
        assert len(theirs[name]) == len(ours[name]) > 0
        for number, (a, b) in enumerate(zip(theirs[name], ours[name])):
            assert torch.isfinite(a).all()
            assert torch.equal(a, b), (rank, number, (a - b).abs().max())


def hsdp_model(device):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("trn", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    model = trainings.mlp().to(device)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


LAYERS, WIDTH = 6, trainings.WIDTH
WEIGHTS = 3 * sum(4 * (WIDTH * 2 * WIDTH + bias) for bias in (WIDTH, 2 * WIDTH))  # bytes of trainings.mlp()


def closed_forms(model, size):
    """Of one step: CommDebugMode's counts, then calls and bytes sent by a rank."""
    if model is ddp_model:  # one bucket of all gradients
        return {"c10d.allreduce_": 1}, {"all_reduce": (1, 2 * WEIGHTS * (size - 1) // size)}
    if model is fsdp_model:  # a layer is gathered for forward and again for backward
        moved = WEIGHTS * (size - 1) // size
        return {"c10d._allgather_base_": 2 * LAYERS, "c10d._reduce_scatter_base_": LAYERS}, {
            "all_gather_into_tensor": (2 * LAYERS, 2 * moved),
            "reduce_scatter_tensor": (LAYERS, moved),
        }
    if model is hsdp_model:  # within a half of the ranks; then each shard's gradients between the two halves
        shards = size // 2
        moved = WEIGHTS * (shards - 1) // shards
        return {
            "c10d._allgather_base_": 2 * LAYERS,
            "c10d._reduce_scatter_base_": LAYERS,
            "c10d.allreduce_": LAYERS,
        }, {
            "all_gather_into_tensor": (2 * LAYERS, 2 * moved),
            "reduce_scatter_tensor": (LAYERS, moved),
            "all_reduce": (LAYERS, 2 * WEIGHTS // shards // 2),
        }
    batch = 4 * trainings.BATCH * WIDTH  # forward: a sum after each block's second product; backward: before its first
    return {"c10d_functional.all_reduce": 4}, {"all_reduce": (4, 4 * 2 * batch * (size - 1) // size)}


MODELS = [ddp_model, fsdp_model, hsdp_model, tensor_parallel_model]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_counts_and_bytes_of_a_step(model, two_ranks, four_ranks):
    worlds = {4: four_ranks(per_step, model), 8: simulated(per_step, model)}
    if model is not hsdp_model:
        worlds[2] = two_ranks(per_step, model)
    for size, ranks in worlds.items():
        debug, counts = closed_forms(model, size)
        for found_debug, found_counts, *_ in ranks:
            assert found_debug == debug, size
            assert found_counts == counts, size
