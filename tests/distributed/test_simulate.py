"""Many ranks in one process: what they find, what they compute, how they end."""

import os
import random
import sys
import threading
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn import functional as F

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


def saved_beside(folder):
    """torch.distributed.checkpoint's asynchronous save: collectives on a thread of each rank."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("cpu:gloo,trn:trn")
    torch.manual_seed(0)
    model = fully_shard(nn.Linear(8, 8).to("trn"))
    expected = [parameter.full_tensor().cpu() for parameter in model.parameters()]
    future = dcp.async_save({"model": model.state_dict()}, checkpoint_id=folder)
    model(torch.ones(4, 8, device="trn")).sum().backward()
    future.result()
    state = {"model": {name: value.zero_() for name, value in model.state_dict().items()}}
    dcp.load(state, checkpoint_id=folder)
    return all(torch.equal(a, value.full_tensor().cpu()) for a, value in zip(expected, state["model"].values()))


@pytest.mark.filterwarnings("ignore")  # torch's, which processes only print
def test_threads_of_a_rank_are_its_own(tmp_path):
    assert values_of(3, saved_beside, str(tmp_path), timeout=60) == [True] * 3


def parallel_loss():
    """A rank's turn ends inside of PyTorch's context, where another's begins."""
    dist.init_process_group()
    mesh = init_device_mesh("trn", (dist.get_world_size(),))
    logits = torch.arange(24.0).view(4, 6).sin()
    own = distribute_tensor(logits.to("trn"), mesh, [Shard(1)]).requires_grad_()
    with loss_parallel():
        loss = F.cross_entropy(own, torch.tensor([0, 5, 2, 3], device="trn"))
        loss.backward()
    gradient = own.grad.full_tensor().cpu()
    found = loss.full_tensor().item(), gradient
    dist.destroy_process_group()
    return found


def test_a_loss_in_parallel():
    logits = torch.arange(24.0).view(4, 6).sin().requires_grad_()
    expected = F.cross_entropy(logits, torch.tensor([0, 5, 2, 3]))
    expected.backward()
    handlers = dict(DTensor._op_dispatcher._custom_op_handlers)
    for loss, gradient in values_of(3, parallel_loss):
        assert loss == pytest.approx(expected.item())
        torch.testing.assert_close(gradient, logits.grad)
    assert handlers == DTensor._op_dispatcher._custom_op_handlers


def optimizer_state():
    dist.init_process_group()
    torch.manual_seed(0)
    index = torch.accelerator.current_device_index()
    model = FullyShardedDataParallel(nn.Linear(4, 4), device_id=index, use_orig_params=True)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4, device="trn")).sum().backward()
    optimizer.step()
    found = FullyShardedDataParallel.optim_state_dict(model, optimizer)["state"]["weight"]["exp_avg"].cpu()
    dist.destroy_process_group()
    return found


@pytest.mark.filterwarnings("ignore")  # FSDP1 is deprecated, and says more
def test_the_optimizer_state_of_fsdp():
    """PyTorch notes in a class which part a process is in; ranks are in the same part at once."""
    one, other = values_of(2, optimizer_state)
    assert one.shape == (4, 4) and torch.allclose(one, torch.full((4, 4), 0.2))
    assert torch.equal(other, one) or other.numel() == 0
