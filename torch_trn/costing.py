"""Time, utilisation, energy and money of a ledger on a target: pure functions of the cost of each launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch_trn.ledger import CATEGORIES, Ledger

MODES = ("eager", "compiled")
ENGINES = ("tensor", "vector", "scalar", "gpsimd", "sync", "dma")
# DMA's own time is that of the HBM traffic it carries, so a launch that waits for it is bound by HBM.
ENGINE_NAMES = {
    "tensor": "TensorE",
    "vector": "VectorE",
    "scalar": "ScalarE",
    "gpsimd": "GpSimdE",
    "sync": "SyncE",
    "dma": "HBM",
}
NARROWED = ("float64", "int64", "uint64", "complex128")

Spec = list[dict[str, Any]]
Cost = Mapping[str, Any]


@dataclass
class Row:
    """Sums over one group: the launches and host transfers of an operator, a module, a phase, a line, or everything.

    `memory_by_category` is no sum: the device's tensors, in bytes, at that launch of the group where they were most.
    """

    name: str
    launches: int = 0
    seconds: float = 0.0
    flops: int = 0
    causal_flops: int = 0
    flops_by_dtype: dict[str, int] = field(default_factory=dict)
    hardware_flops_by_dtype: dict[str, int] = field(default_factory=dict)
    transpose_flops: int = 0
    hbm_read_bytes: int = 0
    hbm_write_bytes: int = 0
    dma_transfers: int = 0
    dma_descriptors: int = 0
    busy_cycles: dict[str, int] = field(default_factory=dict)
    busy_seconds: dict[str, float] = field(default_factory=dict)
    instructions: dict[str, int] = field(default_factory=dict)
    bound_seconds: dict[str, float] = field(default_factory=dict)
    host_syncs: int = 0
    to_host_bytes: int = 0
    to_device_bytes: int = 0
    fallback_launches: int = 0  # of operators that TorchNeuron would send to the host
    narrowed_launches: int = 0  # with 64-bit operands, which the engines hold in 32 bits
    memory_by_category: dict[str, int] = field(default_factory=dict)

    @property
    def peak_memory_bytes(self) -> int:
        return sum(self.memory_by_category.values())

    @property
    def hardware_flops(self) -> int:
        return sum(self.hardware_flops_by_dtype.values())

    @property
    def hbm_bytes(self) -> int:
        return self.hbm_read_bytes + self.hbm_write_bytes

    @property
    def host_bytes(self) -> int:
        return self.to_host_bytes + self.to_device_bytes

    @property
    def dma_average_bytes(self) -> float:
        return self.hbm_bytes / self.dma_transfers if self.dma_transfers else 0.0

    @property
    def bound_by(self) -> str:
        """What most of the group's time waits for; `` where the group takes none."""
        return max(self.bound_seconds, key=lambda bound: self.bound_seconds[bound], default="")

    def add(self, other: Row) -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _MAPS:
            into = getattr(self, name)
            for key, value in getattr(other, name).items():
                into[key] = into.get(key, 0) + value
        self.memory_by_category = max(self.memory_by_category, other.memory_by_category, key=lambda m: sum(m.values()))

    def to_dict(self) -> dict[str, Any]:
        out = {name: getattr(self, name) for name in ("name", *_SUMS)}
        out.update({name: dict(getattr(self, name)) for name in _MAPS})
        out.update(hardware_flops=self.hardware_flops, dma_average_bytes=self.dma_average_bytes, bound_by=self.bound_by)
        out.update(peak_memory_bytes=self.peak_memory_bytes, memory_by_category=dict(self.memory_by_category))
        return out


_SUMS = (
    "launches",
    "seconds",
    "flops",
    "causal_flops",
    "transpose_flops",
    "hbm_read_bytes",
    "hbm_write_bytes",
    "dma_transfers",
    "dma_descriptors",
    "host_syncs",
    "to_host_bytes",
    "to_device_bytes",
    "fallback_launches",
    "narrowed_launches",
)
_MAPS = (
    "flops_by_dtype",
    "hardware_flops_by_dtype",
    "busy_cycles",
    "busy_seconds",
    "instructions",
    "bound_seconds",
)


