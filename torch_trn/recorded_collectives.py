"""The collectives of a recording: what they cost where it is looked at, and how much of that compute hides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch_trn import communication
from torch_trn.communication import Communication, Model
from torch_trn.costing import Row
from torch_trn.ledger import Ledger
from torch_trn.native import Target

if TYPE_CHECKING:
    from torch_trn.recording import Recording

ModelFunction = Callable[[Target, Mapping[str, Any]], Model]


class RecordedCollectives:
    """The part of `Recording` about collectives."""

    _asked_placement: Mapping[str, Any] | None
    _collective_model: ModelFunction

    if TYPE_CHECKING:

        @property
        def ledger(self) -> Ledger: ...

        @property
        def target(self) -> Target: ...

        @property
        def compute_seconds(self) -> float: ...

        @property
        def _as_recorded(self) -> Recording: ...

        def by_phase(self) -> list[Row]: ...

    @property
    def placement(self) -> dict[str, Any]:
        """Ranks of the job and where they are: world_size, order, devices, instance (empty: the smallest that fits)."""
        return dict(self._asked_placement or self.ledger.placement)

    @property
    def placement_text(self) -> str:
        """The same in words: "4 ranks, linear, on trn2.3xlarge"; empty outside of a job."""
        return str(self._model) if self._is_of_a_job else ""

    @property
    def instance(self) -> str:
        """On which the job's ranks are; empty outside of a job."""
        return self._model.instance if self._is_of_a_job else ""

    @property
    def _is_of_a_job(self) -> bool:
        return bool(self.placement["world_size"] > 1)

    @cached_property
    def _model(self) -> Model:
        return self._collective_model(self.target, self.placement)

    @cached_property
    def communication(self) -> Communication:
        """The collectives with their price, and their sums."""
        calls = self.ledger.data["collectives"]
        if not calls:
            return Communication([], 0.0, 0.0)
        recorded = self._as_recorded
        overlap = communication.Overlap(
            self.compute_seconds / recorded.compute_seconds if recorded.compute_seconds else 1.0,
            self.ledger.exposed_collective_seconds,
            {row.name: row for row in self.by_phase()},
            float(self.target.record["device"]["hbm_bytes_per_second"]),
        )
        return communication.cost(calls, recorded._model, self._model, overlap)

    @property
    def collectives(self) -> list[dict[str, Any]]:
        """Distinct calls of c10d: op, dtype, group and ranks, this rank's bytes, module, line, and how often (`count`).

        Of one call: algorithm, steps, seconds, algorithm_bandwidth (the larger of input and output over its time) and
        bus_bandwidth. Of all `count`: exposed_seconds (nothing computed meanwhile) and wait_seconds (for later ranks).
        """
        return [dict(row) for row in self.communication.rows]

    @property
    def collectives_by_kind(self) -> dict[str, dict[str, float]]:
        """Sums by operation: count, bytes, moved_bytes, seconds, exposed_seconds."""
        return communication.by_kind(self.communication.rows)

    @property
    def collective_seconds(self) -> float:
        """Time in collectives, hidden or not."""
        return self.communication.seconds

    @property
    def exposed_collective_seconds(self) -> float:
        """Time in which collectives ran and nothing computed; those that run side by side count once."""
        return self.communication.exposed_seconds

    @property
    def collective_wait_seconds(self) -> float:
        """Time without work until the last rank had come to a collective; waits side by side count once.

        It is not part of `device_seconds`; on another target it is what it was on the recorded one.
        """
        return self.ledger.collective_wait_seconds

    @property
    def collective_contention_seconds(self) -> float:
        """An estimate of what compute and collectives lose where they ask for more HBM than there is."""
        return self.communication.contention_seconds

    @cached_property
    def sent_bytes(self) -> dict[int, float]:
        """Rank of the job -> bytes that this one sends it, as the algorithms route them."""
        return communication.sent(self.ledger.data["collectives"], lambda: self._model)
