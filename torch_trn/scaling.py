"""A recorded step at other data-parallel widths: time, communication, energy and money, without running again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_trn import communication, costing
from torch_trn.job_clock import JobClock
from torch_trn.recording import Recording
from torch_trn.roles import OneRankRun


@dataclass(frozen=True)
class ScaledStep:
    """What was recorded, with `width` ranks in the data-parallel group; energy and money are the whole job's."""

    width: int
    devices: int
    seconds: float
    exposed_collective_seconds: float  # of several roles: of the slowest
    energy_joules: float | None
    cost_usd: float | None

    @property
    def communication_share(self) -> float:
        """Of the time, what collectives take and compute does not hide: 0 to 1."""
        return self.exposed_collective_seconds / self.seconds if self.seconds else 0.0


def scale(
    recording: Recording | OneRankRun, widths: Iterable[int], group: Sequence[int] | None = None
) -> list[ScaledStep]:
    """The recording with data-parallel groups of other widths.

    Each rank keeps its batch and its compute; collectives over the group have the same tensors and more (or fewer)
    ranks, as far apart as they were, and compute hides the same share of them; the ranks of other groups keep their
    places in the mesh. With sharded parameters (FSDP) the time of the optimizer's own launches, which falls with the
    width, stays as recorded. The job lies linearly on as many instances as it needs. Roles of a run keep waiting for
    each other (a pipeline's bubble).

    Args:
        recording: of one rank, with collectives over the group; or what `simulate(..., values=False)` returns.
        widths: ranks in the group.
        group: the ranks of the group in the recording; where left out, those of its largest group. A role that is not
            in it has the group of the same ranks moved by a constant.

    Raises:
        ValueError: no collective over such a group, or a width below 1.
    """
    if isinstance(recording, OneRankRun):
        recordings, slowest = {role.rank: role.recording for role in recording.roles}, recording.slowest.rank
    else:
        recordings, slowest = {recording.ledger.rank: recording}, recording.ledger.rank
    own = {rank: _own_group(one, group) for rank, one in recordings.items()}
    return [_scaled(recordings, own, slowest, width) for width in widths]


def _own_group(recording: Recording, asked: Sequence[int] | None) -> tuple[int, ...]:
    groups = {tuple(call["ranks"]) for call in recording.ledger.data["collectives"]}
    if not groups:
        raise ValueError(
            "[scale] a recording is scaled by a group that it has collectives over; got no collective. Record a step "
            "of several ranks."
        )
    if asked is None:
        return max(groups, key=len)
    own = tuple(asked)
    steps = [rank - own[0] for rank in own]
    moved = [ranks for ranks in groups if [rank - ranks[0] for rank in ranks] == steps]
    found = own if own in groups else next((ranks for ranks in moved if recording.ledger.rank not in own), None)
    if found is None:
        raise ValueError(
            f"[scale] a recording is scaled by a group that it has collectives over; got {len(own)} ranks, limit "
            f"{sorted(len(ranks) for ranks in groups)}. Name one, or record a step of several ranks."
        )
    return found


def _scaled(
    recordings: Mapping[int, Recording], own: Mapping[int, tuple[int, ...]], slowest: int, width: int
) -> ScaledStep:
    if width < 1:
        raise ValueError(f"[scale] a width is a number of ranks; got {width}.")
    recording = recordings[slowest]
    devices = recording.placement["world_size"] // len(own[slowest]) * width
    placement = {**recording.placement, "world_size": devices, "order": "linear", "devices": [], "instance": ""}
    model = recording._collective_model(recording.target, placement)
    wider = {rank: _widened(one, own[rank], model, width) for rank, one in recordings.items()}
    costed = wider[slowest]
    exposed = _exposed(recording, costed)
    if len(recordings) > 1:
        calls = {rank: [row["seconds"] for row in there.rows] for rank, there in wider.items()}
        seconds = JobClock(recordings, calls).seconds + max(there.contention_seconds for there in wider.values())
    else:
        seconds = recording.seconds_with(costed.rows, exposed + costed.contention_seconds)
    record = recording.target.record
    return ScaledStep(
        width,
        devices,
        seconds,
        exposed,
        costing.energy_joules(seconds, devices, record),
        costing.money(seconds, devices, record, model.instance).usd,
    )


def _widened(
    recording: Recording, own: tuple[int, ...], model: communication.Model, width: int
) -> communication.Communication:
    """The recording's collectives with that many ranks in its group."""
    there = recording._collective_model(recording.target, recording.placement)
    here = WiderGroup(model, own, width)
    overlap = communication.Overlap(
        1.0,
        recording.exposed_collective_seconds,
        {row.name: row for row in recording.by_phase()},
        float(recording.target.record["device"]["hbm_bytes_per_second"]),
    )
    return communication.cost(recording.ledger.data["collectives"], there, here, overlap)


def _exposed(recording: Recording, wider: communication.Communication) -> float:
    """Of each collective the same share is exposed; and all that is longer than compute cannot be hidden."""
    before = recording.communication
    alone = sum(row["exposed_seconds"] for row in before.rows)
    longer = sum(
        old["exposed_seconds"] * new["seconds"] / old["seconds"]
        for old, new in zip(before.rows, wider.rows, strict=True)
        if old["seconds"]
    )
    together = before.exposed_seconds / alone if alone else 1.0
    return float(max(longer * together, wider.seconds - recording.compute_seconds))


class WiderGroup:
    """A model of collectives where a group has more (or fewer) ranks, and those behind them make room."""

    def __init__(self, model: communication.Model, group: tuple[int, ...], width: int) -> None:
        self._model, self._group = model, group
        apart = group[1] - group[0] if len(group) > 1 else 1
        # A rank is (block, place in the group, rest): blocks of the mesh's outer dimensions get as long as it says.
        self._old_block, self._new_block = apart * len(group), apart * width
        begin = self._moved(group[0])
        self._ranks = range(begin, begin + apart * width, apart)
        self._known: dict[tuple[Any, ...], Mapping[str, Any]] = {}

    @property
    def instance(self) -> str:
        return self._model.instance

    def _moved(self, rank: int) -> int:
        block, rest = divmod(rank, self._old_block)
        return block * self._new_block + rest % self._new_block

    def _asked(self, ranks: Sequence[int]) -> Sequence[int]:
        if tuple(ranks) == self._group:
            return self._ranks
        moved = [self._moved(rank) for rank in ranks]
        # A narrower block has no room for all places: a group over several of them stays.
        return moved if len(set(moved)) == len(moved) else ranks

    def cost(self, op: str, ranks: Sequence[int], position: int, root: int, bytes: int) -> Mapping[str, Any]:
        asked = self._asked(ranks)
        key = (op, asked is self._ranks or tuple(asked), position, root, bytes)
        if key not in self._known:
            self._known[key] = self._model.cost(op, asked, position, root, bytes)
        return self._known[key]

    def sent(self, op: str, ranks: Sequence[int], position: int, root: int, bytes: int) -> Mapping[int, float]:
        return self._model.sent(op, self._asked(ranks), position, root, bytes)
