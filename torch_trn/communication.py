"""Collectives of a recording on a target and placement: time, bandwidth, what compute hides, and who sends to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch_trn.costing import Row

Call = Mapping[str, Any]


class Model(Protocol):
    """`_C.CollectiveModel`: costs of calls on one target and placement."""

    @property
    def instance(self) -> str: ...

    def cost(self, op: str, ranks: Sequence[int], position: int, root: int, bytes: int) -> Mapping[str, Any]: ...

    def sent(self, op: str, ranks: Sequence[int], position: int, root: int, bytes: int) -> Mapping[int, float]: ...


def _arguments(call: Call) -> tuple[str, Sequence[int], int, int, int]:
    # Ledgers of before collectives took time have the tensors' size only.
    return (
        call["op"],
        call["ranks"],
        call.get("position", 0),
        call.get("root", -1),
        call.get("size_bytes", call.get("bytes", 0)),
    )


@dataclass(frozen=True)
class Overlap:
    """What the recording knows of compute beside collectives."""

    compute_scale: float = 1.0  # compute here over compute where it was recorded
    exposed_seconds: float = 0.0  # of all collectives of the recording, side by side ones counted once
    phases: Mapping[str, Row] | None = None
    hbm_bytes_per_second: float = 1.0


@dataclass(frozen=True)
class Communication:
    """`rows` are the ledger's with their cost; sums are over all of them."""

    rows: list[dict[str, Any]]
    exposed_seconds: float
    contention_seconds: float

    @property
    def seconds(self) -> float:
        return float(sum(row["count"] * row["seconds"] for row in self.rows))


def cost(calls: Sequence[Call], there: Model, here: Model, overlap: Overlap) -> Communication:
    """Prices each call `here`; `there` is the model of the target and placement that it was recorded on."""
    rows = []
    contention = 0.0
    for call in calls:
        price, before = here.cost(*_arguments(call)), there.cost(*_arguments(call))
        seconds, count = float(price["seconds"]), call["count"]
        exposed = _exposed(call, seconds, float(before["seconds"]), overlap.compute_scale)
        rows.append(
            {
                **call,
                "algorithm": price["algorithm"],
                "steps": price["steps"],
                "seconds": seconds,
                "algorithm_bandwidth": call["bytes"] / seconds if seconds else 0.0,
                "bus_bandwidth": price["bus_bytes"] / seconds if seconds else 0.0,
                "hbm_bytes": price["hbm_bytes"],
                "exposed_seconds": exposed,
                "wait_seconds": call.get("wait_seconds", 0.0),
            }
        )
        contention += _contention(count * seconds - exposed, price["hbm_bytes"], seconds, call["phase"], overlap)
    alone = sum(row["exposed_seconds"] for row in rows)
    recorded_alone = sum(call.get("exposed_seconds", 0.0) for call in calls)
    together = overlap.exposed_seconds / recorded_alone if recorded_alone else 1.0
    return Communication(rows, alone * together, contention)


def _exposed(call: Call, seconds: float, recorded_seconds: float, compute_scale: float) -> float:
    """Time beside which nothing computes. What hid it when it was recorded is as much longer as all compute is."""
    count = call["count"]
    hidden = count * recorded_seconds - call.get("exposed_seconds", 0.0)
    if seconds == recorded_seconds and compute_scale == 1.0:
        return float(call.get("exposed_seconds", 0.0))
    return max(0.0, float(count) * seconds - max(0.0, float(hidden)) * compute_scale)


def _contention(overlapped: float, hbm_bytes: float, seconds: float, phase: str, overlap: Overlap) -> float:
    """Beside a collective, compute asks for its phase's average of HBM: what both ask for in excess takes longer."""
    compute = (overlap.phases or {}).get(phase)
    if compute is None or not compute.seconds or not seconds or overlapped <= 0:
        return 0.0
    asked = (compute.hbm_bytes / compute.seconds + hbm_bytes / seconds) / overlap.hbm_bytes_per_second
    return overlapped * max(0.0, asked - 1.0)


def sent(calls: Sequence[Call], model: Callable[[], Model]) -> dict[int, float]:
    """Rank of the job -> bytes that this rank sends it, by the algorithms of its collectives."""
    out: dict[int, float] = {}
    for call in calls:
        for rank, bytes in model().sent(*_arguments(call)).items():
            out[rank] = out.get(rank, 0.0) + call["count"] * bytes
    return dict(sorted(out.items()))


def by_kind(rows: Sequence[Call]) -> dict[str, dict[str, float]]:
    kinds: dict[str, dict[str, float]] = {}
    for row in rows:
        kind = kinds.setdefault(
            str(row["op"]), {"count": 0, "bytes": 0, "moved_bytes": 0, "seconds": 0.0, "exposed_seconds": 0.0}
        )
        count = row["count"]
        kind["count"] += count
        kind["bytes"] += count * row["bytes"]
        kind["moved_bytes"] += count * row["moved_bytes"]
        kind["seconds"] += count * row["seconds"]
        kind["exposed_seconds"] += row["exposed_seconds"]
    return kinds
