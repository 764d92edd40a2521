"""Many ranks in one process: what they find, what they compute, how they end."""

import os
import random
import sys
import threading
import warnings

import torch
import torch.distributed as dist

import torch_trn


def values_of(world_size, fn, *args, **options):
    return torch_trn.simulate(fn, world_size, args=args, profile=False, **options).results


def sums():
    dist.init_process_group()
    rank = dist.get_rank()
    x = torch.full((5,), float(rank + 1), device="trn")
    dist.all_reduce(x)
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (rank, x.device.index, x.tolist()))
    dist.destroy_process_group()
    return everyone


def test_ranks_meet_as_under_torchrun():
    for results in values_of(4, sums):
        assert results == [(rank, rank, [10.0] * 5) for rank in range(4)]


def own_state():
    """Everything a process has once, changed by each rank between collectives."""
    dist.init_process_group()
    rank = dist.get_rank()
    torch.manual_seed(rank)
    random.seed(rank)
    os.environ["OWN"] = str(rank)
    sys.argv.append(str(rank))
    torch.set_default_dtype(torch.float64 if rank % 2 else torch.float32)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error" if rank else "ignore")
        for _ in range(3):
            dist.barrier()
            try:
                warnings.warn("is it an error?", UserWarning, stacklevel=1)
                raised = False
            except UserWarning:
                raised = True
            found.append((torch.rand(2).tolist(), random.random(), torch.rand(2, device="trn").tolist(), raised))
    return (
        found,
        os.environ["OWN"],
        os.environ["RANK"],
        sys.argv[-1],
        torch.get_default_dtype(),
        torch.trn.current_device(),
    )


def test_each_rank_has_the_state_of_a_process():
    before = dict(os.environ), list(sys.argv), torch.get_rng_state(), threading.active_count(), list(warnings.filters)
    devices = torch.trn.device_count()
    results = values_of(5, own_state)
    for rank, (found, own, env_rank, argument, dtype, device) in enumerate(results):
        assert (own, env_rank, argument, device) == (str(rank), str(rank), str(rank), rank)
        assert dtype is (torch.float64 if rank % 2 else torch.float32)
        generator, plain = torch.Generator().manual_seed(rank), random.Random(rank)
        on_device = torch.Generator("trn:0").manual_seed(rank)
        for cpu, python, device_values, raised in found:
            assert cpu == torch.rand(2, generator=generator, dtype=dtype).tolist()
            assert python == plain.random()
            assert device_values == torch.rand(2, generator=on_device, dtype=dtype, device="trn:0").tolist()
            assert raised is (rank > 0)
    assert not dist.is_initialized()
    assert torch.trn.device_count() == devices
    after = dict(os.environ), list(sys.argv), torch.get_rng_state(), threading.active_count(), list(warnings.filters)
    assert before[:2] == after[:2] and torch.equal(before[2], after[2]) and before[3:] == after[3:]
