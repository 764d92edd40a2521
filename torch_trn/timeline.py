"""A program on the simulated clock: each instruction's start and end, what it waited for, how busy engines are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_trn import _C, target_files

__all__ = ["Event", "Timeline", "timeline"]


@dataclass(frozen=True)
class Event:
    """One instruction, once. Times are simulated seconds from the program's start."""

    instruction: str
    engine: str
    core: int
    queue: int  # instructions of a queue start in order; every engine has one, DMA many
    start_seconds: float
    end_seconds: float
    bound_by: int | None  # the event whose end or result set the start; None: the program's start
    other_core: int | None = None  # of what two cores run together


class Timeline:
    """What `NeuronCore.timeline()` and `timeline()` return.

    Attributes:
        seconds: from the start to the last end.
        busy: by engine, the part of `seconds` in which it works, 0 to 1; of several cores the busiest one's. DMA is all
            cores', which share HBM.
        critical: by engine, its part of the critical path's working time.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = columns
        self.seconds: float = columns["seconds"]
        whole = self.seconds or 1.0
        self.busy: dict[str, float] = {engine: busy / whole for engine, busy in columns["busy_seconds"].items()}
        path = columns["critical_path"]
        lengths = (columns["end_seconds"] - columns["start_seconds"])[path]
        total = float(lengths.sum()) or 1.0
        engine = columns["engine"][path]
        self.critical: dict[str, float] = {
            name: float(lengths[engine == number].sum()) / total for number, name in enumerate(columns["engines"])
        }

    def __len__(self) -> int:
        return len(self._columns["opcode"])

    def __getitem__(self, index: int) -> Event:
        """The event `index`, in program order."""
        number = range(len(self))[index]
        columns = self._columns
        bound_by, other_core = int(columns["bound_by"][number]), int(columns["other_core"][number])
        return Event(
            instruction=columns["opcodes"][columns["opcode"][number]],
            engine=columns["engines"][columns["engine"][number]],
            core=int(columns["core"][number]),
            queue=int(columns["queue"][number]),
            start_seconds=float(columns["start_seconds"][number]),
            end_seconds=float(columns["end_seconds"][number]),
            bound_by=None if bound_by < 0 else bound_by,
            other_core=None if other_core < 0 else other_core,
        )

    @property
    def critical_path(self) -> list[int]:
        """The numbers of the events of which each set the start of the next; the last one ends the program."""
        return [int(number) for number in self._columns["critical_path"]]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers: seconds, busy, critical, critical_path and the events as columns."""
        columns = {name: value.tolist() for name, value in self._columns.items() if isinstance(value, np.ndarray)}
        columns["instruction"] = [self._columns["opcodes"][opcode] for opcode in columns.pop("opcode")]
        columns["engine"] = [self._columns["engines"][engine] for engine in columns["engine"]]
        return {"seconds": self.seconds, "busy": self.busy, "critical": self.critical, **columns}

    def to_perfetto(self, path: str | os.PathLike[str]) -> None:
        """Writes a trace of Chrome's JSON format: a process per core, a track per engine and DMA queue."""
        rows: list[dict[str, Any]] = []
        tracks: dict[tuple[int, int], str] = {}
        on_path = set(self.critical_path)
        for number in range(len(self)):
            event = self[number]
            places = [(event.core, event.queue, event.engine)]
            if event.other_core is not None:
                engine = self._columns["engines"][self._columns["other_engine"][number]]
                places.append((event.other_core, int(self._columns["other_queue"][number]), engine))
            for core, queue, engine in places:
                tracks.setdefault((core, queue), engine)
                rows.append(
                    {
                        "name": event.instruction,
                        "ph": "X",
                        "pid": core,
                        "tid": queue,
                        "ts": event.start_seconds * 1e6,
                        "dur": (event.end_seconds - event.start_seconds) * 1e6,
                        "args": {"event": number, "bound_by": event.bound_by, "critical": number in on_path},
                    }
                )
        for (core, queue), engine in tracks.items():
            name = f"dma queue {queue}" if engine == "dma" else engine
            rows.append({"name": "thread_name", "ph": "M", "pid": core, "tid": queue, "args": {"name": name}})
            rows.append({"name": "process_name", "ph": "M", "pid": core, "args": {"name": f"NeuronCore {core}"}})
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": rows, "displayTimeUnit": "ns"}, file)

    def __str__(self) -> str:
        lines = [f"{len(self)} instructions in {self.seconds * 1e6:.3f} us", "engine   busy  of the critical path"]
        for engine, busy in self.busy.items():
            if busy or self.critical[engine]:
                lines.append(f"{engine:<7}{busy:6.1%}{self.critical[engine]:7.1%}")
        return "\n".join(lines)


def timeline(part: Mapping[str, Any], target: str | os.PathLike[str] = "trn2") -> Timeline:
    """The timeline of one part of a launch, as a profile's ledger names it, on a device of a target.

    Args:
        part: {"family": ..., shapes and dtypes}: an item of a launch's `spec`.
        target: a packaged target or the path of a TOML file.

    Raises:
        ValueError: a field is missing or wrong; names it.
        NotImplementedError: more than 4,000,000 instructions.
        TargetError: no such target, or a bad file.
    """
    return Timeline(_C.timeline(dict(part), _C.Target(target_files.load(target))))
