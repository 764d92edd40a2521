"""`torch_trn.profile()`: records what a block of code costs on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from torch_trn import distributed, native
from torch_trn.ledger import Ledger
from torch_trn.recording import Recording
from torch_trn.this_rank import current_rank

_COMPUTED = [
    name
    for base in Recording.__mro__
    for name, value in vars(base).items()
    if isinstance(value, functools.cached_property) and name != "target"
]

P = ParamSpec("P")
R = TypeVar("R")


class profile(Recording):
    """Counts every launch on the device between entering and leaving; then every property of `Recording` is there.

    Profiles nest, each with its own numbers. Entered again, or as a decorator `@profile()`, the runs add up; a
    decorated function has its profile as `.profile`.

    Args:
        timeline: keep the whole sequence of launches, for `to_perfetto`. Otherwise memory is needed only for the
            distinct launches, however long the run.
        modules: know the module path of each launch.
        lines: know the source line of each launch.
        steps: training steps to record, as `(first, end)`, a range or "first:end"; an optimizer step ends one.
        target: target to cost on, by name or TOML path; the one recorded on where left out.
        mode: "eager" or "compiled".
        clock: keep what the simulated clock did, in order, so that it can run again beside other ranks'
            (`torch_trn.job_clock`); memory grows with the run.
    """

    def __init__(
        self,
        timeline: bool = False,
        modules: bool = True,
        lines: bool = True,
        steps: tuple[int, int | None] | range | str | None = None,
        target: str | None = None,
        mode: str = "eager",
        clock: bool = False,
    ) -> None:
        if callable(timeline):
            raise TypeError("[profile] the decorator takes parentheses; got @profile. Write @profile().")
        # Loaded now: found wrong when the block has ended, a name would cost the run its numbers.
        super().__init__(Ledger.empty(""), None if target is None else native.load_target(target), mode)
        self._timeline = timeline
        self._modules = modules
        self._lines = lines
        self._clock = clock
        self._steps = parse_steps(steps)
        self._done: Ledger | None = None
        self._handle: int | None = None
        self._ended = (0, 0, 0.0)
        self._depth = 0
        self._steps_seen = 0
        self._rank: int | None = None

    @property
    def ledger(self) -> Ledger:
        if self._done is None:
            state = "is still running" if self._depth else "has recorded nothing yet"
            raise RuntimeError(
                f"[profile] numbers are there when the block has ended; this profile {state}. Read them after `with`."
            )
        return self._done

    @property
    def steps_seen(self) -> int:
        """Optimizer steps while entered, recorded or not."""
        return self._steps_seen

    def progress(self) -> tuple[int, int, float]:
        """Steps, launches and simulated seconds recorded so far, also by windows that have ended."""
        if self._handle is None:
            return self._ended
        steps, launches, seconds = native.progress(self._handle)
        return self._ended[0] + steps, self._ended[1] + launches, self._ended[2] + seconds

    def __enter__(self) -> profile:
        self._depth += 1
        if self._depth == 1:
            from torch_trn.module_hooks import HOOKS

            self._rank = current_rank()
            HOOKS.install(self._modules, self._on_step)
            first, end = self._steps
            if first <= self._steps_seen and (end is None or self._steps_seen < end):
                self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        from torch_trn.module_hooks import HOOKS

        HOOKS.remove(self._modules, self._on_step)
        self._stop()
        if self._done is None:
            self._done = Ledger.empty(native.extension().current_target_name())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        recorded.profile = self  # type: ignore[attr-defined]
        return recorded

    def _on_step(self) -> None:
        # A rank of a simulation counts its own steps; who watches all ranks counts the first one's.
        if current_rank() not in ((None, 0) if self._rank is None else (self._rank,)):
            return
        self._steps_seen += 1
        first, end = self._steps
        if self._steps_seen == end:
            self._stop()
        elif self._steps_seen == first:
            self._start()

    def _start(self) -> None:
        self._handle = native.extension().profiler_start(self._timeline, self._lines, self._clock)

    def _stop(self) -> None:
        if self._handle is None:
            return
        if native.extension().is_in_bad_fork():
            self._handle = None  # a forked child has a copy of the recording, and not the device
            return
        self._ended = self.progress()
        handle, self._handle = self._handle, None
        c = native.extension()
        data = c.profiler_stop(handle) if self._rank is None else c.profiler_stop_by_device(handle, [self._rank])[0]
        data["rank"] = distributed.rank() if self._rank is None else self._rank
        data["placement"] = c.placement()
        ledger = Ledger(data)
        self._done = ledger if self._done is None else self._done.merge(ledger)
        if self._asked_target is None:
            # Kept now: a target file of the user's own cannot be found again by its name.
            self._asked_target = native.target_for(ledger.target)
        # What was computed from the shorter ledger is out of date; the target is not.
        for name in _COMPUTED:
            self.__dict__.pop(name, None)

    def __repr__(self) -> str:
        if self._done is None:
            return f"<torch_trn.profile {'running' if self._depth else 'not entered'}>"
        return f"<torch_trn.profile of {self._done.launches} launches>"

    def __str__(self) -> str:
        return super().__str__() if self._done is not None else repr(self)


def parse_steps(steps: tuple[int, int | None] | range | str | None) -> tuple[int, int | None]:
    """`(first, end)` of the training steps to record, end None for all that follow."""
    first: Any
    end: Any
    if steps is None:
        return 0, None
    try:
        if isinstance(steps, str):
            first, end = (int(part) if part else None for part in steps.split(":"))
            first = first or 0
        elif isinstance(steps, range):
            first, end = (steps.start, steps.stop) if steps.step == 1 else (-1, -1)
        else:
            first, end = steps
        valid = isinstance(first, int) and first >= 0 and (end is None or (isinstance(end, int) and end > first))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"[profile] steps are first:end with 0 <= first < end; got {steps!r}. Write 10:12 for the steps 10 and 11."
        )
    return first, end
