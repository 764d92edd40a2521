"""A recorded step at other data-parallel widths: time, communication, energy and money, without running again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_trn import communication, costing
from torch_trn.recording import Recording


@dataclass(frozen=True)
class ScaledStep:
    """What was recorded, with `width` ranks in the data-parallel group; energy and money are the whole job's."""

    width: int
    devices: int
    seconds: float
    exposed_collective_seconds: float
    energy_joules: float | None
    cost_usd: float | None

    @property
    def communication_share(self) -> float:
        """Of the time, what collectives take and compute does not hide: 0 to 1."""
        return self.exposed_collective_seconds / self.seconds if self.seconds else 0.0


def scale(recording: Recording, widths: Iterable[int], group: Sequence[int] | None = None) -> list[ScaledStep]:
    """The recording with data-parallel groups of other widths.

    Each rank keeps its batch and its compute; collectives over the group have the same tensors and more (or fewer)
    ranks, as far apart as they were, and compute hides the same share of them; other groups stay. With sharded
    parameters (FSDP) the time of the optimizer's own launches, which falls with the width, stays as recorded. The job
    lies linearly on as many instances as it needs.

    Args:
        recording: of one rank, with collectives over the group: `simulate(...).slowest.recording`.
        widths: ranks in the group.
        group: the ranks of the group in the recording; where left out, those of its largest group.

    Raises:
        ValueError: no collective over such a group, or a width below 1.
    """
    calls = recording.ledger.data["collectives"]
    groups = {tuple(call["ranks"]) for call in calls}
    own = tuple(group) if group is not None else max(groups, key=len, default=())
    if own not in groups:
        raise ValueError(
            f"[scale] a recording is scaled by a group that it has collectives over; got {len(own)} ranks, limit "
            f"{sorted(len(ranks) for ranks in groups)}. Name one, or record a step of several ranks."
        )
    return [_scaled(recording, calls, own, width) for width in widths]


def _scaled(recording: Recording, calls: Sequence[Mapping[str, Any]], own: tuple[int, ...], width: int) -> ScaledStep:
    if width < 1:
        raise ValueError(f"[scale] a width is a number of ranks; got {width}.")
    devices = recording.placement["world_size"] // len(own) * width
    placement = {**recording.placement, "world_size": devices, "order": "linear", "devices": [], "instance": ""}
    model = recording._collective_model(recording.target, placement)
    apart = own[1] - own[0] if len(own) > 1 else 1
    there = recording._collective_model(recording.target, recording.placement)
    here = WiderGroup(model, own, range(own[0], own[0] + apart * width, apart))
    phases = {row.name: row for row in recording.by_phase()}
    overlap = communication.Overlap(
        1.0,
        recording.exposed_collective_seconds,
        phases,
        float(recording.target.record["device"]["hbm_bytes_per_second"]),
    )
    costed = communication.cost(calls, there, here, overlap)
    exposed = _exposed(recording, costed)
    beside = exposed + costed.contention_seconds
    seconds = recording.seconds_with(costed.rows, beside)
    record = recording.target.record
    return ScaledStep(
        width,
        devices,
        seconds,
        exposed,
        costing.energy_joules(seconds, devices, record),
        costing.money(seconds, devices, record, model.instance).usd,
    )


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
    """A model of collectives that takes one group for another."""

    def __init__(self, model: communication.Model, group: tuple[int, ...], ranks: Sequence[int]) -> None:
        self._model, self._group, self._ranks = model, group, ranks
        self._known: dict[tuple[Any, ...], Mapping[str, Any]] = {}

    @property
    def instance(self) -> str:
        return self._model.instance

    def cost(self, op: str, ranks: Sequence[int], position: int, root: int, bytes: int) -> Mapping[str, Any]:
        asked = self._ranks if tuple(ranks) == self._group else ranks
        key = (op, asked is self._ranks or tuple(asked), position, root, bytes)
        if key not in self._known:
            self._known[key] = self._model.cost(op, asked, position, root, bytes)
        return self._known[key]

    def sent(self, op: str, ranks: Sequence[int], position: int, root: int, bytes: int) -> Mapping[int, float]:
        asked = self._ranks if tuple(ranks) == self._group else ranks
        return self._model.sent(op, asked, position, root, bytes)
