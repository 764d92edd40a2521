"""A recording seen on one target in one mode: the numbers of a profile, computed when asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trn import costing, native
from torch_trn.costing import Launch, Money, Part, Row
from torch_trn.ledger import PHASES, Ledger
from torch_trn.native import Target
from torch_trn.recorded_collectives import ModelFunction, RecordedCollectives

if TYPE_CHECKING:
    from rich.console import RenderableType

CostFunction = Callable[[list[dict[str, Any]], Target], Mapping[str, Any]]


class Recording(RecordedCollectives):
    """Numbers of a ledger on a target. `mode` is "eager" (one dispatch per operator) or "compiled" (neighbours fused).

    Counts are exact integers and the same on every run; seconds, energy and money are modelled (docs/contract.md).
    """

    def __init__(
        self,
        ledger: Ledger,
        target: Target | str | None = None,
        mode: str = "eager",
        cost: CostFunction = native.cost,
        op_status: Callable[[str], str] = native.op_status,
        collective_model: ModelFunction = native.collective_model,
        placement: Mapping[str, Any] | None = None,
    ) -> None:
        if mode not in costing.MODES:
            raise ValueError(
                f"[recording] mode must be one of {', '.join(costing.MODES)}; got {mode!r}. Leave it out for eager."
            )
        self._ledger = ledger
        self._asked_target = target
        self.mode = mode
        self._cost = cost
        self._op_status = op_status
        self._collective_model = collective_model
        self._asked_placement = placement
        self._recorded_target: Target | None = None

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @cached_property
    def target(self) -> Target:
        asked = self._asked_target
        if isinstance(asked, Target):
            return asked
        return native.target_for(self.ledger.target) if asked is None else native.load_target(asked)

    def on(self, target: Target | str) -> Recording:
        """The same recording on another target, by name or TOML path, without running again."""
        other = self._like(target, self.mode, self.placement)
        if other.target.name != self.target.name:
            # Instances are the target's own.
            other._asked_placement = {**self.placement, "instance": ""}
        return other

    def placed(self, order: str | Iterable[int] | None = None, instance: str | None = None) -> Recording:
        """The same recording with the job's ranks elsewhere; arguments as for `torch_trn.set_placement`."""
        from torch_trn.rank_placement import changed

        return self._like(self.target, self.mode, changed(self.placement, order, instance))

    def compiled(self) -> Recording:
        """The same recording as a graph compiler would run it: intermediates of fused neighbours stay in SBUF."""
        other = self._like(self.target, "compiled", self._asked_placement)
        other.__dict__["_costs"] = self._costs
        return other

    def _like(self, target: Target | str, mode: str, placement: Mapping[str, Any] | None) -> Recording:
        other = Recording(self.ledger, target, mode, self._cost, self._op_status, self._collective_model, placement)
        # A target file of the user's own cannot be found again by its name.
        other._recorded_target = self.target if self.target.name == self.ledger.target else self._recorded_target
        return other

    @cached_property
    def _as_recorded(self) -> Recording:
        """Eager, on the target and placement of the recording; this one where that target is not known any more."""
        if (self.target.name, self.mode, self.placement) == (self.ledger.target, "eager", self.ledger.placement):
            return self
        target = self._recorded_target or (self.target if self.target.name == self.ledger.target else None)
        try:
            target = target or native.target_for(self.ledger.target)
        except ValueError:
            return self
        return Recording(self.ledger, target, "eager", self._cost, self._op_status, self._collective_model)

    @cached_property
    def _costs(self) -> list[Mapping[str, Any]]:
        return costing.spec_costs(self.ledger, lambda spec: self._cost(spec, self.target))

    @cached_property
    def costed(self) -> list[Launch]:
        """Every distinct launch with its price."""
        return costing.cost_ledger(self.ledger, self._costs, self.target.record, self.mode, self._falls_back)

    def _falls_back(self, op: str) -> bool:
        return self._op_status(op) != "native"

    @cached_property
    def _parts(self) -> list[Part]:
        return [*self.costed, *costing.transfers(self.ledger)]

    @cached_property
    def total(self) -> Row:
        return costing.total(self._parts)

    # Counts.

    @property
    def flops(self) -> int:
        """Model FLOPs of matmul, conv, attention and RNN; one multiply-add is 2, recomputed work not counted."""
        return self.total.flops

    @property
    def causal_flops(self) -> int:
        """The same with the masked half of causal attention left out."""
        return self.total.causal_flops

    @property
    def flops_by_dtype(self) -> dict[str, int]:
        return dict(self.total.flops_by_dtype)

    @property
    def hardware_flops(self) -> int:
        """FLOPs as TensorE saw them: with padding, transposes and recomputation."""
        return self.total.hardware_flops

    @property
    def hardware_flops_by_dtype(self) -> dict[str, int]:
        return dict(self.total.hardware_flops_by_dtype)

    @property
    def transpose_flops(self) -> int:
        return self.total.transpose_flops

    @property
    def hbm_read_bytes(self) -> int:
        return self.total.hbm_read_bytes

    @property
    def hbm_write_bytes(self) -> int:
        return self.total.hbm_write_bytes

    @property
    def dma_transfers(self) -> int:
        return self.total.dma_transfers

    @property
    def dma_average_bytes(self) -> float:
        return self.total.dma_average_bytes

    @property
    def busy_cycles(self) -> dict[str, int]:
        """Cycles that each engine worked, on its own clock."""
        return dict(self.total.busy_cycles)

    @property
    def launches(self) -> int:
        return self.total.launches

    @property
    def steps(self) -> int:
        """Training steps: an optimizer step ends one."""
        return self.ledger.steps

    @property
    def peak_memory_bytes(self) -> int:
        return int(self.ledger.data["peak_memory"]["bytes"])

    @property
    def memory_by_category(self) -> dict[str, int]:
        """Who held the peak: parameters, gradients, optimizer_state, activations, temporaries."""
        return dict(self.ledger.data["peak_memory"]["by_category"])

    # Time, energy, money.

    @cached_property
    def compute_seconds(self) -> float:
        """Simulated time of the busiest stream's launches."""
        return costing.device_seconds(self.costed, self.dispatch_seconds)

    @cached_property
    def device_seconds(self) -> float:
        """Simulated time: compute, and what collectives add to it."""
        beside = self.exposed_collective_seconds + self.collective_contention_seconds
        return self.seconds_with(self.communication.rows, beside)

    def seconds_with(self, collectives: Iterable[Mapping[str, Any]], beside_seconds: float) -> float:
        """Simulated time of these launches with such collectives, of which streams wait for `beside_seconds`."""
        return costing.device_seconds(self.costed, self.dispatch_seconds, collectives, beside_seconds)

    @property
    def dispatch_seconds(self) -> float:
        """Of one operator, on the host: 0 in mode compiled."""
        return float(self.target.record["device"]["eager_dispatch_seconds"]) if self.mode == "eager" else 0.0

    @property
    def seconds_per_step(self) -> float:
        return self.device_seconds / self.steps if self.steps else self.device_seconds

    @cached_property
    def num_devices(self) -> int:
        return costing.num_devices(self.costed)

    @property
    def mfu(self) -> float:
        """Model FLOPs per second over the documented peak of their dtypes, 0 to 1."""
        return costing.utilization(
            self.flops_by_dtype, self.device_seconds, self.num_devices, self.target.record["device"]
        )

    @property
    def hfu(self) -> float:
        return costing.utilization(
            self.hardware_flops_by_dtype, self.device_seconds, self.num_devices, self.target.record["device"]
        )

    @property
    def peak(self) -> tuple[str, float]:
        """Name and FLOP/s of the peak that `mfu` refers to, for one device."""
        return costing.mixed_peak(self.flops_by_dtype, self.target.record["device"])

    @property
    def mbu(self) -> float:
        """HBM bytes per second over the device's share of the chip's bandwidth, 0 to 1."""
        rate = float(self.target.record["device"]["hbm_bytes_per_second"])
        capacity = rate * self.device_seconds * self.num_devices
        return self.total.hbm_bytes / capacity if capacity else 0.0

    @property
    def busy_fraction(self) -> dict[str, float]:
        """Share of the device time that each engine, and DMA, was at work."""
        seconds = self.device_seconds * self.num_devices
        busy = self.total.busy_seconds
        return {engine: busy.get(engine, 0.0) / seconds if seconds else 0.0 for engine in costing.ENGINES}

    @property
    def bound_seconds(self) -> dict[str, float]:
        """Device time by what it waited for: an engine, HBM or dispatch."""
        return dict(self.total.bound_seconds)

    @property
    def energy_joules(self) -> float | None:
        """An estimate: the devices' share of the chip's power, all the time."""
        return costing.energy_joules(self.device_seconds, self.num_devices, self.target.record)

    @property
    def money(self) -> Money:
        return costing.money(self.device_seconds, self.num_devices, self.target.record, self.instance)

    @property
    def cost_usd(self) -> float | None:
        """The devices' share of the cheapest priced instance; None where there is no price (`money.note` says why)."""
        return self.money.usd

    # What makes a port slow.

    @property
    def host_syncs(self) -> list[dict[str, Any]]:
        """Where the host waited for a value of the device: op, line, module, phase, count, bytes, direction."""
        return [sync for sync in self.host_transfers if costing.is_host_sync(sync)]

    @property
    def host_transfers(self) -> list[dict[str, Any]]:
        """All that moved between host and device, in both directions, waited for or not."""
        return self.ledger.host_syncs()

    @property
    def host_sync_seconds(self) -> float:
        """An estimate of what the host loses to its syncs; it is not part of `device_seconds`."""
        return float(self.target.record["device"]["host_sync_seconds"]) * self.total.host_syncs

    @property
    def to_host_bytes(self) -> int:
        return self.total.to_host_bytes

    @property
    def to_device_bytes(self) -> int:
        return self.total.to_device_bytes

    @cached_property
    def fallbacks(self) -> list[dict[str, Any]]:
        """Operators that TorchNeuron would send to the host: op, status (`host` or `absent`), launches, lines."""
        slow = [launch for launch in self.costed if launch.row.fallback_launches]
        return [{**item, "status": self._op_status(item["op"])} for item in _by_op(slow)]

    @cached_property
    def narrowing(self) -> list[dict[str, Any]]:
        """Operators with float64 or int64 operands, which the engines hold in 32 bits: op, dtypes, launches, lines."""
        narrow = [launch for launch in self.costed if launch.row.narrowed_launches]
        found: dict[str, set[str]] = {}
        for launch in narrow:
            found.setdefault(launch.entry["op"], set()).update(launch.narrowed)
        return [{**item, "dtypes": sorted(found[item["op"]])} for item in _by_op(narrow)]

    # Groups: rows with all counters of their launches and host transfers.

    def by_operator(self) -> list[Row]:
        return costing.group(self._parts, lambda entry: entry["op"])

    def by_module(self, collapse: bool = False) -> list[Row]:
        """Rows by module path, launches of the module itself; `collapse` takes blocks.0, blocks.1, ... as blocks.*."""
        if not collapse:
            return costing.group(self._parts, lambda entry: entry["module"])
        labels = _collapsed({part.entry["module"] for part in self._parts})
        return costing.group(self._parts, lambda entry: labels[entry["module"]])

    def by_phase(self) -> list[Row]:
        return sorted(costing.group(self._parts, lambda entry: entry["phase"]), key=lambda row: PHASES.index(row.name))

    def by_line(self) -> list[Row]:
        return costing.group(self._parts, lambda entry: entry["line"])

    def row_mfu(self, row: Row) -> float:
        """MFU of a group over its own time."""
        return costing.utilization(row.flops_by_dtype, row.seconds, 1, self.target.record["device"])

    # Output.

    def to_dict(self) -> dict[str, Any]:
        """Everything above as plain values. The ledger itself is `prof.ledger.data`."""
        peak_name, peak_rate = self.peak
        return {
            "target": self.target.name,
            "recorded_on": self.ledger.target,
            "mode": self.mode,
            "steps": self.steps,
            "num_devices": self.num_devices,
            "launches": self.launches,
            "device_seconds": self.device_seconds,
            "flops": self.flops,
            "causal_flops": self.causal_flops,
            "flops_by_dtype": self.flops_by_dtype,
            "hardware_flops": self.hardware_flops,
            "hardware_flops_by_dtype": self.hardware_flops_by_dtype,
            "transpose_flops": self.transpose_flops,
            "mfu_estimated_percent": 100 * self.mfu,
            "hfu_estimated_percent": 100 * self.hfu,
            "mbu_estimated_percent": 100 * self.mbu,
            "peak": {"name": peak_name, "flops_per_second": peak_rate},
            "hbm_read_bytes": self.hbm_read_bytes,
            "hbm_write_bytes": self.hbm_write_bytes,
            "dma_transfers": self.dma_transfers,
            "dma_average_bytes": self.dma_average_bytes,
            "busy_cycles": self.busy_cycles,
            "busy_fraction": self.busy_fraction,
            "bound_seconds": self.bound_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_by_category": self.memory_by_category,
            "rank": self.ledger.rank,
            "placement": self.placement,
            "placement_text": self.placement_text,
            "instance": self.instance,
            "compute_seconds": self.compute_seconds,
            "collective_seconds": self.collective_seconds,
            "exposed_collective_seconds": self.exposed_collective_seconds,
            "collective_wait_seconds": self.collective_wait_seconds,
            "collective_contention_seconds": self.collective_contention_seconds,
            "sent_bytes": {str(rank): bytes for rank, bytes in self.sent_bytes.items()},
            "collectives": self.collectives,
            "collectives_by_kind": self.collectives_by_kind,
            "energy_joules": self.energy_joules,
            "cost_usd": self.cost_usd,
            "cost_note": self.money.note,
            "host_syncs": self.host_syncs,
            "host_sync_seconds": self.host_sync_seconds,
            "host_transfers": self.host_transfers,
            "to_host_bytes": self.to_host_bytes,
            "to_device_bytes": self.to_device_bytes,
            "fallbacks": self.fallbacks,
            "narrowing": self.narrowing,
            "by_operator": [row.to_dict() for row in self.by_operator()],
            "by_module": [row.to_dict() for row in self.by_module()],
            "by_phase": [row.to_dict() for row in self.by_phase()],
            "by_line": [row.to_dict() for row in self.by_line()],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    def to_html(self, path: str | Path) -> None:
        """One self-contained page with the report's tables."""
        from torch_trn import report

        Path(path).write_text(report.html(self))

    def to_perfetto(self, path: str | Path) -> None:
        """The timeline for ui.perfetto.dev; gz when the name ends in .gz. Needs profile(timeline=True)."""
        from torch_trn import trace

        trace.write(self, path)

    def __rich__(self) -> RenderableType:
        from torch_trn import report

        return report.renderable(self)

    def __str__(self) -> str:
        from torch_trn import report

        return report.text(self)


def _collapsed(paths: Iterable[str]) -> dict[str, str]:
    """Paths with `*` for the numbers of repeated blocks. The numbered layers of a plain nn.Sequential stay apart."""
    parts = {path: path.split(".") for path in paths}
    inner = {tuple(found[:depth]) for found in parts.values() for depth in range(1, len(found))}
    return {
        path: ".".join(
            "*" if part.isdigit() and tuple(found[: n + 1]) in inner else part for n, part in enumerate(found)
        )
        for path, found in parts.items()
    }


def _by_op(launches: Iterable[Launch]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for launch in launches:
        item = found.setdefault(launch.entry["op"], {"op": launch.entry["op"], "launches": 0, "lines": []})
        item["launches"] += launch.row.launches
        line = launch.entry["line"]
        if line and line not in item["lines"]:
            item["lines"].append(line)
    return sorted(found.values(), key=lambda item: -item["launches"])
