"""Strict modes: what the hardware would do slowly or leave undefined becomes an error or a NaN."""

from __future__ import annotations

import os
from types import TracebackType

from torch_trn import _C

_state = {"fallback": False, "uninitialized": False}


def _apply(state: dict[str, bool]) -> None:
    _state.update(state)
    _C.set_strict_fallback(_state["fallback"])
    if _C.is_initialized() or _state["uninitialized"]:
        _C.set_poison(_state["uninitialized"])


class strict:
    """Turns strict modes on at once, or for a `with` block.

    Args:
        fallback: an operator that TorchNeuron would run on the host raises NotImplementedError, naming it.
        uninitialized: fresh device memory reads as NaN (integers as -1).
    """

    def __init__(self, fallback: bool = False, uninitialized: bool = False) -> None:
        self._previous = dict(_state)
        _apply({"fallback": fallback, "uninitialized": uninitialized})

    def __enter__(self) -> strict:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _apply(self._previous)


def apply_environment() -> None:
    """TORCH_TRN_STRICT: "1" for all modes, or their names, separated by commas."""
    text = os.environ.get("TORCH_TRN_STRICT", "").strip()
    if not text or text == "0":
        return
    names = set(_state) if text == "1" else {part.strip() for part in text.split(",")}
    unknown = names - set(_state)
    if unknown:
        raise ValueError(f"[strict] TORCH_TRN_STRICT takes {', '.join(_state)} or 1; got {', '.join(sorted(unknown))}.")
    strict(**{name: True for name in names})
