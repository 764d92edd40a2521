"""A torchrun-style script on simulated ranks: `trn run --world-size N script.py`, with values or as some roles."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

from torch_trn import report
from torch_trn.job import merge
from torch_trn.profiler import profile
from torch_trn.rank_state import RankState, UserModules
from torch_trn.rank_threads import DeadlockError, RankError, RanksTimeoutError
from torch_trn.run import INTERRUPTED, RunOptions, is_there, write_reports
from torch_trn.simulation import checked_world_size, run_ranks


def run_script_on_ranks(
    script: str, arguments: list[str], as_module: bool, world_size: int, prefix: bool, options: RunOptions
) -> int:
    """Runs it on every rank to its end or to the first error, then reports. Returns the exit code."""
    if not is_there(script, as_module):
        return 2
    recordings = [
        profile(timeline=bool(options.trace or options.steps), steps=options.steps, mode=options.mode)
        for _ in range(checked_world_size(world_size))
    ]
    modules = UserModules()

    def prepare(rank: int, state: RankState) -> None:
        state.set_attribute("sys", "argv", [script, *arguments])
        state.set_attribute("sys", "path", path_of(script, as_module))
        state.own_modules(modules)
        if prefix:
            for name in ("stdout", "stderr"):
                state.set_attribute("sys", name, Prefixed(getattr(sys, name), f"[rank {rank}] "))

    def body(rank: int) -> None:
        with recordings[rank]:
            run_as_main(script, as_module)

    code = 0
    try:
        with own_modules(modules):
            run_ranks(body, world_size, prepare=prepare)
    except RankError as error:
        cause = error.__cause__
        code = cause.code if isinstance(cause, SystemExit) and isinstance(cause.code, int) else 1
        print(error, file=sys.stderr)
    except (DeadlockError, RanksTimeoutError) as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        return INTERRUPTED
    sys.stdout.flush()
    return write_reports(recordings[0], options, code, after=lambda: report.show(merge(recordings)))


def run_script_as_roles(
    script: str, arguments: list[str], as_module: bool, world_size: int, roles: list[int], options: RunOptions
) -> int:
    """Runs it as each of the roles, without values, then reports: the slowest role, and all side by side."""
    from torch_trn.one_rank import run_roles

    if not is_there(script, as_module):
        return 2
    modules = UserModules()

    def body() -> None:
        before = RankState()
        sys.argv, sys.path = [script, *arguments], path_of(script, as_module)
        try:
            run_as_main(script, as_module)
        finally:
            modules.take()
            before.restore()

    try:
        with own_modules(modules):
            run = run_roles(body, world_size, roles=roles, mode=options.mode)
        slowest = run.slowest.recording
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exception(error)
        return 1
    sys.stdout.flush()
    return write_reports(slowest, options, 0, after=lambda: report.show(run))


def path_of(script: str, as_module: bool) -> list[str]:
    """sys.path as `python script` or `python -m script` begins with it."""
    if sys.flags.safe_path:
        return list(sys.path)
    return [os.getcwd() if as_module else os.path.dirname(os.path.realpath(script)), *sys.path[1:]]


@contextmanager
def own_modules(modules: UserModules) -> Iterator[None]:
    """What is imported in the block is `modules`'; what was there before is put back."""
    before = modules.take()
    sys.meta_path.insert(0, modules)
    try:
        yield
    finally:
        sys.meta_path.remove(modules)
        modules.take()
        modules.put(before)


def run_as_main(script: str, as_module: bool) -> None:
    """As `python script` or `python -m script`, in a module `__main__` of this rank; exit code 0 is none."""
    main = ModuleType("__main__")
    code: CodeType
    if as_module:
        spec = importlib.util.find_spec(script)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{script}.__main__")
        loader: Any = spec.loader if spec is not None else None
        if spec is None or not hasattr(loader, "get_code"):
            raise ModuleNotFoundError(f"No module named {script!r} that can be run", name=script)
        code = loader.get_code(spec.name)
        main.__dict__.update(__spec__=spec, __loader__=loader, __package__=spec.parent)
        sys.argv[0] = spec.origin or script
    else:
        with io.open_code(os.path.realpath(script)) as file:
            code = compile(file.read(), os.path.abspath(script), "exec", dont_inherit=True)
        main.__dict__.update(__package__=None)
    # Absolute, as Python has it: the script may change its folder.
    main.__dict__.update(__file__=os.path.abspath(sys.argv[0]), __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
    except SystemExit as stop:
        if stop.code:
            raise


class Prefixed(io.TextIOBase):
    """A stream whose lines say which rank wrote them."""

    def __init__(self, stream: Any, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix
        self._unfinished = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._stream.encoding)

    def write(self, text: str) -> int:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._stream.write(f"{self._prefix}{line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