@dataclass(frozen=True)
class Part:
    """One line of a ledger and what it adds to a group."""

    entry: Mapping[str, Any]
    row: Row


@dataclass(frozen=True)
class Launch(Part):
    """A distinct launch with its price: `row` sums its launches, `seconds` is one of them."""

    cost: Cost
    seconds: float
    bound_by: str
    narrowed: frozenset[str]


@dataclass(frozen=True)
class Money:
    """Dollars, or None with the reason; the note names the instance whose price was shared out."""

    usd: float | None
    note: str


def spec_costs(ledger: Ledger, cost: Callable[[Spec], Cost]) -> list[Cost]:
    """The cost of each distinct spec, in the ledger's order: one call each, however often it was launched."""
    return [cost(spec) for spec in ledger.specs]


def cost_ledger(
    ledger: Ledger,
    costs: list[Cost],
    target: Mapping[str, Any],
    mode: str,
    falls_back: Callable[[str], bool] = lambda op: False,
) -> list[Launch]:
    """Prices every entry of the ledger on the target; `falls_back`: has TorchNeuron no kernel of an operator?"""
    if mode not in MODES:
        raise ValueError(f"[costing] mode must be one of {', '.join(MODES)}; got {mode!r}. Leave it out for eager.")
    narrowed = [frozenset(narrowed_dtypes(spec)) for spec in ledger.specs]
    fallbacks = {op for op in ledger.data["ops"] if falls_back(op)}
    is_moved = [is_transfer(spec) for spec in ledger.specs]
    return [
        _cost_entry(
            entry,
            costs[entry["spec"]],
            target["device"],
            mode,
            is_moved[entry["spec"]],
            narrowed[entry["spec"]],
            entry["op"] in fallbacks,
        )
        for entry in ledger.entries()
    ]


def is_transfer(spec: Spec) -> bool:
    """Whether a launch only moves bytes between memories: the runtime does that, and no graph is launched for it."""
    return bool(spec) and all(part.get("family") == "transfer" for part in spec)


def transfers(ledger: Ledger) -> list[Part]:
    """What moved between host and device."""
    return [Part(sync, _transfer_row(sync)) for sync in ledger.host_syncs()]


def is_host_sync(transfer: Mapping[str, Any]) -> bool:
    """Whether the host waited for a value of the device."""
    return bool(transfer["direction"] == "to_host" and transfer.get("blocking", True))


def _transfer_row(sync: Mapping[str, Any]) -> Row:
    to_host = sync["direction"] == "to_host"
    return Row(
        name=sync["op"],
        host_syncs=sync["count"] if is_host_sync(sync) else 0,
        to_host_bytes=sync["bytes"] if to_host else 0,
        to_device_bytes=0 if to_host else sync["bytes"],
    )


