"""The report of a recording as text, rich tables or one HTML page, all from the same sections."""

from __future__ import annotations

import html as escaping
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch_trn import costing
from torch_trn.costing import Row

if TYPE_CHECKING:
    from rich.console import Group

    from torch_trn.recording import Recording

_TOP_ROWS = 10
# neuron-explorer flags more than this share of transposes (SDK: tools/neuron-explorer/overview-summary-page.rst).
_TRANSPOSE_SHARE = 0.10


def si(value: float, unit: str = "", base: int = 1000) -> str:
    """Three digits and a prefix: 12345 FLOP is 12.3 kFLOP; base 1024 writes KiB, MiB, GiB."""
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi") if base == 1024 else ("", "k", "M", "G", "T", "P", "E")
    size, power = float(value), 0
    while abs(size) >= base and power < len(prefixes) - 1:
        size /= base
        power += 1
    text = f"{size:.0f}" if power == 0 and size.is_integer() else _digits(size)
    return f"{text} {prefixes[power]}{unit}".rstrip()


def _digits(value: float) -> str:
    size = abs(value)
    return f"{value:.{2 if size < 10 else 1 if size < 100 else 0}f}"


def seconds(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value / 1e-9)} ns" if value else "0 s"


def memory(value: float) -> str:
    return si(value, "B", 1024)


def percent(value: float) -> str:
    shown = 100 * value
    return f"{shown:.0f} %" if shown >= 10 or shown == 0 else f"{shown:.1f} %" if shown >= 0.1 else "<0.1 %"


@dataclass
class Table:
    """Rows of plain text; numbers are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    left: int = 1
    note: str = ""


@dataclass
class Report:
    heading: str
    summary: list[tuple[str, str]]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)


def build(recording: Recording) -> Report:
    """The report's content, before any layout."""
    steps = f", {recording.steps:,} step{'s' * (recording.steps != 1)}" if recording.steps else ""
    devices = f", {recording.num_devices} devices" if recording.num_devices > 1 else ""
    heading = (
        f"torch_trn profile on {recording.target.name}, {recording.mode}{devices}{steps}, "
        f"{recording.launches:,} launches ({sum(launch.row.launches > 0 for launch in recording.costed):,} distinct)"
    )
    if not recording.launches and not recording.ledger.data["collectives"]:
        device = _device_name()
        return Report(
            heading,
            [],
            [],
            [f'No operator ran on the device while this profile was recording. Is the model on "{device}"?'],
        )
    return Report(heading, _summary(recording), _tables(recording), _notes(recording))


