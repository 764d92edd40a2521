"""Ranks as threads that take turns: started, watched for deadlocks, ended together."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch_trn.this_rank import set_current_rank

_WATCH_SECONDS = 0.02
_QUIET_SECONDS = 0.06  # without an event between ranks, all of them waiting, every thread asleep
_STUCK_SECONDS = 30.0  # the same, but one has its turn
_END_SECONDS = 15.0
_BEGIN_SECONDS = 1.0  # that a thread may take to run its first line
_FIRST_INTERRUPT_SECONDS, _INTERRUPT_EVERY_SECONDS = 0.3, 1.0
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TASKS = Path("/proc/self/task")


class RankError(RuntimeError):
    """A rank raised: its number, its error as `__cause__`, and its traceback in the message."""

    def __init__(self, rank: int, world_size: int, error: BaseException) -> None:
        text = "".join(traceback.format_exception(type(error), error, own_part(error.__traceback__))).rstrip()
        super().__init__(
            f"[simulate] every rank must end well; got {type(error).__name__} on rank {rank} of {world_size}: {error}\n"
            f"Rank {rank}:\n{text}"
        )
        self.rank = rank


class DeadlockError(RuntimeError):
    """Every rank that is left waits for another; the message has each one's call and Python stack."""


class RanksTimeoutError(RuntimeError):
    """The ranks took longer than `timeout` allows; the message has each one's Python stack."""


class RankEnded(BaseException):
    """Raised in a rank that runs while the simulation ends."""


