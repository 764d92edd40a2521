"""Which rank of a simulation the calling thread works for."""

from __future__ import annotations

import threading


class _Here(threading.local):
    rank: int | None = None


_here = _Here()


def current_rank() -> int | None:
    """The simulated rank of this thread, or of the thread that started it; None outside of a simulation."""
    return _here.rank


def set_current_rank(rank: int | None) -> None:
    _here.rank = rank
