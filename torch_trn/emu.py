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

import os
from typing import Any

from torch_trn import _C, target_files
from torch_trn.timeline import Timeline

__all__ = ["NeuronCore"]


class NeuronCore(_C.NeuronCore):
    """One NeuronCore: HBM, SBUF, PSUM, the DMA and the five engines.

    Instructions compute as they are called; `timeline()` puts them on the simulated clock, where engines and DMA queues
    run side by side.

    Args:
        target: a packaged target ("trn1", "trn2", "trn3", "inf2") or the path of a TOML file: sizes, limits and dtypes
            are its generation's.
        seed: of random numbers and of stochastic rounding.
        strict: whether reading elements that nothing wrote raises. They are NaN in any case.
        synchronization: "automatic": an instruction waits for those whose tiles it uses, as a compiler arranges it.
            "semaphores": only `semaphore_increment` and `semaphore_wait` order engines and DMA queues, and an
            instruction that races with an earlier one raises.
        departures: switches of the arithmetic, as in `torch_trn.set_numerics`.

    Raises:
        TargetError: no such target, or a bad file; names the file and the field.
        RuntimeError, ValueError, NotImplementedError: an illegal instruction; names the instruction, the rule, the
            value and the limit.
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
        super().__init__(_C.Target(self.target), seed, strict=strict, synchronization=synchronization, **departures)

    def timeline(self) -> Timeline:
        """Every instruction so far on the simulated clock; the core has the device's HBM to itself."""
        return Timeline(self._timeline())