def own_part(found: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this package that started the rank."""
    while found is not None and found.tb_next is not None and found.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        found = found.tb_next
    return found


def _take_interrupt() -> None:
    """An exception that waits for this thread is raised at a call of any function."""


class RankThread(threading.Thread):
    """One rank: `body()` in turns with the others."""

    def __init__(self, rank: int, turns: Any, body: Callable[[], Any]) -> None:
        super().__init__(name=f"rank {rank}", daemon=True)
        self.rank = rank
        self.result: Any = None
        self.error: BaseException | None = None
        self._turns, self._body = turns, body

    def run(self) -> None:
        set_current_rank(self.rank)
        # RankEnded can come between any two bytecodes: what must not be left out is the extension's to do. Another may
        # come while one is handled, none once the rank is done. A thread that ended before it took one would leave the
        # interpreter's flag for it set: all threads would stop to look at every call, and a traced one for ever.
        for step in (lambda: self._turns.run(self.rank, self._run_body), _take_interrupt):
            try:
                with suppress(RankEnded):
                    step()
            except RankEnded:
                pass

    def _run_body(self) -> None:
        try:
            self.result = self._body()
        except BaseException as error:
            self.error = error
            self._turns.end(f"rank {self.rank} failed with {type(error).__name__}: {error}")

    def may_run(self, seconds_since_start: float) -> bool:
        return self.is_alive() or (self.ident is None and seconds_since_start < _BEGIN_SECONDS)

    def stack(self) -> str:
        """Where it is now, innermost last, without this package's own frames at both ends."""
        frame: FrameType | None = sys._current_frames().get(self.ident or 0)
        if frame is None:
            return "    (has ended)\n"
        frames = traceback.extract_stack(frame)
        while frames and (frames[0].filename == threading.__file__ or frames[0].filename.startswith(_OWN_FOLDER)):
            del frames[0]
        return "".join(traceback.format_list(frames))


class Ranks:
    """All ranks of one simulation."""

    def __init__(self, turns: Any, bodies: list[Callable[[], Any]], timeout: float | None) -> None:
        self._turns = turns
        self._timeout = timeout
        self.threads = [RankThread(rank, turns, body) for rank, body in enumerate(bodies)]
        self._num_started = 0

    def run(self) -> list[Any]:
        """Each rank's result, when all have ended well.

        Raises:
            RankError: a rank raised; the others were ended.
            DeadlockError: no rank can go on.
            RanksTimeoutError: they took longer than the timeout.
        """
        failure: BaseException | None = None
        try:
            for thread in self.threads:
                self._num_started += 1
                thread.start()
            failure = self._watch()
        except BaseException as error:  # Ctrl-C
            failure = error
            self._turns.end(type(error).__name__)
        self._end_all()
        if failure is not None:
            raise failure
        if (first := self._turns.ended_by()) is not None:
            cause = self.threads[first].error
            assert cause is not None
            raise RankError(first, len(self.threads), cause) from cause
        return [thread.result for thread in self.threads]

    def _watch(self) -> BaseException | None:
        began = time.monotonic()
        quiet_since: float | None = None
        events = -1
        is_warned = False
        # Not Thread.join: one that Ctrl-C interrupts takes the thread for ended.
        while not self._turns.wait_until_done(_WATCH_SECONDS):
            if self._turns.why_ended():
                return None
            now = time.monotonic()
            if self._timeout is not None and now - began > self._timeout:
                return self._stop(
                    RanksTimeoutError, f"the ranks must end within the timeout; got none, limit {self._timeout:g} s"
                )
            if events != (events := self._turns.num_events()) or not _all_threads_sleep():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since > _QUIET_SECONDS and self._all_wait():
                return self._stop(DeadlockError, "some rank must be able to go on; got a deadlock")
            elif now - quiet_since > _STUCK_SECONDS and not is_warned:
                is_warned = True
                self._warn_of_stuck(now - quiet_since)
        return None

    def _all_wait(self) -> bool:
        live = [rank for rank in self._turns.ranks() if rank[0] != "done"]
        return bool(live) and all(status == "waiting" and not ends_by_itself for status, _, ends_by_itself in live)

    def _warn_of_stuck(self, seconds: float) -> None:
        """A rank that has its turn sleeps in a wait that is not seen: for a file, or a lock that another rank holds."""
        has_turn = [number for number, (status, *_) in enumerate(self._turns.ranks()) if status == "running"]
        if has_turn:
            warnings.warn(
                f"[simulate] a rank that has its turn must go on; got rank {has_turn[0]} asleep for {seconds:.0f} s. "
                "The others wait for it; if it waits for a lock that one of them holds, they wait for ever. "
                f"Each rank's call and stack:\n{self._stacks()}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _stop(self, kind: type[RuntimeError], what: str) -> RuntimeError:
        error = kind(f"[simulate] {what}. Each rank's call and stack:\n{self._stacks()}")
        self._turns.end(what)
        return error

    def _stacks(self) -> str:
        lines = []
        for thread, (status, call, _) in zip(self.threads, self._turns.ranks(), strict=True):
            doing = "has ended" if status == "done" else f"waits in {call}" if status == "waiting" else f"is {status}"
            lines.append(f"  rank {thread.rank} {doing}")
            if status != "done":
                lines.append("\n".join("  " + line for line in thread.stack().rstrip().splitlines()))
        return "\n".join(lines)

    def _end_all(self) -> None:
        """Wakes who waits, interrupts who runs."""
        began = time.monotonic()
        # Who waits for another rank has an error of its own to end with; who runs is given time to come to one.
        next_interrupt = began + _FIRST_INTERRUPT_SECONDS
        while not self._turns.wait_until_done(_WATCH_SECONDS):
            now = time.monotonic()
            # One that Ctrl-C came upon while it was started may be about to run.
            alive = [thread for thread in self.threads[: self._num_started] if thread.may_run(now - began)]
            if not alive:
                break  # some were never started
            if now > began + _END_SECONDS:
                names = ", ".join(thread.name for thread in alive)
                warnings.warn(f"[simulate] every rank must end; got none from {names}.", RuntimeWarning, stacklevel=3)
                return
            if now > next_interrupt:
                next_interrupt = now + _INTERRUPT_EVERY_SECONDS
                for thread in (thread for thread in alive if thread.ident is not None):
                    self._turns.interrupt(thread.rank, thread.ident, RankEnded)
        for thread in self.threads[: self._num_started]:
            if thread.is_alive():
                thread.join()


def _all_threads_sleep() -> bool:
    """Does every other thread of the process sleep? Then nothing is under way that could wake a rank."""
    own = str(threading.get_native_id())
    for task in _TASKS.iterdir():
        if task.name != own:
            try:
                state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # it has just ended
            if state in "RD":
                return False
    return True
