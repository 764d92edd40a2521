"""The roles of a job that ran one after another, and what the job takes with all of them side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trn import costing
from torch_trn.costing import Money
from torch_trn.job_clock import JobClock, RoleTime
from torch_trn.native import Target
from torch_trn.recording import Recording

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Role:
    """What one rank did: what `fn` returned and the recording of its launches and collectives."""

    rank: int
    value: Any
    recording: Recording
    peak_memory_bytes: int


@dataclass(frozen=True)
class OneRankRun:
    """The ranks that ran, each standing for the peers that do the same. Several wait for each other as in the job."""

    world_size: int
    roles: tuple[Role, ...]

    @property
    def values(self) -> list[Any]:
        """What `fn` returned, by role."""
        return [role.value for role in self.roles]

    @cached_property
    def clock(self) -> JobClock | None:
        """The roles' clocks side by side; None for one role, which waits for nobody."""
        return JobClock({role.rank: role.recording for role in self.roles}) if len(self.roles) > 1 else None

    @cached_property
    def times(self) -> dict[int, RoleTime]:
        """Rank of the role -> its seconds: until it is done, without waiting, and waiting for other roles.

        Raises:
            RuntimeError: the roles' messages or collectives do not fit together.
        """
        if self.clock is None:
            alone = self.roles[0].recording.device_seconds
            return {self.roles[0].rank: RoleTime(alone, alone, 0.0)}
        return self.clock.times_with({role.rank: role.recording.collective_contention_seconds for role in self.roles})

    @property
    def slowest(self) -> Role:
        """The role that works longest: the others wait for it."""
        return max(self.roles, key=lambda role: self.times[role.rank].alone_seconds)

    @property
    def device_seconds(self) -> float:
        """Until the last role is done, waiting (a pipeline's bubble) included."""
        return max(time.alone_seconds + time.waiting_seconds for time in self.times.values())

    @property
    def imbalance(self) -> float:
        """How much longer the slowest role computes than the mean, 0 where all are alike."""
        computing = [role.recording.compute_seconds for role in self.roles]
        mean = sum(computing) / len(computing)
        return max(computing) / mean - 1.0 if mean else 0.0

    @property
    def peak_memory_bytes(self) -> int:
        """Of the role that needs most."""
        return max(role.peak_memory_bytes for role in self.roles)

    @property
    def collectives(self) -> dict[int, list[dict[str, Any]]]:
        """Per role: the collectives of its recording."""
        return {role.rank: role.recording.collectives for role in self.roles}

    @property
    def energy_joules(self) -> float | None:
        """An estimate, of the whole job: every rank's device draws its share of the chip's power until the end."""
        return costing.energy_joules(self.device_seconds, self.world_size, self.roles[0].recording.target.record)

    @property
    def money(self) -> Money:
        """Of the whole job."""
        recording = self.roles[0].recording
        return costing.money(self.device_seconds, self.world_size, recording.target.record, recording.instance)

    def on(self, target: Target | str) -> OneRankRun:
        """The same run on another target, by name or TOML path, without running again."""
        roles = (replace(role, recording=role.recording.on(target)) for role in self.roles)
        return replace(self, roles=tuple(roles))

    @property
    def waiting_share(self) -> float:
        """Of the job's time, what the mean role waits: 0 to 1."""
        return sum(time.waiting_share for time in self.times.values()) / len(self.times)

    def to_dict(self) -> dict[str, Any]:
        """The job, and of each role its times and its recording's report, as plain values."""
        recording = self.slowest.recording
        return {
            "target": recording.target.name,
            "mode": recording.mode,
            "world_size": self.world_size,
            "placement": recording.placement_text,
            "device_seconds": self.device_seconds,
            "waiting_share": self.waiting_share,
            "slowest_rank": self.slowest.rank,
            "imbalance": self.imbalance,
            "peak_memory_bytes": self.peak_memory_bytes,
            "energy_joules": self.energy_joules,
            "cost_usd": self.money.usd,
            "cost_note": self.money.note,
            "unheard": {str(rank): peers for rank, peers in (self.clock.unheard if self.clock else {}).items()},
            "roles": [{**asdict(self.times[role.rank]), **role.recording.to_dict()} for role in self.roles],
        }

    def to_perfetto(self, path: str | Path) -> None:
        """All roles side by side, for ui.perfetto.dev; gz when the name ends in .gz. For several roles."""
        from torch_trn import job_trace, trace

        trace.save(job_trace.build(self), path)

    def __rich__(self) -> RenderableType:
        from torch_trn import job_view

        return job_view.of_roles(self)

    def __str__(self) -> str:
        from torch_trn import job_view, report

        return report.plain(job_view.of_roles(self))
