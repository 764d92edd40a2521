"""The ledger of a recording: distinct launches with their counts, as saved, loaded and merged."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
PHASES = ("forward", "backward", "optimizer", "recompute")
CATEGORIES = ("parameters", "gradients", "optimizer_state", "activations", "temporaries")

_TABLES = ("ops", "modules", "lines", "specs")
_LISTS = (*_TABLES, "entries", "host_syncs", "collectives")
_INDEXED = {"op": "ops", "spec": "specs", "module": "modules", "line": "lines"}
_ENTRY_KEY = ("op", "spec", "phase", "module", "line", "device", "stream")
_ENTRY_SUMS = ("launches", "fused_read_bytes", "fused_write_bytes", "graphs")
_SYNC_SUMS = ("count", "bytes")
_CALL_SUMS = ("count", "exposed_seconds", "wait_seconds")


@dataclass
class Ledger:
    """What `_C` recorded, in its own layout (docs/counters.md). Time and money follow from it, they are not in it."""

    data: dict[str, Any]

    def __post_init__(self) -> None:
        _check(self.data)

    @classmethod
    def empty(cls, target: str) -> Ledger:
        return cls(
            {
                "schema": SCHEMA,
                "target": target,
                "ops": [],
                "modules": [""],
                "lines": [""],
                "specs": [],
                "entries": [],
                "host_syncs": [],
                "peak_memory": {"bytes": 0, "by_category": dict.fromkeys(CATEGORIES, 0)},
                "collectives": [],
                "steps": 0,
                "timeline": None,
            }
        )

    @classmethod
    def load(cls, path: str | Path) -> Ledger:
        """Reads what `save` wrote; a name that ends in .gz is compressed."""
        path = Path(path)
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise ValueError(f"[ledger] {path} must be JSON; {error}. Save one with prof.ledger.save(path).") from error
        return cls(data)

    def save(self, path: str | Path) -> None:
        path = Path(path)
        text = json.dumps(self.data, separators=(",", ":"))
        # mtime=0: the same ledger gives the same bytes.
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())

    @property
    def target(self) -> str:
        return str(self.data["target"])

    @property
    def steps(self) -> int:
        return int(self.data["steps"])

    @property
    def specs(self) -> list[list[dict[str, Any]]]:
        specs: list[list[dict[str, Any]]] = self.data["specs"]
        return specs

    @property
    def timeline(self) -> list[list[Any]] | None:
        timeline: list[list[Any]] | None = self.data["timeline"]
        return timeline

    @property
    def rank(self) -> int:
        return int(self.data.get("rank", 0))

    @property
    def placement(self) -> dict[str, Any]:
        """Ranks of the job and their devices, as `torch_trn.placement` has them."""
        if "placement" in self.data:
            return dict(self.data["placement"])
        # Written before collectives took time.
        last = max((rank for call in self.data["collectives"] for rank in call["ranks"]), default=0)
        return {"world_size": last + 1, "order": "linear", "devices": [], "instance": ""}

    @property
    def exposed_collective_seconds(self) -> float:
        return float(self.data.get("exposed_collective_seconds", 0.0))

    @property
    def collective_wait_seconds(self) -> float:
        rows = (call.get("wait_seconds", 0.0) for call in self.data["collectives"])
        return float(self.data.get("collective_wait_seconds", sum(rows)))

    @property
    def launches(self) -> int:
        return sum(entry["launches"] for entry in self.data["entries"])

    def entries(self) -> Iterator[dict[str, Any]]:
        """Distinct launches with the names of operator, module and line in place of their indices; spec stays one."""
        for entry in self.data["entries"]:
            yield self._named(entry)

    def host_syncs(self) -> list[dict[str, Any]]:
        # Written before transfers had a phase.
        return [{"phase": "forward", **self._named(sync)} for sync in self.data["host_syncs"]]

    def _named(self, item: Mapping[str, Any]) -> dict[str, Any]:
        named = dict(item)
        for field in ("op", "module", "line"):
            named[field] = self.data[_INDEXED[field]][item[field]]
        return named

    def merge(self, other: Ledger) -> Ledger:
        """Both recordings as one, `other` after this one. Counts add up; peak memory is the larger of the two."""
        merged = Ledger.empty(self.target)
        if self.target != other.target:
            raise ValueError(
                f"[ledger] merged recordings share one target; got {self.target} and {other.target}. "
                "Cost each with prof.on(target) instead."
            )
        out = merged.data
        positions: dict[str, dict[str, int]] = {table: {} for table in _TABLES}
        for table in ("modules", "lines"):
            positions[table][json.dumps("")] = 0
        entries: dict[tuple[Any, ...], int] = {}
        syncs: dict[tuple[Any, ...], dict[str, Any]] = {}
        calls: dict[tuple[Any, ...], int] = {}
        sequence: list[list[Any]] = []
        flights: list[list[Any]] = []
        exposed = waited = 0.0
        for source in (self.data, other.data):
            remap = {table: [_intern(out[table], positions[table], v) for v in source[table]] for table in _TABLES}
            renumber: list[int] = []
            called: list[int] = []
            for entry in source["entries"]:
                moved = _moved(entry, remap)
                key = tuple(moved[field] for field in _ENTRY_KEY)
                if key not in entries:
                    entries[key] = len(out["entries"])
                    out["entries"].append(moved)
                else:
                    into = out["entries"][entries[key]]
                    for field in _ENTRY_SUMS:
                        into[field] += moved[field]
                    if sum(moved.get("peak_memory", ())) > sum(into.get("peak_memory", ())):
                        into["peak_memory"] = moved["peak_memory"]
                renumber.append(entries[key])
            for sync in source["host_syncs"]:
                moved = _moved(sync, remap)
                key = tuple(sorted((field, value) for field, value in moved.items() if field not in _SYNC_SUMS))
                into = syncs.setdefault(key, {**moved, "count": 0, "bytes": 0})
                for field in _SYNC_SUMS:
                    into[field] += moved[field]
            for call in source["collectives"]:
                key = tuple((field, str(value)) for field, value in call.items() if field not in _CALL_SUMS)
                if key not in calls:
                    calls[key] = len(out["collectives"])
                    out["collectives"].append(dict(call))
                else:
                    into = out["collectives"][calls[key]]
                    for field in _CALL_SUMS:
                        into[field] = into.get(field, 0) + call.get(field, 0)
                called.append(calls[key])
            out["steps"] += source["steps"]
            if source["peak_memory"]["bytes"] >= out["peak_memory"]["bytes"]:
                out["peak_memory"] = source["peak_memory"]
            timeline = source["timeline"] or []
            ended = max((launch[2] for launch in sequence), default=0.0)
            shift = max(0.0, ended - min((launch[1] for launch in timeline), default=ended))
            sequence.extend([renumber[e], start + shift, end + shift, used] for e, start, end, used in timeline)
            flights.extend(
                [called[row], *(time + shift for time in times)]
                for row, *times in source.get("collective_timeline") or []
            )
            for field in ("rank", "placement"):
                if field in source:
                    out.setdefault(field, source[field])
            exposed += source.get("exposed_collective_seconds", 0.0)
            waited += Ledger(source).collective_wait_seconds
        out["host_syncs"] = list(syncs.values())
        out["timeline"] = sequence if self.timeline is not None or other.timeline is not None else None
        if out["collectives"]:
            out["exposed_collective_seconds"] = exposed
            out["collective_wait_seconds"] = waited
            out["collective_timeline"] = flights if out["timeline"] is not None else None
        return merged


def _intern(table: list[Any], positions: dict[str, int], value: Any) -> int:
    key = json.dumps(value, sort_keys=True)
    if key not in positions:
        positions[key] = len(table)
        table.append(value)
    return positions[key]


def _moved(item: Mapping[str, Any], remap: Mapping[str, list[int]]) -> dict[str, Any]:
    moved = dict(item)
    for field, table in _INDEXED.items():
        if field in moved:
            moved[field] = remap[table][moved[field]]
    return moved


def _check(data: Any) -> None:
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError(
            f"[ledger] a ledger is a JSON object with a schema number; got {type(data).__name__}. "
            "Save one with prof.ledger.save(path) or `trn run --ledger path`."
        )
    if data["schema"] != SCHEMA:
        raise ValueError(
            f"[ledger] the schema must be one this version reads; got {data['schema']}, limit {SCHEMA}. "
            "Record again, or use the torch_trn that wrote the file."
        )
    missing = [key for key in (*_LISTS, "target", "peak_memory", "steps", "timeline") if key not in data]
    if missing:
        raise ValueError(f"[ledger] every field must be present; missing {', '.join(missing)}. Record again.")
    for key in _LISTS:
        if not isinstance(data[key], list):
            raise ValueError(f"[ledger] {key} must be a list; got {type(data[key]).__name__}. Record again.")
    for number, entry in enumerate(data["entries"]):
        if not isinstance(entry, dict):
            raise ValueError(f"[ledger] entries[{number}] must be an object; got {type(entry).__name__}. Record again.")
        for field in _ENTRY_SUMS:
            count = entry.get(field)
            if not isinstance(count, int) or count < 0:
                raise ValueError(
                    f"[ledger] entries[{number}].{field} must be a count; got {count!r}, at least 0. Record again."
                )
        for field, table in _INDEXED.items():
            index, size = entry.get(field), len(data[table])
            if not isinstance(index, int) or not 0 <= index < size:
                raise ValueError(
                    f"[ledger] entries[{number}].{field} must index {table}; got {index}, limit {size}. Record again."
                )
