"""Runs a script as `python script.py` would, under a profile that is reported however the script ends."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torch_trn.profiler import profile
from torch_trn.recording import Recording

_PROGRESS_AFTER_SECONDS = 5.0
_PROGRESS_EVERY_SECONDS = 1.0
INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True)
class RunOptions:
    mode: str = "eager"
    report: Path | None = None
    trace: Path | None = None
    ledger: Path | None = None
    steps: str | None = None
    quiet: bool = False


def of_rank(path: Path | None) -> Path | None:
    """The path of this rank of a job that torchrun started: `{rank}` in its name, or before its suffix."""
    rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if path is None or "{rank}" in path.name:
        return path and path.with_name(path.name.replace("{rank}", rank))
    if world_size == "1":
        return path
    stem, dot, rest = path.name.partition(".")
    return path.with_name(f"{stem}.{rank}{dot}{rest}")


def is_quiet_rank() -> bool:
    """Rank 0 prints for all."""
    return os.environ.get("RANK", "0") != "0"


def is_there(script: str, as_module: bool) -> bool:
    """Says so where it is not."""
    found = as_module or os.path.exists(script)
    if not found:
        print(f"trn run: can't open file {script!r}: no such file", file=sys.stderr)
    return found


def run_script(script: str, arguments: list[str], as_module: bool, options: RunOptions) -> int:
    """Runs it to its end, an exception or Ctrl-C, then reports. Returns the script's exit code."""
    recording = profile(timeline=bool(options.trace or options.steps), steps=options.steps, mode=options.mode)
    owner = os.getpid()
    if not is_there(script, as_module):
        return 2
    others = set(threading.enumerate())
    with recording, _progress(recording, options):
        code = _run(script, arguments, as_module)
        if os.getpid() == owner:
            code = _wait_for_threads(others, code)
    if os.getpid() != owner:
        return code  # a child that the script forked and let return
    _flush()
    return write_reports(recording, options, code)


def write_reports(recording: Recording, options: RunOptions, code: int, after: Callable[[], None] | None = None) -> int:
    """The files asked for, then the report and what `after` shows. Returns the exit code: the script's `code`, or 1."""
    try:
        _write(recording, options)
        if after is not None and not options.quiet:
            after()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, RuntimeError) as error:
        # The script's own result stands; only the report is missing.
        print(f"trn run: no report: {error}", file=sys.stderr)
        return code or 1
    return code


def _run(script: str, arguments: list[str], as_module: bool) -> int:
    from torch_trn.rank_scripts import run_as_main

    sys.argv = [script, *arguments]
    # As python does: the script's folder first, or with -m the current one, in place of this command's own.
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd() if as_module else os.path.dirname(os.path.realpath(script))
    try:
        if as_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        elif os.path.isfile(script) and not zipfile.is_zipfile(script):
            run_as_main(script, as_module)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        _show(interrupt)
        return INTERRUPTED
    except BaseException as error:
        _show(error)
        return 1
    return 0


def _wait_for_threads(others: set[threading.Thread], code: int) -> int:
    """As Python does at a script's end: the work of its threads goes on, and counts. Returns the exit code.

    Threads of a pool of executors wait for Python's own end, whatever they have left to do.
    """
    try:
        while threads := [thread for thread in threading.enumerate() if thread not in others and _goes_on(thread)]:
            for thread in threads:
                thread.join()
    except KeyboardInterrupt as interrupt:
        _show(interrupt)
        return INTERRUPTED
    return code


def _goes_on(thread: threading.Thread) -> bool:
    if thread.daemon or thread is threading.current_thread():
        return False
    pools = (("concurrent.futures.thread", "_threads_queues"), ("concurrent.futures.process", "_threads_wakeups"))
    return not any(thread in getattr(sys.modules.get(module), name, ()) for module, name in pools)


def _flush() -> None:
    with suppress(ValueError, OSError, AttributeError):  # a script may have closed or replaced it
        sys.stdout.flush()


def _show(error: BaseException) -> None:
    _flush()
    error.__traceback__ = _script_part(error.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)


def _script_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's first frame on, without the files that run it."""
    own = (__file__, os.path.join(os.path.dirname(__file__), "rank_scripts.py"), runpy.__file__, "<frozen runpy>")
    while traceback is not None and traceback.tb_frame.f_code.co_filename in own:
        traceback = traceback.tb_next
    return traceback


@contextmanager
def _progress(recording: profile, options: RunOptions) -> Iterator[None]:
    """A line on the terminal about a run that takes long: steps, launches, simulated time."""
    if options.quiet or not sys.stderr.isatty():
        yield
        return
    from torch_trn import report

    ended = threading.Event()
    began = time.monotonic()

    def show() -> None:
        wait = _PROGRESS_AFTER_SECONDS
        while not ended.wait(wait):
            wait = _PROGRESS_EVERY_SECONDS
            _, launches, simulated = recording.progress()
            line = (
                f"trn: {recording.steps_seen:,} steps, {launches:,} launches, {report.seconds(simulated)} simulated, "
                f"{time.monotonic() - began:.0f} s of yours"
            )
            # Overwrites itself, and leaves an empty line to whatever the script prints next.
            sys.stderr.write(f"\r{line}\x1b[K\r")
            sys.stderr.flush()

    watcher = threading.Thread(target=show, name="trn-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        sys.stderr.write("\x1b[K")
        sys.stderr.flush()


def _write(recording: Recording, options: RunOptions) -> None:
    if options.ledger is not None:
        recording.ledger.save(options.ledger)
    if options.report is not None:
        if options.report.suffix in (".html", ".htm"):
            recording.to_html(options.report)
        elif options.report.suffix == ".json":
            recording.to_json(options.report)
        else:
            options.report.write_text(str(recording) + "\n")
    if options.trace is not None:
        recording.to_perfetto(options.trace)
    if options.quiet:
        return
    from torch_trn import report

    print()
    report.show(recording)
    if options.steps is not None and isinstance(recording, profile) and not recording.launches:
        print(f"* The script made {recording.steps_seen} training steps; --steps asked for {options.steps}.")
    for path in (options.report, options.trace, options.ledger):
        if path is not None:
            print(f"wrote {path}")