def _cost_entry(
    entry: Mapping[str, Any],
    cost: Cost,
    device: Mapping[str, Any],
    mode: str,
    is_moved: bool,
    narrowed: frozenset[str],
    falls_back: bool,
) -> Launch:
    counts, launches = cost["counts"], entry["launches"]
    read, write = launches * counts["hbm_read_bytes"], launches * counts["hbm_write_bytes"]
    transfers = launches * counts["dma_transfers"]
    descriptors = launches * counts["dma_descriptors"]
    busy = {engine: float(cost["busy_seconds"].get(engine, 0.0)) for engine in ENGINES}
    seconds, bound = float(cost["seconds"]), str(cost["bound_by"])
    if mode == "eager" or is_moved:
        if device["eager_dispatch_seconds"] > seconds:
            seconds, bound = device["eager_dispatch_seconds"], "dispatch"
        total = launches * seconds
        if mode != "eager":  # ledgers of older versions let a copy begin a graph
            total += entry["graphs"] * device["graph_launch_seconds"]
            seconds = total / launches if launches else 0.0
    else:
        kept_read = max(0, read - entry["fused_read_bytes"])
        kept_write = max(0, write - entry["fused_write_bytes"])
        kept = (kept_read + kept_write) / (read + write) if read + write else 1.0
        read, write = kept_read, kept_write
        transfers, descriptors = round(transfers * kept), round(descriptors * kept)
        # Fill, drain and nests that do not balance stay; only the traffic that fusion removed goes.
        overhead = max(0.0, seconds - max(busy.values()))
        if kept < 1.0:
            busy["dma"] *= kept
            slowest = max(ENGINES, key=lambda engine: busy[engine])
            seconds, bound = overhead + busy[slowest], ENGINE_NAMES[slowest]
        graph_seconds = entry["graphs"] * device["graph_launch_seconds"]
        if graph_seconds > launches * seconds:
            bound = "dispatch"
        total = launches * seconds + graph_seconds
        seconds = total / launches if launches else 0.0
    hardware = {dtype: launches * flops for dtype, flops in counts["hardware_flops"].items() if flops}
    # Recomputed activations are work for the engines, not progress of the model.
    counted = 0 if entry["phase"] == "recompute" else launches
    flops = counted * cost["model_flops"]
    row = Row(
        name=entry["op"],
        launches=launches,
        seconds=total,
        flops=flops,
        causal_flops=counted * cost["causal_flops"],
        flops_by_dtype={cost["flops_dtype"]: flops} if flops else {},
        hardware_flops_by_dtype=hardware,
        transpose_flops=launches * counts["transpose_flops"],
        hbm_read_bytes=read,
        hbm_write_bytes=write,
        dma_transfers=transfers,
        dma_descriptors=descriptors,
        busy_cycles={engine: launches * n for engine, n in counts["busy_cycles"].items() if n},
        busy_seconds={engine: launches * value for engine, value in busy.items() if value},
        instructions={engine: launches * n for engine, n in counts["instructions"].items() if n},
        bound_seconds={bound: total} if total else {},
        fallback_launches=launches if falls_back else 0,
        narrowed_launches=launches if narrowed else 0,
        memory_by_category=dict(zip(CATEGORIES, entry.get("peak_memory", ()))),
    )
    return Launch(entry, row, cost, seconds, bound, narrowed)


def group(parts: Iterable[Part], key: Callable[[Mapping[str, Any]], str]) -> list[Row]:
    """Rows summed by key, the slowest first; equal times keep the ledger's order."""
    rows: dict[str, Row] = {}
    for part in parts:
        if not (part.row.launches or part.row.host_bytes):
            continue
        name = key(part.entry)
        rows.setdefault(name, Row(name)).add(part.row)
    return sorted(rows.values(), key=lambda row: -row.seconds)


def total(parts: Iterable[Part]) -> Row:
    row = Row("total")
    for part in parts:
        row.add(part.row)
    return row


def device_seconds(
    launches: Iterable[Launch],
    dispatch_seconds: float = 0.0,
    collectives: Iterable[Mapping[str, Any]] = (),
    beside_seconds: float = 0.0,
) -> float:
    """Simulated time: launches of a stream follow each other, streams and devices run side by side.

    The host dispatches to all streams of a device in turn, so their launches can be no denser than that. It goes on
    while streams wait for collectives, which they do for `beside_seconds`.
    """
    streams: dict[tuple[int, int], float] = {}
    hosts: dict[int, float] = {}
    for launch in launches:
        device = launch.entry["device"]
        stream = (device, launch.entry["stream"])
        streams[stream] = streams.get(stream, 0.0) + launch.row.seconds
        hosts[device] = hosts.get(device, 0.0) + launch.row.launches * dispatch_seconds
    flights: dict[tuple[int, int], float] = {}
    for call in collectives:
        stream = (call["device"], call["stream"])
        flights[stream] = flights.get(stream, 0.0) + call["count"] * call["seconds"]
    busiest = max(streams.values(), default=0.0) + beside_seconds
    return max([busiest, *hosts.values(), *flights.values()])


