"""A recorded timeline as a Chrome JSON trace, which ui.perfetto.dev opens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trn import costing

if TYPE_CHECKING:
    from torch_trn.recording import Recording

_PHASE_TRACK, _MODULE_TRACK, STREAM_TRACK, _ENGINE_TRACK = 1, 2, 10, 1000
_COLLECTIVE_TRACK = 500
_ENGINES_PER_STREAM = 10
MICROSECONDS = 1e6


def write(recording: Recording, path: str | Path) -> None:
    save(build(recording), path)


def save(trace: dict[str, Any], path: str | Path) -> None:
    """Compressed where the name ends in .gz, which Perfetto also opens."""
    raw = json.dumps(trace, separators=(",", ":")).encode()
    path = Path(path)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)


def metadata(process: int, kind: str, track: int = 0, **arguments: Any) -> dict[str, Any]:
    """How the viewer names or orders a process or one of its tracks."""
    return {"ph": "M", "name": kind, "pid": process, "tid": track, "args": arguments}


def build(recording: Recording) -> dict[str, Any]:
    """Tracks per device: phase, module, each stream, each stream's engines and DMA, and HBM occupancy."""
    if recording.ledger.timeline is None:
        raise ValueError(
            "[trace] a trace needs the sequence of launches; this recording kept only the distinct ones. "
            "Record with profile(timeline=True), or `trn run --trace FILE` (with --steps A:B for a long run)."
        )
    events: list[dict[str, Any]] = []
    launches = list(_placed(recording))
    origin = _origin(recording)
    for device in sorted({launch.entry["device"] for launch, *_ in launches}):
        here = [item for item in launches if item[0].entry["device"] == device]
        events += _metadata(device, {item[0].entry["stream"] for item in here})
        events += _launch_events(recording, device, here)
        events += _group_events(device, here)
    events += _collective_events(recording, origin, max((end for _, _, end, _ in launches), default=0.0))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            "target": recording.target.name,
            "recorded_on": recording.ledger.target,
            "mode": recording.mode,
            "clock": "simulated",
        },
    }


Placed = tuple[costing.Launch, float, float, int]


def _origin(recording: Recording) -> float:
    """Recorded time at which the trace begins."""
    launched = [start for _, start, _, _ in recording.ledger.timeline or []]
    arrived = [times[0] for _, *times in recording.ledger.data.get("collective_timeline") or []]
    return min([*launched, *arrived], default=0.0)


def _placed(recording: Recording) -> Iterator[Placed]:
    """Launches with start, end and HBM in use. Re-costed ones follow each other within their stream."""
    timeline = recording.ledger.timeline or []
    origin = _origin(recording)
    as_recorded = recording.mode == "eager" and recording.target.name == recording.ledger.target
    clocks: dict[tuple[int, int], float] = {}
    for number, start, end, used in timeline:
        launch = recording.costed[number]
        start, end = start - origin, end - origin
        if not as_recorded:
            stream = (launch.entry["device"], launch.entry["stream"])
            start = clocks.get(stream, 0.0)
            end = clocks[stream] = start + launch.seconds
        yield launch, start, end, used


def _metadata(device: int, streams: set[int]) -> Iterator[dict[str, Any]]:
    yield metadata(device, "process_name", name=f"trn:{device}")
    tracks = {_PHASE_TRACK: "phase", _MODULE_TRACK: "module"}
    for stream in sorted(streams):
        tracks[STREAM_TRACK + stream] = f"stream {stream}"
        of_stream = f" (stream {stream})" if len(streams) > 1 else ""
        for number, engine in enumerate(costing.ENGINES):
            label = "DMA" if engine == "dma" else costing.ENGINE_NAMES[engine]
            tracks[_engine_track(stream, number)] = label + of_stream
    for track, label in tracks.items():
        yield metadata(device, "thread_name", track, name=label)
        yield metadata(device, "thread_sort_index", track, sort_index=track)


def _engine_track(stream: int, number: int) -> int:
    return _ENGINE_TRACK + _ENGINES_PER_STREAM * stream + number


