"""Two worker processes over a list of cells: slow cells first, a time-out per cell, a crash costs only its own cell."""

import argparse
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opinfo.cells import Cell, Outcome

TIMEOUT_SECONDS = 120.0
NUM_WORKERS = 2
# Started first, so that none of them is the last one running. Seconds for all of an entry's samples, roughly.
SLOW = json.loads((Path(__file__).parent / "slow_cells.json").read_text())


class Worker:
    def __init__(self, device: str):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the worker)
        environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "opinfo.worker", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
        )

    def run(self, cell: Cell, timeout: float) -> Outcome | None:
        """The outcome; None where the worker died or was stopped, and `reason` says which."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(cell) + "\n")
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], timeout)
            line = self.process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line:
            return Outcome(**json.loads(line))
        if line is None:
            self.process.kill()
        self.process.wait()
        return None

    def reason(self, timeout: float) -> str:
        self.errors.seek(0)
        tail = [text.strip() for text in self.errors.read().splitlines() if text.strip()][-300:]
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return f"no answer in {timeout:.0f} s"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        frames = [t for t in tail if t.startswith("File") and "opinfo" not in t][:2]
        said = [t for t in tail if re.search(r"error|terminate|what\(\)|assert", t, re.IGNORECASE)][-2:]
        return f"the process died of {name}: " + " | ".join(said + frames)

    def close(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.errors.close()


def slowness(cell: Cell) -> float:
    weight = {"optim": 5.0, "op": 1.0}.get(cell.suite, 0.5)
    return float(SLOW.get(f"{cell.suite}-{cell.name}", 0.0)) or weight * 0.01


class Pool(Mapping[Cell, Outcome]):
    """Outcomes by cell, as the workers reach them: reading one waits for it alone, and it is begun next.

    So no test waits for all of them, however slow the machine is.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        device: str,
        timeout: float = TIMEOUT_SECONDS,
        num_workers: int = NUM_WORKERS,
        progress: Callable[[Cell, Outcome], None] = lambda cell, outcome: None,
    ):
        self._cells = dict.fromkeys(cells)
        self._waiting = dict.fromkeys(sorted(self._cells, key=slowness, reverse=True))
        self._wanted: Cell | None = None
        self._done: dict[Cell, Outcome] = {}
        self._changed = threading.Condition()
        self._device, self._timeout, self._progress = device, timeout, progress
        count = min(num_workers, max(1, len(self._cells)))
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def __getitem__(self, cell: Cell) -> Outcome:
        if cell not in self._cells:
            raise KeyError(cell)
        with self._changed:
            while cell not in self._done:
                self._wanted = cell
                if not any(thread.is_alive() for thread in self._threads):
                    raise RuntimeError(f"[opinfo.pool] every worker's thread ended before {cell}")
                self._changed.wait(1.0)
            return self._done[cell]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    def close(self) -> dict[Cell, Outcome]:
        """Begins no other cell, waits for those that run, and gives all outcomes that there are."""
        with self._changed:
            self._waiting.clear()
        for thread in self._threads:
            thread.join()
        return self._done

    def _next(self) -> Cell | None:
        with self._changed:
            if not self._waiting:
                return None
            cell = self._wanted if self._wanted in self._waiting else next(iter(self._waiting))
            assert cell is not None
            del self._waiting[cell]
            return cell

    def _serve(self) -> None:
        worker: Worker | None = None
        while (cell := self._next()) is not None:
            worker = worker or Worker(self._device)
            outcome = worker.run(cell, self._timeout)
            if outcome is None:
                outcome = Outcome(failures=[worker.reason(self._timeout)])
                worker.close()
                worker = None
            with self._changed:
                self._done[cell] = outcome
                self._progress(cell, outcome)
                self._changed.notify_all()
        if worker:
            worker.close()


def totals(results: Mapping[Cell, Outcome]) -> dict[str, dict[str, Any]]:
    """Per suite: cells, cells passed, cells whose every value is CPU's to the last bit, checks, seconds of work."""
    table: dict[str, dict[str, Any]] = {}
    for cell, outcome in results.items():
        row = table.setdefault(
            cell.suite,
            dict.fromkeys(
                ("cells", "passed", "bit_equal_cells", "checks", "value_checks", "bit_equal", "stride_differences"), 0
            )
            | {"seconds": 0.0},
        )
        row["cells"] += 1
        row["passed"] += not outcome.failures
        row["bit_equal_cells"] += not outcome.failures and outcome.bit_equal == outcome.value_checks
        for key in ("checks", "value_checks", "bit_equal", "stride_differences", "seconds"):
            row[key] += getattr(outcome, key)
    return table


def main() -> None:
    from opinfo import cells as grid

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=os.environ.get("TORCH_TRN_TEST_DEVICE", "trn"))
    parser.add_argument("--suites", default="op,error,foreach,module,optim,honesty,hardware")
    parser.add_argument("--match", default="", help="regular expression over suite-name-dtype")
    parser.add_argument("--json", help="write every outcome here")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS)
    parser.add_argument("--workers", type=int, default=NUM_WORKERS)
    options = parser.parse_args()
    chosen = [c for s in options.suites.split(",") for c in grid.cells(s) if re.search(options.match, str(c))]
    started = time.perf_counter()

    def progress(cell: Cell, outcome: Outcome) -> None:
        if outcome.failures:
            print(f"FAIL {cell} ({len(outcome.failures)}): {outcome.failures[0]}", flush=True)

    pool = Pool(chosen, options.device, options.timeout, options.workers, progress)
    results = dict(pool)
    for suite, row in totals(results).items():
        print(suite, {k: round(v, 1) for k, v in row.items()})
    print(f"{len(results)} cells in {time.perf_counter() - started:.0f} s")
    if options.json:
        Path(options.json).write_text(json.dumps({str(c): o.to_dict() for c, o in results.items()}, indent=1))
    sys.exit(any(o.failures for o in results.values()))


if __name__ == "__main__":
    main()