def num_devices(launches: Iterable[Launch]) -> int:
    return len({launch.entry["device"] for launch in launches if launch.row.launches}) or 1


def peak_flops(dtype: str, device: Mapping[str, Any]) -> tuple[str, float]:
    """The documented peak that products in a dtype are measured against, with its name."""
    if dtype.startswith("float8") and device["peak_fp8_flops_per_second"]:
        return "FP8", float(device["peak_fp8_flops_per_second"])
    if dtype in ("bfloat16", "float16", "tfloat32") or dtype.startswith("float8"):
        return "BF16", float(device["peak_bf16_flops_per_second"])
    # float64, integers and complex numbers run through TensorE as FP32.
    return "FP32", float(device["peak_fp32_flops_per_second"])


def seconds_at_peak(flops_by_dtype: Mapping[str, int], device: Mapping[str, Any]) -> float:
    return sum(flops / peak_flops(dtype, device)[1] for dtype, flops in flops_by_dtype.items() if flops)


def utilization(flops_by_dtype: Mapping[str, int], seconds: float, devices: int, device: Mapping[str, Any]) -> float:
    """MFU from model FLOPs, HFU from hardware FLOPs: time at the documented peak of each dtype over time taken."""
    return seconds_at_peak(flops_by_dtype, device) / (seconds * devices) if seconds else 0.0


def mixed_peak(flops_by_dtype: Mapping[str, int], device: Mapping[str, Any]) -> tuple[str, float]:
    """The peak that an MFU over several dtypes refers to: the rate at which their mix would run at 100 %."""
    at_peak = seconds_at_peak(flops_by_dtype, device)
    if not at_peak:
        return "BF16", float(device["peak_bf16_flops_per_second"])
    names = sorted({peak_flops(dtype, device)[0] for dtype, flops in flops_by_dtype.items() if flops})
    return " + ".join(names), sum(flops_by_dtype.values()) / at_peak


def energy_joules(seconds: float, devices: int, target: Mapping[str, Any]) -> float | None:
    """An estimate: each device in use draws its share of the chip's power all the time. None without a power figure."""
    chip = target["chip"]
    if not chip["power_watts"]:
        return None
    return float(chip["power_watts"] / chip["num_devices"] * devices * seconds)


def money(seconds: float, devices: int, target: Mapping[str, Any], instance: str = "") -> Money:
    """The devices' share of the named instance if it has a price, else of the one that is cheapest per device."""
    chip_devices = target["chip"]["num_devices"]
    priced = [instance for instance in target["instances"] if instance["usd_per_hour"]]
    if not priced:
        return Money(None, f"no public price for {target['name']}; set usd_per_hour in a target file of your own")

    def share(instance: Mapping[str, Any]) -> float:
        return float(instance["usd_per_hour"] / (instance["num_chips"] * chip_devices))

    named = [each for each in priced if each["name"] == instance]
    cheapest = min(named or priced, key=share)
    of_instance = cheapest["num_chips"] * chip_devices
    note = f"{devices} of {of_instance} devices of a {cheapest['name']} at ${cheapest['usd_per_hour']:g} per hour"
    if instance and not named:
        note += f"; {instance} has no public price"
    return Money(share(cheapest) * devices * seconds / 3600, note)


def narrowed_dtypes(spec: Any) -> set[str]:
    """Element types in a spec that the engines do not have: they travel as their 32-bit kin."""
    if isinstance(spec, Mapping):
        found: set[str] = set()
        for key, value in spec.items():
            if isinstance(value, str):
                if key.endswith("dtype") and value in NARROWED:
                    found.add(value)
            else:
                found |= narrowed_dtypes(value)
        if spec.get("family") in ("pointwise", "copy") and spec.get("precision", {}).get("native_int64"):
            found.discard("int64")
        return found
    if isinstance(spec, list):
        return set().union(*(narrowed_dtypes(item) for item in spec))
    return set()