def _summary(recording: Recording) -> list[tuple[str, str]]:
    total, record = recording.total, recording.target.record
    busiest = recording.device_seconds
    lines = [("device time", seconds(busiest))]
    if recording.steps > 1:
        lines[0] = ("device time", f"{seconds(busiest)}, {seconds(recording.seconds_per_step)} per step")
    if total.flops:
        peak_name, peak_rate = recording.peak
        dtypes = ", ".join(f"{dtype} {si(n)}" for dtype, n in _largest(recording.flops_by_dtype))
        causal = f", causal {si(total.causal_flops)}" if total.causal_flops != total.flops else ""
        lines.append(("model FLOPs", f"{si(total.flops)} ({dtypes}{causal})"))
        lines.append(
            (
                "MFU",
                f"{percent(recording.mfu)} of {si(peak_rate, 'FLOP/s')}, the documented {peak_name} peak of one device"
                f"; HFU {percent(recording.hfu)}",
            )
        )
    rate = total.hbm_bytes / busiest / recording.num_devices if busiest else 0.0
    lines.append(
        (
            "HBM traffic",
            f"{si(total.hbm_read_bytes, 'B')} read, {si(total.hbm_write_bytes, 'B')} written; "
            f"{si(rate, 'B/s')}, {percent(recording.mbu)} of the bandwidth",
        )
    )
    if total.dma_transfers:
        lines.append(("DMA", f"{si(total.dma_transfers)} transfers of {si(total.dma_average_bytes, 'B')} on average"))
    bound_total = sum(total.bound_seconds.values()) or 1.0
    lines.append(
        (
            "time bound by",
            ", ".join(f"{name} {percent(n / bound_total)}" for name, n in _largest(total.bound_seconds)),
        )
    )
    fractions = {costing.ENGINE_NAMES[engine]: share for engine, share in recording.busy_fraction.items() if share}
    fractions = {("DMA" if name == "HBM" else name): share for name, share in fractions.items()}
    lines.append(("engines busy", ", ".join(f"{name} {percent(share)}" for name, share in fractions.items())))
    held = ", ".join(f"{name.replace('_', ' ')} {memory(n)}" for name, n in _largest(recording.memory_by_category))
    capacity = record["device"]["hbm_bytes"]
    fits = "" if recording.peak_memory_bytes <= capacity else " (does not fit)"
    lines.append(
        (
            "peak memory",
            f"{memory(recording.peak_memory_bytes)} of {memory(capacity)}{fits}" + (f": {held}" if held else ""),
        )
    )
    syncs = recording.total.host_syncs
    lines.append(
        (
            "host",
            f"{syncs:,} sync{'s' * (syncs != 1)}"
            + (f" (about {seconds(recording.host_sync_seconds)}, beside the device time)" if syncs else "")
            + f"; {si(recording.to_host_bytes, 'B')} to the host, "
            f"{si(recording.to_device_bytes, 'B')} to the device",
        )
    )
    lines += _communication(recording)
    energy = recording.energy_joules
    lines.append(
        ("energy", "unknown: the target has no power figure" if energy is None else f"{si(energy, 'J')}, an estimate")
    )
    money = recording.money
    lines.append(("cost", money.note if money.usd is None else f"${money.usd:.3g} for {money.note}"))
    return lines


def _communication(recording: Recording) -> list[tuple[str, str]]:
    kinds = recording.collectives_by_kind
    if not kinds:
        return []
    exposed, wait, contention = (
        recording.exposed_collective_seconds,
        recording.collective_wait_seconds,
        recording.collective_contention_seconds,
    )
    share = exposed / recording.device_seconds if recording.device_seconds else 0.0
    text = f"{seconds(recording.collective_seconds)}, {seconds(exposed)} exposed ({percent(share)} of the time)"
    if contention:
        text += f"; {seconds(contention)} lost to sharing HBM"
    if wait:
        text += f"; {seconds(wait)} of waiting for later ranks beside it"
    lines = [("communication", text)]
    lines += [
        (kind, f"{sums['count']:,.0f} of {si(sums['bytes'], 'B')} in {seconds(sums['seconds'])}")
        for kind, sums in kinds.items()
    ]
    where = recording.placement_text
    return [*lines, ("placement", where)] if where else lines


