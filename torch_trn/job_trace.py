"""The roles of a job side by side as a Chrome JSON trace, which ui.perfetto.dev opens: the bubble to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch_trn.job_clock import Span
from torch_trn.ledger import PHASES
from torch_trn.roles import OneRankRun
from torch_trn.trace import MICROSECONDS, STREAM_TRACK, metadata

_CALL_TRACK = 1000


def build(run: OneRankRun) -> dict[str, Any]:
    """A process per role, a track per stream; messages and collectives on tracks of their own."""
    if run.clock is None:
        raise ValueError(
            "[trace] roles side by side need several; got one. For one, record with profile(timeline=True) and write "
            "its to_perfetto()."
        )
    spans: dict[int, list[Span]] = {role.rank: [] for role in run.roles}
    for span in run.clock.spans():
        spans[span.rank].append(span)
    events = [event for role in run.roles for event in _role(role.rank, role.recording.ledger.data, spans[role.rank])]
    recording = run.slowest.recording
    about = {"target": recording.target.name, "mode": recording.mode, "clock": "simulated"}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}


def _role(rank: int, ledger: dict[str, Any], spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    yield metadata(rank, "process_name", name=f"rank {rank}")
    named: set[int] = set()
    free: dict[int, list[float]] = {}  # of each stream of calls, when its lanes are
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if span.call is None:
            track, label = STREAM_TRACK + span.stream, f"stream {span.stream}"
            phases = [ledger["entries"][entry]["phase"] for entry, _ in span.launches]
            name = "+".join(sorted(set(phases), key=PHASES.index))
            arguments: dict[str, Any] = {"launches": sum(count for _, count in span.launches)}
        else:
            call = span.call
            lanes = free.setdefault(span.stream, [])
            lane = next((n for n, until in enumerate(lanes) if until <= span.begin), len(lanes))
            lanes[lane : lane + 1] = [span.end]
            track, label = _CALL_TRACK + 10 * span.stream + lane, f"collectives, group {call['group']}"
            name = call["op"]
            arguments = {key: call[key] for key in ("algorithm", "dtype", "bytes", "moved_bytes", "module", "line")}
            if call["op"] in ("send", "recv") and call["root"] >= 0:
                arguments["peer"] = call["ranks"][call["root"]]
        if track not in named:
            named.add(track)
            yield metadata(rank, "thread_name", track, name=label)
        yield {
            "ph": "X",
            "name": name,
            "pid": rank,
            "tid": track,
            "ts": span.begin * MICROSECONDS,
            "dur": (span.end - span.begin) * MICROSECONDS,
            "args": arguments,
        }
