"""`torch_trn.simulate()`: the ranks of a distributed job in one process, with the values that processes would give."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from torch_trn import _C, native
from torch_trn.distributed import set_job
from torch_trn.job import JobReport, merge
from torch_trn.profiler import profile as recording
from torch_trn.rank_environment import rank_environment
from torch_trn.rank_profilers import install as install_profilers
from torch_trn.rank_state import RankState
from torch_trn.rank_threads import DeadlockError, RankEnded, RankError, Ranks, RanksTimeoutError
from torch_trn.rank_waits import install as install_waits
from torch_trn.rank_worlds import Worlds
from torch_trn.recording import Recording

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["DeadlockError", "RankEnded", "RankError", "RanksTimeoutError", "Simulation", "simulate"]

MAX_RANKS = 128  # devices that torch can number


class Simulation:
    """What a simulation gave: `results[rank]` is what the function returned, `profiles[rank]` what it cost."""

    def __init__(self, results: list[Any], profiles: list[Recording]) -> None:
        self.results = results
        self.profiles = profiles

    @property
    def world_size(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        return f"<torch_trn.Simulation of {self.world_size} ranks>"

    @cached_property
    def report(self) -> JobReport:
        """The ranks' profiles as one report of the job, as `torch_trn.merge` makes it of processes' files."""
        return merge(self.profiles)

    def __rich__(self) -> RenderableType:
        return self.report.__rich__() if self.profiles else repr(self)

    def __str__(self) -> str:
        return str(self.report) if self.profiles else repr(self)


def simulate(
    fn: Callable[..., Any],
    world_size: int,
    *,
    args: tuple[Any, ...] = (),
    target: str | None = None,
    values: bool = True,
    roles: Any = None,
    timeout: float | None = None,
    mode: str = "eager",
    profile: bool = True,
) -> Any:
    """Runs `fn(*args)` on `world_size` ranks in this process, each on a device of its own.

    A rank is a thread that finds what torchrun gives a process: RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* in its
    environment, `init_process_group()` that meets the others, its own random numbers, and the device `trn:rank`
    current. Collectives give the bits that processes over gloo give. Ranks take turns, so that what a process has
    once is each rank's own: the environment, sys.argv, the CPU's generators.

    Args:
        fn: what every rank runs; a torchrun script's `main`.
        world_size: number of ranks, 1 to 128 with values.
        args: its arguments, the same objects on all ranks.
        target: target for the time of the run; the current one where left out.
        values: False computes no values, at any number of ranks: one rank stands for its peers, see
            `torch_trn.one_rank.run_roles`. A `dry_run(values=...)` around the call answers what the host reads.
        roles: with values=False, the ranks to run: rank 0 where left out; for a pipeline one of each stage, in order.
        timeout: seconds after which all ranks are ended.
        mode: "eager" or "compiled", of the profiles.
        profile: record each rank's profile.

    Returns:
        A `Simulation`; with values=False a `OneRankRun`.

    Raises:
        RankError: a rank raised; its error is the cause. The others were ended.
        DeadlockError: every rank that is left waits for another.
        RanksTimeoutError: the ranks took longer than `timeout`.
    """
    if not values:
        from torch_trn.one_rank import run_roles

        if timeout is not None:
            raise ValueError("[simulate] a timeout ends ranks that wait; got one with values=False. Leave it out.")
        return run_roles(fn, world_size, args=args, target=target, roles=roles, mode=mode)
    checked_world_size(world_size)
    profiles = [recording(mode=mode) for _ in range(world_size)] if profile else []

    def body(rank: int) -> Any:
        with profiles[rank] if profile else nullcontext():
            return fn(*args)

    results = run_ranks(body, world_size, target=target, timeout=timeout)
    return Simulation(results, list(profiles))


def checked_world_size(world_size: int) -> int:
    if not isinstance(world_size, int) or not 1 <= world_size <= MAX_RANKS:
        raise ValueError(
            f"[simulate] world_size must be a number of ranks; got {world_size!r}, limit 1 to {MAX_RANKS}. "
            "More ranks than that run with values=False."
        )
    if _C.has_turn():
        raise RuntimeError("[simulate] a rank cannot simulate ranks itself; got a call from one. Call it outside.")
    return world_size


def run_ranks(
    body: Callable[[int], Any],
    world_size: int,
    *,
    target: str | None = None,
    timeout: float | None = None,
    prepare: Callable[[int, RankState], None] | None = None,
) -> list[Any]:
    """What `body(rank)` returns on each rank; `prepare(rank, state)` may change what a rank finds when it starts."""
    with ExitStack() as stack:
        if target is not None:
            previous = native.extension().current_target()
            stack.callback(native.extension().set_target, previous)
            from torch_trn.target import set_target

            set_target(target)
        num_devices = _C.device_count()
        _C.set_num_devices(max(world_size, num_devices))
        stack.callback(_C.set_num_devices, num_devices)
        _C.init()
        _C.align_clocks(world_size)

        states = [RankState(rank_environment(rank, world_size, world_size)) for rank in range(world_size)]
        before = RankState()
        if prepare is not None:
            for rank, state in enumerate(states):
                prepare(rank, state)

        def switched(last: int, rank: int) -> None:
            if last >= 0:
                states[last].save()
            states[rank].restore()

        turns = _C.Turns(world_size, switched)
        worlds = Worlds(turns, world_size)
        _C.set_current_turns(turns)
        stack.callback(_forget, world_size, num_devices)
        stack.callback(worlds.clear)
        stack.callback(_C.set_current_turns, None)
        stack.callback(before.restore)
        stack.callback(set_job, 0, 1)
        set_job(0, world_size)
        worlds.install(stack)
        install_waits(stack, turns, world_size)
        install_profilers(stack)
        return Ranks(turns, [partial(_on_device, rank, body) for rank in range(world_size)], timeout).run()


def _on_device(rank: int, body: Callable[[int], Any]) -> Any:
    torch.accelerator.set_device_index(rank)
    return body(rank)


def _forget(world_size: int, num_devices: int) -> None:
    """Frees what the ranks left: groups, and the memory of devices that are not there any more."""
    gc.collect()
    name = torch._C._get_privateuse1_backend_name()
    if world_size > num_devices:
        module = getattr(torch, name)
        for index in range(num_devices, world_size):
            with module.device(index):
                module.empty_cache()
