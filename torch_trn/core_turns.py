"""Functions that take turns: one runs at a time, until it waits for another one or returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class _Stopped(BaseException):
    """Ends a function whose partner has failed."""


class Turns:
    """Args:
    count: how many functions there are.
    progress: a number that grows with whatever a function may wait for.
    """

    def __init__(self, count: int, progress: Callable[[], int]) -> None:
        self._condition = threading.Condition()
        self._progress = progress
        self._turn = 0
        self._has_returned = [False] * count
        # By function: the progress at which it last waited, and for what.
        self._waits: list[tuple[int, str] | None] = [None] * count
        self._error: BaseException | None = None

    def run(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        """What the functions return, in their order; the first of them runs in the caller's thread."""
        results: list[T | None] = [None] * len(functions)

        def drive(number: int) -> None:
            try:
                self._await_turn(number)
                results[number] = functions[number]()
            except _Stopped:
                pass
            except BaseException as error:
                self._error = self._error or error
            finally:
                with self._condition:
                    self._has_returned[number] = True
                    self._pass_on(number)

        threads = [threading.Thread(target=drive, args=(number,), daemon=True) for number in range(1, len(functions))]
        for thread in threads:
            thread.start()
        drive(0)
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return results  # type: ignore[return-value]

    def wait(self, number: int, waiting: str) -> None:
        """Lets the others run until something that `number` may wait for has come, `waiting` says for what."""
        with self._condition:
            now = self._progress()
            others = [other for other in range(len(self._waits)) if other != number]
            self._waits[number] = (now, waiting)
            if all(self._has_returned[other] or self._is_stuck(other, now) for other in others):
                raise RuntimeError(
                    f"[LogicalCore.run] both cores come to what they run together; got {waiting}, and "
                    + ", ".join(self._state(other) for other in others)
                    + ". Call it on both, in one order."
                )
            self._pass_on(number)
        self._await_turn(number)

    def _is_stuck(self, number: int, now: int) -> bool:
        wait = self._waits[number]
        return wait is not None and wait[0] == now

    def _state(self, number: int) -> str:
        wait = self._waits[number]
        return f"core {number} has returned" if self._has_returned[number] or wait is None else wait[1]

    def _pass_on(self, number: int) -> None:
        count = len(self._waits)
        for step in range(1, count):
            other = (number + step) % count
            if not self._has_returned[other]:
                self._turn = other
                break
        self._condition.notify_all()

    def _await_turn(self, number: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._turn == number or self._error is not None)
            if self._error is not None:
                raise _Stopped
