"""A job's report as text and its communication matrix as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trn import report
from torch_trn.report import Table

if TYPE_CHECKING:
    from rich.console import Group

    from torch_trn.job import JobReport

_SHOWN_RANKS = 8


def renderable(job: JobReport) -> Group:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(_heading(job), style="bold"), Text(), report.rich_summary(_summary(job)), Text()]
    for table in (_ranks(job), _matrix(job)):
        parts += [report.rich_table(table), *([Text(table.note, style="dim")] if table.note else []), Text()]
    if job.missing_ranks:
        missing = ", ".join(map(str, job.missing_ranks[:_SHOWN_RANKS]))
        more = ", ..." if len(job.missing_ranks) > _SHOWN_RANKS else ""
        parts.append(Text(f"* Not among what was merged: rank {missing}{more}."))
    return Group(*parts)


def _heading(job: JobReport) -> str:
    return f"torch_trn job on {job.target}, {job.ranks[0]['mode']}, {job.ranks[0]['placement_text'] or '1 rank'}"


def _summary(job: JobReport) -> list[tuple[str, str]]:
    time = report.seconds(job.device_seconds)
    if job.steps > 1:
        time += f", {report.seconds(job.seconds_per_step)} per step"
    energy, usd = job.energy_joules, job.cost_usd
    return [
        ("device time", f"{time}, of rank {job.slowest_rank}, the slowest"),
        ("imbalance", f"the slowest rank computes {report.percent(job.imbalance)} longer than the mean"),
        ("communication", f"{report.percent(job.exposed_share)} of the slowest rank's time not hidden by compute"),
        ("energy", "unknown" if energy is None else f"{report.si(energy, 'J')}, an estimate"),
        ("cost", job.to_dict()["cost_note"] if usd is None else f"${usd:.3g} for {job.to_dict()['cost_note']}"),
    ]


def _ranks(job: JobReport) -> Table:
    ordered = sorted(job.ranks, key=lambda one: -float(one["device_seconds"]))
    body = [
        [
            str(one["rank"]),
            report.seconds(one["device_seconds"]),
            report.seconds(one["compute_seconds"]),
            report.seconds(one["collective_seconds"]),
            report.seconds(one["exposed_collective_seconds"]),
            report.seconds(one["collective_wait_seconds"]),
            report.si(sum(one["sent_bytes"].values()), "B"),
            report.memory(one["peak_memory_bytes"]),
            f"{one['mfu_estimated_percent']:.3g} %",
        ]
        for one in ordered[:_SHOWN_RANKS]
    ]
    columns = ("rank", "device time", "compute", "collectives", "exposed", "waits", "sends", "peak memory", "MFU")
    more = len(ordered) - _SHOWN_RANKS
    return Table("Ranks, the slowest first", columns, body, note=f"{more} more" if more > 0 else "")


def _matrix(job: JobReport) -> Table:
    ranks = [int(one["rank"]) for one in job.ranks][:_SHOWN_RANKS]
    body = [
        [str(rank), *(report.si(row[to], "B") if row.get(to) else "-" for to in ranks)]
        for rank, row in ((rank, job.matrix[rank]) for rank in ranks)
    ]
    left_out = len(job.ranks) - len(ranks)
    note = f"the first {len(ranks)} ranks; the rest in to_dict() and plot()" if left_out > 0 else ""
    columns = ("from \\ to", *map(str, ranks))
    return Table("Bytes from rank to rank, as the algorithms route them", columns, body, note=note)


def plot(job: JobReport, path: str | Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "[plot] the picture of a communication matrix needs matplotlib; got none. Install torch_trn[plot]."
        ) from error
    size = job.world_size
    megabytes = [[job.matrix.get(source, {}).get(to, 0.0) / 1e6 for to in range(size)] for source in range(size)]
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(megabytes, cmap="viridis", interpolation="nearest")
    axes.set(xlabel="to rank", ylabel="from rank", title=_heading(job))
    axes.title.set_fontsize("medium")
    if size <= 16:
        axes.set_xticks(range(size))
        axes.set_yticks(range(size))
    figure.colorbar(image, label="MB")
    figure.savefig(path, dpi=150)