def _like_calls(calls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls of one place and size as one row, whichever modules they belong to: their number, times on average."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for call in calls:
        place = call["line"] or call["module"]
        key = (call["op"], place, call["algorithm"], len(call["ranks"]), call["bytes"], call["steps"])
        row = merged.setdefault(key, {**call, "count": 0, "seconds": 0.0, "exposed_seconds": 0.0})
        row["count"] += call["count"]
        row["seconds"] += call["count"] * call["seconds"]
        row["exposed_seconds"] += call["exposed_seconds"]
    for row in merged.values():
        row["seconds"] /= row["count"]
    return list(merged.values())


def _collective_table(recording: Recording) -> Table:
    calls = sorted(_like_calls(recording.collectives), key=lambda call: -call["count"] * call["seconds"])
    body = [
        [
            call["op"],
            call["line"] or call["module"] or "(unknown)",
            call["algorithm"],
            f"{len(call['ranks']):,}",
            f"{call['count']:,}",
            si(call["bytes"], "B"),
            f"{call['steps']:,}",
            seconds(call["seconds"]),
            seconds(call["exposed_seconds"] / call["count"]),
            si(call["bus_bandwidth"], "B/s"),
        ]
        for call in calls[:_TOP_ROWS]
    ]
    columns = ("collective", "line", "algorithm", "ranks", "calls", "bytes", "steps", "time", "exposed", "bus")
    return Table("Collectives, one call", columns, body, left=3, note=_more(len(calls)))


def _tables(recording: Recording) -> list[Table]:
    tables = []
    phases = recording.by_phase()
    if len(phases) > 1:
        tables.append(_cost_table(recording, "Phases", "phase", phases))
    tables.append(_cost_table(recording, "Operators", "operator", recording.by_operator(), _op_name))
    modules = recording.by_module(collapse=True)
    if any(row.name for row in modules):
        tables.append(_cost_table(recording, "Modules", "module", modules, lambda name: name or "(no module)"))
    lines = recording.by_line()
    if any(row.name for row in lines):
        tables.append(_cost_table(recording, "Source lines", "line", lines, lambda name: name or "(unknown)"))
    if recording.ledger.data["collectives"]:
        tables.append(_collective_table(recording))
    transfers = recording.host_transfers
    if transfers:
        transfers.sort(key=lambda sync: (-sync["count"], -sync["bytes"]))
        tables.append(
            Table(
                "Host transfers",
                ("operator", "line", "module", "direction", "count", "bytes"),
                [
                    [
                        _op_name(sync["op"]),
                        sync["line"] or "(unknown)",
                        sync["module"] or "(no module)",
                        ("to host" if sync["direction"] == "to_host" else "to device")
                        + ("" if sync.get("blocking", True) else ", not waited for"),
                        f"{sync['count']:,}",
                        si(sync["bytes"], "B"),
                    ]
                    for sync in transfers[:_TOP_ROWS]
                ],
                left=4,
                note=_more(len(transfers)),
            )
        )
    return tables


def _cost_table(
    recording: Recording, title: str, column: str, rows: list[Row], label: Callable[[str], str] = str
) -> Table:
    everything = recording.total.seconds or 1.0
    rows = [row for row in rows if row.launches]
    body = [
        [
            label(row.name),
            f"{row.launches:,}",
            seconds(row.seconds),
            percent(row.seconds / everything),
            row.bound_by,
            si(row.flops) if row.flops else "-",
            percent(recording.row_mfu(row)) if row.flops else "-",
            si(row.hbm_bytes, "B"),
        ]
        for row in rows[:_TOP_ROWS]
    ]
    columns = (column, "launches", "time", "share", "bound by", "FLOPs", "MFU", "HBM")
    return Table(title, columns, body, note=_more(len(rows)))


def _notes(recording: Recording) -> list[str]:
    notes = []
    for status, what in (("host", "sends to the host"), ("absent", "has no kernel for, so they run on the host")):
        found = [item for item in recording.fallbacks if item["status"] == status]
        if found:
            notes.append(f"Operators that TorchNeuron {what}: {_places(found)}")
    if recording.narrowing:
        notes.append(
            "Operands that the engines hold in 32 bits (int64 as int32, float64 as float32): "
            + _places(recording.narrowing)
        )
    hardware = recording.hardware_flops
    if hardware and recording.transpose_flops > _TRANSPOSE_SHARE * hardware:
        notes.append(
            f"Transposes are {percent(recording.transpose_flops / hardware)} of the hardware FLOPs: "
            "operands lie the wrong way round for TensorE."
        )
    if recording.energy_joules is not None:
        notes.append("Energy is the devices' share of an estimated chip power; AWS publishes none.")
    return notes


def _places(items: Sequence[dict[str, Any]]) -> str:
    shown = []
    for item in items[:5]:
        where = f", {item['lines'][0]}" if item["lines"] else ""
        shown.append(f"{_op_name(item['op'])} ({item['launches']:,}x{where})")
    more = f", and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(shown) + more + "."


def _op_name(name: str) -> str:
    return name.removeprefix("aten::")


def _largest(values: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(((name, n) for name, n in values.items() if n), key=lambda item: -item[1])


def _more(rows: int) -> str:
    return f"{rows - _TOP_ROWS} more" if rows > _TOP_ROWS else ""


def _device_name() -> str:
    import torch

    return torch._C._get_privateuse1_backend_name()


def comparison(recordings: Iterable[Recording]) -> Table:
    """One recording on several targets, side by side."""
    rows = []
    for recording in recordings:
        usd, energy = recording.cost_usd, recording.energy_joules
        capacity = recording.target.record["device"]["hbm_bytes"]
        rows.append(
            [
                recording.target.name,
                recording.mode,
                seconds(recording.seconds_per_step),
                percent(recording.mfu),
                si(recording.peak[1], "FLOP/s"),
                percent(recording.mbu),
                recording.total.bound_by or "-",
                "yes" if recording.peak_memory_bytes <= capacity else "no",
                "-" if energy is None else si(energy, "J"),
                "-" if usd is None else f"${usd:.3g}",
            ]
        )
    columns = ("target", "mode", "per step", "MFU", "peak", "MBU", "bound by", "fits", "energy", "cost")
    return Table("One recording, several targets", columns, rows, left=2)


def rich_table(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    style = box.SIMPLE_HEAD if _unicode() else box.ASCII2
    out = RichTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=style,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(table.columns):
        is_text = number < table.left or name == "bound by"
        out.add_column(
            name,
            justify="left" if is_text else "right",
            overflow="fold" if number < table.left else "ellipsis",
            no_wrap=number >= table.left,
            min_width=16 if number == 0 and table.left == 1 else None,
            style="cyan" if name == "bound by" else None,
        )
    for row in table.rows:
        out.add_row(*(Text(cell) for cell in row))
    return out


def rich_summary(lines: Iterable[tuple[str, str]]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in lines:
        grid.add_row(Text(name), Text(value))
    return grid


def renderable(recording: Recording) -> Group:
    from rich.console import Group
    from rich.text import Text

    content = build(recording)
    parts: list[Any] = [Text(content.heading, style="bold")]
    if content.summary:
        parts += [Text(), rich_summary(content.summary), Text()]
    for table in content.tables:
        parts += [rich_table(table), *([Text(table.note, style="dim")] if table.note else []), Text()]
    parts += [Text(f"* {note}") for note in content.notes]
    return Group(*parts)


def plain(item: Any, width: int | None = None) -> str:
    """Rich output as text without colour codes."""
    from rich.console import Console

    if width is None:
        width = min(160, max(100, shutil.get_terminal_size((120, 50)).columns))
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(item)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def show(item: Any) -> None:
    """Prints to stdout, in colour where that is a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(item)
    else:
        print(plain(item))


def text(recording: Recording) -> str:
    return plain(renderable(recording))


def _unicode() -> bool:
    return "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()


_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #1a1a1a; }
h1 { font-size: 1.3em; } h2 { font-size: 1.05em; margin: 2em 0 .4em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th { font-weight: 600; border-bottom: 2px solid #888; }
.text { text-align: left; overflow-wrap: anywhere; }
table.summary { width: auto; } table.summary td { border: 0; } table.summary td:first-child { color: #666; }
.note { color: #666; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } th, td { border-color: #444; } }
"""


def html(recording: Recording) -> str:
    """One page without scripts or anything to fetch."""
    content = build(recording)
    quote = escaping.escape
    out = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{quote(content.heading)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{quote(content.heading)}</h1>",
        '<table class="summary">',
        *(
            f'<tr><td class="text">{quote(name)}</td><td class="text">{quote(value)}</td></tr>'
            for name, value in content.summary
        ),
        "</table>",
    ]
    for table in content.tables:
        classes = [
            ' class="text"' if n < table.left or name == "bound by" else "" for n, name in enumerate(table.columns)
        ]
        head = "".join(f"<th{kind}>{quote(name)}</th>" for kind, name in zip(classes, table.columns, strict=True))
        out.append(f"<h2>{quote(table.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>")
        for row in table.rows:
            cells = "".join(f"<td{kind}>{quote(cell)}</td>" for kind, cell in zip(classes, row, strict=True))
            out.append(f"<tr>{cells}</tr>")
        out.append("</tbody></table>" + (f'<p class="note">{quote(table.note)}</p>' if table.note else ""))
    if content.notes:
        out.append("<h2>Notes</h2><ul>" + "".join(f"<li>{quote(note)}</li>" for note in content.notes) + "</ul>")
    return "\n".join([*out, "</body></html>", ""])
