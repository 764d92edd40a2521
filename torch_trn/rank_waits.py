"""Waits of Python's own (sleep, join, conditions) in a simulated rank: the other ranks run meanwhile."""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from torch_trn import _C
from torch_trn.this_rank import current_rank, set_current_rank

_SLICE_SECONDS = 0.05  # an exception for the thread is raised between two


def _others_may_wake(num_ranks: int) -> bool:
    """Is there a thread that is neither a rank's nor the one that called simulate()?"""
    return threading.active_count() > num_ranks + 1


def _slices(wait: Callable[[float], bool], timeout: float | None) -> bool:
    """`wait(seconds)` until it is true or the time is over; interruptible in between."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _SLICE_SECONDS if deadline is None else min(_SLICE_SECONDS, deadline - time.monotonic())
        if wait(max(left, 0.0)):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


class _Starting(threading.local):
    now = False


def install(stack: ExitStack, turns: Any, num_ranks: int) -> None:
    """For as long as `stack` is open."""
    sleep, join, condition_wait = time.sleep, threading.Thread.join, threading.Condition.wait
    start, set_handler = threading.Thread.start, signal.signal
    get_cached = functools.cached_property.__get__
    starting = _Starting()

    def sleep_in_turn(seconds: float) -> None:
        if not _C.has_turn() or seconds < 0:
            return sleep(seconds)

        def part(left: float) -> bool:
            sleep(left)
            return False

        turns.wait(f"time.sleep({seconds:g})", True, lambda: _slices(part, seconds))
        return None

    def join_in_turn(self: threading.Thread, timeout: float | None = None) -> None:
        if not _C.has_turn() or not self.is_alive():
            return join(self, timeout)

        def part(left: float) -> bool:
            join(self, left)
            return not self.is_alive()

        turns.wait(f"threading.Thread.join of {self.name}", True, lambda: _slices(part, timeout))
        return None

    def condition_wait_in_turn(self: Any, timeout: float | None = None) -> bool:
        # A question without a wait (timeout 0) ends no turn: its asker may hold a lock that all ranks share.
        if not _C.has_turn() or starting.now or (timeout is not None and timeout <= 0):
            return condition_wait(self, timeout)
        if not self._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        # One waiter for all slices: a notification between two waits of their own would be lost.
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # Who has the turn may want the condition's lock: nobody waits for a turn while holding it.
        held = self._release_save()
        try:
            turns.wait(
                "threading.Condition.wait",
                timeout is not None or _others_may_wake(num_ranks),
                lambda: _slices(lambda left: waiter.acquire(True, left), timeout),
            )
        finally:
            self._acquire_restore(held)
            is_notified = waiter not in self._waiters
            if not is_notified:
                self._waiters.remove(waiter)
        return is_notified

    def start_of_rank(self: threading.Thread) -> None:
        rank = current_rank()
        if rank is None:
            return start(self)
        run = self.run

        def run_for_rank() -> None:
            set_current_rank(rank)
            run()

        self.run = run_for_rank  # type: ignore[method-assign]
        # It waits until the thread runs. Thread pools start threads under a lock of all pools: no turn ends there.
        starting.now = True
        try:
            return start(self)
        finally:
            starting.now = False

    def cached_property_of_rank(self: functools.cached_property[Any], instance: Any, owner: Any = None) -> Any:
        # Before Python 3.12 one lock of the class's is held while the value is made, though it may take a collective.
        values = getattr(instance, "__dict__", None)
        if current_rank() is None or not isinstance(values, dict) or self.attrname is None:
            return get_cached(self, instance, owner)
        if self.attrname not in values:
            values[self.attrname] = self.func(instance)
        return values[self.attrname]

    def signal_of_rank(number: int, handler: Any) -> Any:
        # Handlers belong to the main thread; a rank's are not called.
        return signal.getsignal(number) if current_rank() is not None else set_handler(number, handler)

    for owner, name, new in (
        (time, "sleep", sleep_in_turn),
        (threading.Thread, "join", join_in_turn),
        (threading.Condition, "wait", condition_wait_in_turn),
        (threading.Thread, "start", start_of_rank),
        (signal, "signal", signal_of_rank),
        (functools.cached_property, "__get__", cached_property_of_rank),
    ):
        stack.enter_context(patch.object(owner, name, new))