def _launch_events(recording: Recording, device: int, launches: list[Placed]) -> Iterator[dict[str, Any]]:
    for launch, start, end, used in launches:
        entry, cost = launch.entry, launch.cost
        name = entry["op"].removeprefix("aten::")
        counts = cost["counts"]
        common = {"ph": "X", "pid": device, "ts": start * MICROSECONDS}
        yield {
            **common,
            "name": name,
            "cat": entry["phase"],
            "tid": STREAM_TRACK + entry["stream"],
            "dur": (end - start) * MICROSECONDS,
            "args": {
                "module": entry["module"],
                "line": entry["line"],
                "phase": entry["phase"],
                "bound_by": launch.bound_by,
                "model_flops": cost["model_flops"],
                "hbm_read_bytes": counts["hbm_read_bytes"],
                "hbm_write_bytes": counts["hbm_write_bytes"],
                "spec": recording.ledger.specs[entry["spec"]],
            },
        }
        for number, engine in enumerate(costing.ENGINES):
            # The row's sums already leave out what fusion saves.
            busy = launch.row.busy_seconds.get(engine, 0.0) / max(1, entry["launches"])
            if busy:
                yield {
                    **common,
                    "name": name,
                    "cat": "engine",
                    "tid": _engine_track(entry["stream"], number),
                    "dur": min(busy, end - start) * MICROSECONDS,
                }
        yield {
            "ph": "C",
            "name": "HBM in use",
            "pid": device,
            "ts": start * MICROSECONDS,
            "args": {"bytes": used},
        }


def _collective_events(recording: Recording, origin: float, ended: float) -> Iterator[dict[str, Any]]:
    """A track per stream of collectives. Re-costed ones begin after the recorded share of the launches' time."""
    flights = recording.ledger.data.get("collective_timeline") or []
    recorded_end = max((end for _, _, end, _ in recording.ledger.timeline or []), default=origin)
    scale = ended / (recorded_end - origin) if recorded_end > origin else 1.0
    named: set[tuple[int, int]] = set()
    clocks: dict[tuple[int, int], float] = {}
    for row, _, begin, _ in flights:
        call = recording.communication.rows[row]
        place = call["device"], call["stream"]
        track = _COLLECTIVE_TRACK + call["stream"]
        if place not in named:
            named.add(place)
            yield metadata(call["device"], "thread_name", track, name=f"collectives, group {call['group']}")
            yield metadata(call["device"], "thread_sort_index", track, sort_index=track)
        start = (begin - origin) * scale
        if call["op"] not in ("send", "recv"):
            start = max(start, clocks.get(place, 0.0))
        clocks[place] = start + call["seconds"]
        yield {
            "ph": "X",
            "name": call["op"],
            "cat": call["phase"],
            "pid": call["device"],
            "tid": track,
            "ts": start * MICROSECONDS,
            "dur": call["seconds"] * MICROSECONDS,
            "args": {
                key: call[key]
                for key in ("algorithm", "steps", "dtype", "bytes", "moved_bytes", "bus_bandwidth", "module", "line")
            },
        }


def _group_events(device: int, launches: list[Placed]) -> Iterator[dict[str, Any]]:
    """Neighbours in time with one phase, or below one module, as a slice around them."""
    ordered = sorted(launches, key=lambda item: item[1])
    yield from _nested(device, _PHASE_TRACK, [((item[0].entry["phase"],), item[1], item[2]) for item in ordered])
    paths = [
        (tuple(item[0].entry["module"].split(".")) if item[0].entry["module"] else (), item[1], item[2])
        for item in ordered
    ]
    yield from _nested(device, _MODULE_TRACK, paths)


def _nested(device: int, track: int, items: list[tuple[tuple[str, ...], float, float]]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []  # a parent before its children: they may begin and end together
    running: list[dict[str, Any]] = []
    latest = 0.0
    for parts, start, end in items:
        same = 0
        while same < min(len(parts), len(running)) and parts[same] == running[same]["name"]:
            same += 1
        while len(running) > same:
            closed = running.pop()
            closed["dur"] = latest * MICROSECONDS - closed["ts"]
        # Streams overlap: what follows begins no earlier than what was closed here ended.
        begin = max(start, latest)
        for part in parts[same:]:
            running.append(
                {"ph": "X", "name": part, "pid": device, "tid": track, "ts": begin * MICROSECONDS, "dur": 0.0}
            )
            events.append(running[-1])
        latest = max(latest, end)
    for event in running:
        event["dur"] = latest * MICROSECONDS - event["ts"]
    return events
