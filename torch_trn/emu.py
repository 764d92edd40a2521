"""The emulated NeuronCore: memories as numpy arrays, one method per instruction with the operand names of nki.isa.

    core = NeuronCore("trn2")
    x, y = core.sbuf("float32", 128, 512), core.sbuf("bfloat16", 128, 512)
    x.write(numpy.random.randn(128, 512))
    core.activation(y, "exp", x)
    y.read()
    print(core.timeline())

docs/instructions.md lists the instructions with their operands, limits and cycles.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from torch_trn import _C, target_files
from torch_trn.core_turns import Turns
from torch_trn.timeline import Timeline

__all__ = ["LogicalCore", "NeuronCore"]

T = TypeVar("T")


class NeuronCore(_C.NeuronCore):
    """One NeuronCore: HBM, SBUF, PSUM, the DMA and the five engines.

    Instructions compute as they are called; `timeline()` puts them on the simulated clock, where engines and DMA queues
    run side by side.

    Args:
        target: a packaged target ("trn1", "trn2", "trn3", "inf2") or the path of a TOML file: sizes, limits and dtypes
            are its generation's. Or a `LogicalCore`, which makes its own cores.
        seed: of random numbers and of stochastic rounding.
        strict: whether reading elements that nothing wrote raises. They are NaN in any case.
        synchronization: "automatic": an instruction waits for those whose tiles it uses, as a compiler arranges it.
            "semaphores": only `semaphore_increment` and `semaphore_wait` order engines and DMA queues, and an
            instruction that races with an earlier one raises.
        departures: switches of the arithmetic, as in `torch_trn.set_numerics`.

    Attributes:
        rank: which of a logical core's cores it is, from 0.

    Raises:
        TargetError: no such target, or a bad file; names the file and the field.
        RuntimeError, ValueError, NotImplementedError: an illegal instruction; names the instruction, the rule, the
            value and the limit.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | LogicalCore = "trn2",
        seed: int = 0,
        *,
        strict: bool = False,
        synchronization: str = "automatic",
        rank: int = 0,
        **departures: Any,
    ) -> None:
        if isinstance(target, LogicalCore):
            self._shared = target._shared
            self.target = target.target
        else:
            self.target = target_files.load(target)
            self._shared = _C.LogicalCore(_C.Target(self.target), 1, synchronization)
        super().__init__(self._shared, rank, seed, strict=strict, **departures)

    def timeline(self) -> Timeline:
        """Every instruction so far on the simulated clock, of all the logical core's cores; they have the device's HBM
        to themselves."""
        return Timeline(self._shared.timeline())


class LogicalCore:
    """The NeuronCores of one PyTorch device, which share HBM: two on trn2 and trn3, one on trn1 and inf2.

        def kernel(core):
            mine, other = core.sbuf("float32", 128, 512), core.sbuf("float32", 128, 512)
            mine.write(numpy.full((128, 512), core.rank))
            core.sendrecv(mine, other, send_to_rank=1 - core.rank, recv_from_rank=1 - core.rank, pipe_id=0)
            return other.read()

        logical = LogicalCore("trn2")
        of_rank_0, of_rank_1 = logical.run(kernel)
        print(logical.timeline())

    `run` calls a kernel once on each core; `cores` can be driven by hand as well. What the cores run together
    (`core_barrier`, `sendrecv`, `sendrecv_compute`) is in flight from the first core's call to the other one's: what it
    uses waits, in `run` by letting the other core go on, by hand as an error. Instructions of different cores that use
    one tensor in HBM, at least one of them writing, raise unless a `core_barrier` on it comes between.

    Args: as of `NeuronCore`. Core i's random numbers start from `seed + i`.

    Attributes:
        cores: the cores, by rank.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] = "trn2",
        seed: int = 0,
        *,
        strict: bool = False,
        synchronization: str = "automatic",
        **departures: Any,
    ) -> None:
        self.target = target_files.load(target)
        self._is_running = False
        num_cores: int = self.target["device"]["num_cores"]
        self._shared = _C.LogicalCore(_C.Target(self.target), num_cores, synchronization)
        self.cores = tuple(
            NeuronCore(self, seed + rank, strict=strict, rank=rank, **departures) for rank in range(num_cores)
        )

    def run(self, kernel: Callable[..., T], *args: Any) -> list[T]:
        """Calls `kernel(core, *args)` once for each core, and returns what the calls return, by rank.

        One core runs at a time, in the order of ranks, until it needs what another one has not brought. Runs are
        repeatable.

        Raises:
            RuntimeError: a core waits for what the other one, which waits too or has returned, will not bring.
            Whatever a kernel raises.
        """
        if self._is_running:
            raise RuntimeError("[LogicalCore.run] one kernel runs at a time; got another call of run. Wait for it.")
        self._shared.require_settled("LogicalCore.run")
        turns = Turns(len(self.cores), lambda: self._shared.num_joined)
        self._shared.set_wait(turns.wait)
        self._is_running = True
        try:
            results = turns.run([functools.partial(kernel, core, *args) for core in self.cores])
            self._require_all_met()
            return results
        except BaseException:
            self._shared.abandon()  # nobody comes to what a kernel that failed has left in flight
            raise
        finally:
            self._is_running = False
            self._shared.set_wait(None)

    def _require_all_met(self) -> None:
        try:
            self._shared.require_settled("LogicalCore.run")
        except ValueError as error:
            raise RuntimeError(str(error)) from None

    def timeline(self) -> Timeline:
        """Every instruction so far on the simulated clock; the cores have the device's HBM to themselves."""
        return Timeline(self._shared.timeline())
