"""One rank of a job runs in this process, without values, and stands for its peers."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from torch_trn import _C
from torch_trn import distributed as _distributed
from torch_trn.dry_run import NoValueError, dry_run
from torch_trn.profiler import profile
from torch_trn.rank_environment import rank_environment
from torch_trn.roles import OneRankRun, Role


def run_roles(
    fn: Callable[..., Any],
    world_size: int,
    *,
    args: Sequence[Any] = (),
    target: str | None = None,
    roles: Sequence[int] | None = None,
    mode: str = "eager",
) -> OneRankRun:
    """Runs `fn(*args)` as each rank in `roles`, one after another, without values: `simulate(..., values=False)`.

    The environment is torchrun's, so that `fn` may call `init_process_group()`; every group, of any backend, has
    `world_size` ranks and moves nothing. The peers hold the values that this rank holds. A message or broadcast of
    another role, small enough to have values, has them here too: name the stages of a pipeline in order. The run's
    time is that of all roles side by side, each waiting for the messages and collectives of the others.

    Args:
        fn: what every rank runs; a torchrun script's `main`.
        world_size: number of ranks, as many as you like.
        args: its arguments.
        target: target to simulate for the length of the run.
        roles: ranks to run; the first alone where left out.
        mode: "eager" or "compiled", of the recordings.

    Raises:
        ValueError: a world size or role out of range.
        RuntimeError: this process has a process group already. What `fn` raises, with the rank in a note.
    """
    chosen = [0] if roles is None else list(roles)
    if world_size < 1 or not chosen or not all(0 <= rank < world_size for rank in chosen):
        raise ValueError(
            f"[simulate] roles are ranks of the job; got {chosen} and world_size {world_size}, limit 0 to "
            f"{world_size - 1}."
        )
    if dist.is_initialized():
        raise RuntimeError(
            "[simulate] ranks make their own process group; got a process that has one. Call destroy_process_group()."
        )
    with _on_target(target), dry_run():
        run = partial(_run_role, partial(fn, *args), world_size, mode, len(chosen) > 1)
        done = _run_all(run, chosen)
        return OneRankRun(world_size, tuple(done[rank] for rank in chosen))


def _run_all(run: Callable[[int, Any], Role], chosen: Sequence[int]) -> dict[int, Role]:
    """Each role once; again, one that read what another role had yet to send (how pipelines agree on shapes)."""
    done: dict[int, Role] = {}
    letters = _C.Letters()
    waiting = list(chosen)
    while waiting:
        count, left = letters.count(), []
        for rank in waiting:
            letters.missed()
            gc.collect()  # a role before may have left its model in reference cycles
            try:
                done[rank] = run(rank, letters)
            except NoValueError as error:
                missed = letters.missed()
                if others := sorted(missed - set(chosen)):
                    error.add_note(
                        f"[simulate] rank {others[0]} sends what this one reads, and is none of the roles {chosen}. "
                        "Name one rank of every stage, all of one pipeline."
                    )
                if not missed & set(chosen) or (letters.count() == count and rank == waiting[-1]):
                    raise
                left.append(rank)
        waiting = left[::-1]
    return done


def _run_role(fn: Callable[[], Any], world_size: int, mode: str, has_peers: bool, rank: int, letters: Any) -> Role:
    module = torch.get_device_module(torch._C._get_privateuse1_backend_name())
    device = rank % module.device_count()
    with one_rank(rank, world_size, letters):
        module.synchronize(device)  # nothing of a role before is under way
        module.reset_peak_memory_stats(device)
        before = module.memory_allocated(device)
        recording = profile(mode=mode, clock=has_peers)
        try:
            with recording:
                value = fn()
        except Exception as error:
            error.add_note(f"[simulate] on rank {rank} of {world_size}")
            raise
        peak = module.max_memory_allocated(device) - before
    return Role(rank, value, recording, peak)


@contextlib.contextmanager
def one_rank(rank: int, world_size: int, letters: Any = None) -> Iterator[None]:
    """Process groups made in the block have `world_size` ranks, of which this is `rank` and no other is there."""
    c10d: Any = dist.distributed_c10d
    name = torch._C._get_privateuse1_backend_name()
    module = torch.get_device_module(name)
    letters = _C.Letters() if letters is None else letters
    local_size = min(world_size, module.device_count())
    environment = rank_environment(rank, world_size, local_size)
    kept_environment = {key: os.environ.get(key) for key in environment}
    kept = (c10d.rendezvous, c10d.ProcessGroupGloo, dist.Backend._plugins[name.upper()], sys.excepthook)
    device = torch.accelerator.current_device_index()
    c10d.rendezvous = _rendezvous(rank, world_size)
    c10d.ProcessGroupGloo = _gloo(letters)
    dist.Backend._plugins[name.upper()] = dist.Backend._BackendPlugin(_creator(name, letters), True)
    threads = torch.get_num_threads()
    try:
        # What is left to compute are short loops of torch's own over ranks: a team of threads takes longer to gather.
        torch.set_num_threads(1)
        os.environ.update(environment)
        torch.accelerator.set_device_index(rank % local_size)
        _forget_meshes()
        _distributed.set_job(rank, world_size)
        yield
    finally:
        _distributed.set_job(0, 1)
        _forget_meshes()
        if dist.is_initialized():
            dist.destroy_process_group()
        c10d.rendezvous, c10d.ProcessGroupGloo, dist.Backend._plugins[name.upper()], sys.excepthook = kept
        for key, value in kept_environment.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        torch.accelerator.set_device_index(device)
        torch.set_num_threads(threads)


def _forget_meshes() -> None:
    """Distributed tensors cache what they computed for a mesh, with the mesh; one of another rank is equal to it."""
    api = sys.modules.get("torch.distributed.tensor._api")
    if api is None:
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("torch.distributed.tensor"):
            classes = [value for value in vars(module).values() if type(value) is type]
            for owner in (module, *classes):
                for value in vars(owner).values():
                    function = value.__func__ if type(value) is staticmethod else value
                    if type(function) is functools._lru_cache_wrapper:
                        function.cache_clear()
    propagator = api.DTensor._op_dispatcher.sharding_propagator
    propagator.propagate_op_sharding = type(propagator.propagate_op_sharding)(
        propagator.propagate_op_sharding_non_cached
    )
    sys.modules["torch.distributed.tensor._redistribute"].clear_redistribute_planner_cache()
    torch._C._clear_DTensor_sharding_propagator_cache()


@contextlib.contextmanager
def _on_target(target: str | None) -> Iterator[None]:
    if target is None:
        yield
        return
    from torch_trn.target import set_target

    previous = _C.current_target()
    set_target(target)
    try:
        yield
    finally:
        _C.set_target(previous)


def _rendezvous(rank: int, world_size: int) -> Callable[..., Iterator[tuple[Any, int, int]]]:
    def rendezvous(url: str, asked_rank: int = -1, asked_size: int = -1, **_: Any) -> Iterator[tuple[Any, int, int]]:
        for what, asked, own in (("rank", asked_rank, rank), ("world_size", asked_size, world_size)):
            if asked not in (-1, own):
                raise ValueError(f"[simulate] init_process_group has the simulated {what}; got {asked}, limit {own}.")
        yield PeersStore(world_size), rank, world_size

    return rendezvous


def _creator(name: str, letters: Any) -> Callable[[Any, Any], Any]:
    def create(options: Any, _: Any) -> Any:
        timeout = options.timeout
        return _C.ProcessGroupOneRank(
            name=name,
            group=str(options.group_id),
            rank=options.group_rank,
            size=options.group_size,
            global_ranks=list(options.global_ranks_in_group) or list(range(options.group_size)),
            timeout=timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout),
            on_host=False,
            letters=letters,
        )

    return create


def _gloo(letters: Any) -> type:
    """What c10d makes for CPU tensors, and takes for its own ProcessGroupGloo."""

    class Gloo(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, _C.ProcessGroupOneRank)

        def __call__(cls, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
            return _C.ProcessGroupOneRank(
                name="gloo",
                group="host",
                rank=rank,
                size=size,
                global_ranks=list(range(size)),
                timeout=timeout,
                on_host=True,
                letters=letters,
            )

    return Gloo("ProcessGroupGloo", (), {})


def _encoded(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


class PeersStore(Store):
    """The job's key-value store where every peer adds what this rank adds; a key of another rank's own is an error."""

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self._world_size = world_size
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        self._values[key] = _encoded(value)

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        total = int(self._values.get(key, b"0")) + amount * self._world_size
        self._values[key] = str(total).encode()
        return total

    def compare_set(self, key: str, expected: Any, desired: Any) -> bytes:
        expected = _encoded(expected)
        found = self._values.get(key, b"")
        if found == expected:
            self.set(key, desired)
        return bytes(self._values.get(key, expected))  # of a missing key, as of c10d's stores

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)

    def set_timeout(self, timeout: timedelta) -> None:
        pass

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        missing = [key for key in keys if key not in self._values]
        if missing:
            raise RuntimeError(
                f"[simulate] one rank runs and its peers do not; got a wait for {missing[0]!r} in the store, which "
                "this rank has not set."
            )
