"""torch.cuda.nvtx's names as ranges of PyTorch's profiler, so that scripts annotated for CUDA run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd.profiler import record_function

__all__ = ["mark", "range", "range_end", "range_pop", "range_push", "range_start"]


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.ranges: list[record_function] = []


_of_thread = _OfThread()


def range_push(msg: str) -> int:
    """Begins a range inside of those that run on this thread. Returns its depth, 0 for the outermost."""
    _of_thread.ranges.append(range_start(msg))
    return len(_of_thread.ranges) - 1


def range_pop() -> int:
    """Ends the range begun last on this thread. Returns its depth, -1 where none runs."""
    if _of_thread.ranges:
        range_end(_of_thread.ranges.pop())
        return len(_of_thread.ranges)
    return -1


def range_start(msg: str) -> record_function:
    """Begins a range of its own and returns what `range_end` takes."""
    begun = record_function(msg)
    begun.__enter__()  # type: ignore[no-untyped-call]
    return begun


def range_end(range_id: record_function) -> None:
    """Ends a range that `range_start` began."""
    if not isinstance(range_id, record_function):
        raise TypeError(
            f"[nvtx.range_end] a range is what range_start returned; got {type(range_id).__name__}. Keep its result."
        )
    range_id.__exit__(None, None, None)


def mark(msg: str) -> None:
    """An instant: a range that ends at once."""
    range_end(range_start(msg))


@contextmanager
def range(msg: str, *args: Any, **kwargs: Any) -> Iterator[None]:
    """A range around a block or, as a decorator, a function; the message is formatted with the arguments."""
    range_push(msg.format(*args, **kwargs))
    try:
        yield
    finally:
        range_pop()
