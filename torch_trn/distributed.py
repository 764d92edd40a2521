"""The device's c10d backend: registered under the device's name, over gloo."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def _device_name() -> str:
    return str(torch._C._get_privateuse1_backend_name())


_rank = 0


def set_job(rank: int, world_size: int) -> None:
    """This process's rank in the job and the job's size, which collectives' time and a job's report go by."""
    from torch_trn import _C

    global _rank
    _rank = rank
    _C.set_world_size(world_size)


def rank() -> int:
    """This process's in the job, also after the process group was destroyed; 0 where there was none."""
    return _rank


def _take_own_device() -> None:
    """As TorchNeuron's backend: from `init_process_group` on, a process that torchrun started has a device of its own.

    accelerate relies on it. Under other names a script says `set_device` itself, as for CUDA.
    """
    local_rank = os.environ.get("LOCAL_RANK", "")
    if _device_name() == "neuron" and local_rank and torch.accelerator.current_device_index() == 0:
        torch.accelerator.set_device_index(int(local_rank) % torch.accelerator.device_count())


def _create(options: Any, _: Any) -> Any:
    """What `init_process_group` and `new_group` call: two gloo groups, for data and for what the ranks say about it."""
    from torch_trn import _C
    from torch_trn.rank_worlds import transport

    rank, size, timeout = options.group_rank, options.group_size, options.timeout
    if not isinstance(timeout, timedelta):
        timeout = timedelta(seconds=timeout)
    ranks = list(options.global_ranks_in_group) or list(range(size))
    if not dist.is_initialized():  # the job's own group
        set_job(rank, size)
        _take_own_device()
    parts: dict[str, Any] = {}
    for part in ("data", "control"):
        store = dist.distributed_c10d.PrefixStore(f"{part}/", options.store)
        group: Any = transport(store, rank, size, timeout)
        group.options.group_name = f"{options.group_id}/{part}"
        group.options.global_ranks_in_group = ranks
        parts[part] = group
    return _C.ProcessGroupTrn(
        name=_device_name(), group=str(options.group_id), global_ranks=ranks, timeout=timeout, **parts
    )


def _with_default_backend(create_group: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the device's backend its group's default, which DDP asks for.

    torch takes gloo for a group without a named backend, and none for one like "cpu:gloo,trn:trn".
    """

    @functools.wraps(create_group)
    def create(size: int, rank: int, ranks: list[int], backend: Any, *args: Any, **kwargs: Any) -> Any:
        name = _device_name()
        accelerator = torch.accelerator.current_accelerator()
        if backend == dist.Backend.UNDEFINED and accelerator is not None and accelerator.type == name:
            backend = dist.Backend(name)
        group, store = create_group(size, rank, ranks, backend, *args, **kwargs)
        if isinstance(group, dist.ProcessGroup) and f"{name}:{name}" in str(backend).split(","):
            group._set_default_backend(dist.ProcessGroup.BackendType.CUSTOM)
        return group, store

    return create


def _monitored(barrier: Callable[..., None]) -> Callable[..., None]:
    """torch's monitored_barrier asks for gloo by name."""

    @functools.wraps(barrier)
    def monitored_barrier(group: Any = None, timeout: Any = None, wait_all_ranks: bool = False) -> None:
        name = _device_name()
        config = dist.distributed_c10d.BackendConfig(dist.Backend(dist.get_backend_config(group)))
        if dist.distributed_c10d._rank_not_in_group(group) or config.device_backend_map.get(name) != name:
            return barrier(group, timeout, wait_all_ranks)
        process_group = group or dist.distributed_c10d._get_default_group()
        backend: Any = process_group._get_backend(torch.device(name))
        backend.monitored_barrier(timeout or backend.options._timeout, wait_all_ranks=wait_all_ranks)
        return None

    return monitored_barrier


def install() -> None:
    """Registers the backend; a second call changes nothing."""
    name = _device_name()
    if not dist.is_available() or name in dist.Backend.backend_list:
        return
    dist.Backend.register_backend(name, _create, extended_api=True, devices=[name])
    c10d = dist.distributed_c10d
    c10d._new_process_group_helper = _with_default_backend(c10d._new_process_group_helper)
    c10d.monitored_barrier = dist.monitored_barrier = _monitored(c10d.monitored_barrier)
