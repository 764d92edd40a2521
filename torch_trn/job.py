"""The recordings of all ranks of a job as one report: the slowest rank, the imbalance, and who sends to whom."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trn import costing, native
from torch_trn.ledger import Ledger
from torch_trn.recording import Recording

if TYPE_CHECKING:
    from rich.console import RenderableType

Source = str | Path | Ledger | Recording | Mapping[str, Any]
_ALIKE = ("target", "mode", "placement")


def merge(sources: Iterable[Source], target: str | None = None) -> JobReport:
    """One report of a job from the recordings of its ranks.

    Args:
        sources: a ledger or a JSON report of each rank, as path or object, or a profile; in any order.
        target: cost ledgers on this target instead of the one recorded on.

    Raises:
        ValueError: nothing to merge, a rank twice, or recordings of unlike jobs.
    """
    ranks = sorted((_report(source, target) for source in sources), key=lambda report: int(report["rank"]))
    if not ranks:
        raise ValueError("[merge] takes the recordings of a job's ranks; got none. Pass one of each rank.")
    for report in ranks[1:]:
        unlike = [key for key in _ALIKE if report[key] != ranks[0][key]]
        if unlike:
            key = unlike[0]
            raise ValueError(
                f"[merge] ranks of one job share {key}; got {ranks[0][key]} on rank {ranks[0]['rank']} and "
                f"{report[key]} on rank {report['rank']}. Merge recordings of one run."
            )
    found = [int(report["rank"]) for report in ranks]
    if len(set(found)) < len(found):
        twice = next(rank for rank in found if found.count(rank) > 1)
        raise ValueError(f"[merge] takes each rank once; got rank {twice} twice. Leave one out.")
    return JobReport(ranks)


def _report(source: Source, target: str | None) -> Mapping[str, Any]:
    name = str(source) if isinstance(source, str | Path) else type(source).__name__
    if isinstance(source, str | Path):
        source = _read(Path(source))
    if isinstance(source, Mapping) and "schema" in source:
        source = Ledger(dict(source))
    if isinstance(source, Ledger):
        return Recording(source, target).to_dict()
    if isinstance(source, Recording):
        return (source.on(target) if target else source).to_dict()
    missing = [key for key in ("rank", "sent_bytes", "compute_seconds", *_ALIKE) if key not in source]
    if missing:
        raise ValueError(
            f"[merge] takes ledgers and JSON reports of this version; got {name} without {missing[0]}. Write one with "
            "`trn run --report report.{rank}.json`, or prof.to_json(path)."
        )
    if target is not None and target != source["target"]:
        raise ValueError(
            f"[merge] only ledgers can be costed on another target; got the report {name}, on {source['target']}, and "
            f"target {target}. Record with `trn run --ledger ledger.{{rank}}.json`."
        )
    return source


def _read(path: Path) -> Mapping[str, Any]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"[merge] {path} must be JSON; {error}. Write it with `trn run --report`.") from error
    if not isinstance(data, dict):
        raise ValueError(f"[merge] {path} must hold a report or a ledger; got {type(data).__name__}.")
    return data


@dataclass(frozen=True)
class JobReport:
    """`ranks` are their reports (`Recording.to_dict()`), in the order of rank."""

    ranks: list[Mapping[str, Any]]

    @property
    def world_size(self) -> int:
        return int(self.ranks[0]["placement"]["world_size"])

    @property
    def missing_ranks(self) -> list[int]:
        here = {int(report["rank"]) for report in self.ranks}
        return [rank for rank in range(self.world_size) if rank not in here]

    @property
    def target(self) -> str:
        return str(self.ranks[0]["target"])

    @property
    def slowest_rank(self) -> int:
        """Whose compute and exposed collectives take longest."""
        return int(max(self.ranks, key=lambda report: report["device_seconds"])["rank"])

    @property
    def device_seconds(self) -> float:
        """Until the last rank is done, waiting for the others (a pipeline's bubble) included."""
        return float(max(report["device_seconds"] + report["collective_wait_seconds"] for report in self.ranks))

    @property
    def waiting_share(self) -> float:
        """Of the job's time, what the mean rank has nothing to do in, waiting for others: 0 to 1."""
        working = [float(report["device_seconds"]) for report in self.ranks]
        return max(0.0, 1.0 - sum(working) / len(working) / self.device_seconds) if self.device_seconds else 0.0

    @property
    def steps(self) -> int:
        return int(max(report["steps"] for report in self.ranks))

    @property
    def seconds_per_step(self) -> float:
        return self.device_seconds / self.steps if self.steps else self.device_seconds

    @property
    def imbalance(self) -> float:
        """How much longer the slowest rank computes than the mean, 0 where all are alike."""
        computing = [float(report["compute_seconds"]) for report in self.ranks]
        mean = sum(computing) / len(computing)
        return max(computing) / mean - 1.0 if mean else 0.0

    @property
    def exposed_share(self) -> float:
        """Exposed collectives of the slowest rank over the job's time, 0 to 1."""
        slowest = max(self.ranks, key=lambda report: report["device_seconds"])
        return float(slowest["exposed_collective_seconds"] / self.device_seconds) if self.device_seconds else 0.0

    @property
    def matrix(self) -> dict[int, dict[int, float]]:
        """Sending rank -> receiving rank -> bytes, as the chosen algorithms route them."""
        return {
            int(report["rank"]): {int(to): float(bytes) for to, bytes in report["sent_bytes"].items()}
            for report in self.ranks
        }

    @cached_property
    def _record(self) -> Mapping[str, Any] | None:
        try:
            return native.target_for(self.target).record
        except ValueError:  # a target file of the user's own, elsewhere
            return None

    @property
    def energy_joules(self) -> float | None:
        """An estimate: every rank's device draws its share of the chip's power until the slowest is done."""
        if self._record is None:
            return None
        return costing.energy_joules(self.device_seconds, self.world_size, self._record)

    @property
    def cost_usd(self) -> float | None:
        return self._money.usd

    @cached_property
    def _money(self) -> costing.Money:
        if self._record is None:
            return costing.Money(None, f"the target file of {self.target} is not at hand")
        instance = str(self.ranks[0]["instance"])
        return costing.money(self.device_seconds, self.world_size, self._record, instance)

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "mode": self.ranks[0]["mode"],
            "world_size": self.world_size,
            "placement": self.ranks[0]["placement_text"],
            "missing_ranks": self.missing_ranks,
            "steps": self.steps,
            "device_seconds": self.device_seconds,
            "slowest_rank": self.slowest_rank,
            "imbalance": self.imbalance,
            "waiting_share": self.waiting_share,
            "exposed_share": self.exposed_share,
            "energy_joules": self.energy_joules,
            "cost_usd": self.cost_usd,
            "cost_note": self._money.note,
            "sent_bytes": {str(rank): {str(to): n for to, n in row.items()} for rank, row in self.matrix.items()},
            "ranks": [dict(report) for report in self.ranks],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    def plot(self, path: str | Path) -> None:
        """The communication matrix as a picture (PNG, SVG or PDF by the name). Needs matplotlib: `torch_trn[plot]`."""
        from torch_trn import job_view

        job_view.plot(self, path)

    def __rich__(self) -> RenderableType:
        from torch_trn import job_view

        return job_view.renderable(self)

    def __str__(self) -> str:
        from torch_trn import job_view, report

        return report.plain(job_view.renderable(self))
