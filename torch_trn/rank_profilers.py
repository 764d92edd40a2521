"""PyTorch's profiler in simulated ranks: a process has one recording, and so one rank at a time."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from torch_trn.this_rank import current_rank


def install(stack: ExitStack) -> None:
    """For as long as `stack` is open."""
    profiler: Any = importlib.import_module("torch.autograd.profiler")
    recording: list[int | None] = []  # whose profiler runs, from its preparation on
    prepare, enable, disable = profiler._prepare_profiler, profiler._enable_profiler, profiler._disable_profiler

    def claim() -> None:
        rank = current_rank()
        if recording and recording[0] != rank:
            # Another thread's recording in between would end the process in Kineto.
            raise RuntimeError(
                f"[simulate] PyTorch's profiler records one rank of a process; got rank {rank} while that of rank "
                f"{recording[0]} runs. Profile on one rank only, or all of them with torch_trn.profile()."
            )
        recording[:] = [rank]

    def prepare_for_rank(*args: Any, **options: Any) -> Any:
        claim()
        return prepare(*args, **options)

    def enable_for_rank(*args: Any, **options: Any) -> Any:
        claim()
        return enable(*args, **options)

    def disable_for_rank(*args: Any, **options: Any) -> Any:
        recording.clear()
        return disable(*args, **options)

    for name, new in (
        ("_prepare_profiler", prepare_for_rank),
        ("_enable_profiler", enable_for_rank),
        ("_disable_profiler", disable_for_rank),
    ):
        stack.enter_context(patch.object(profiler, name, new))
