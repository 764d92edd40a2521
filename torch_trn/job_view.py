"""A job's report as text and its communication matrix as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trn import report
from torch_trn.report import Table

if TYPE_CHECKING:
    from rich.console import Group

    from torch_trn.job import JobReport
    from torch_trn.roles import OneRankRun

_SHOWN_RANKS = 8
_SHOWN_ROLES = 64


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


def of_roles(run: OneRankRun) -> Group:
    """What the job takes, and a line for each role."""
    from rich.console import Group
    from rich.text import Text

    recording = run.roles[0].recording
    place = recording.placement_text or "1 rank"
    heading = f"torch_trn job on {recording.target.name}, {recording.mode}, {place}; {len(run.roles)} of its ranks ran"
    energy, money = run.energy_joules, run.money
    summary = [
        ("device time", f"{report.seconds(run.device_seconds)}, waiting included"),
        (
            "waiting",
            f"{report.percent(run.waiting_share)} of it, the mean of these ranks: for messages and for the last to end",
        ),
        (
            "imbalance",
            f"rank {run.slowest.rank} works longest; the longest computes {report.percent(run.imbalance)} "
            "longer than the mean",
        ),
        ("peak memory", report.memory(run.peak_memory_bytes)),
        ("energy", "unknown" if energy is None else f"{report.si(energy, 'J')} of all ranks, an estimate"),
        ("cost", money.note if money.usd is None else f"${money.usd:.3g} for {money.note}"),
    ]
    table = report.rich_table(_roles(run))
    parts: list[Any] = [Text(heading, style="bold"), Text(), report.rich_summary(summary), Text(), table]
    unheard = run.clock.unheard if run.clock else {}
    if unheard:
        peers = sorted(set().union(*unheard.values()))
        shown = ", ".join("any" if rank < 0 else str(rank) for rank in peers[:_SHOWN_RANKS])
        more = ", ..." if len(peers) > _SHOWN_RANKS else ""
        parts.append(Text(f"* Taken to come when their partner does, as no role stands for them: rank {shown}{more}."))
    return Group(*parts)


def _roles(run: OneRankRun) -> Table:
    body = []
    for role in run.roles[:_SHOWN_ROLES]:
        time, recording = run.times[role.rank], role.recording
        share = recording.device_seconds / run.device_seconds if run.device_seconds else 0.0
        body.append(
            [
                str(role.rank),
                report.seconds(recording.compute_seconds),
                report.seconds(recording.collective_seconds),
                report.seconds(time.alone_seconds),
                report.seconds(time.waiting_seconds),
                report.percent(time.waiting_share),
                report.memory(role.peak_memory_bytes),
                f"{100 * recording.mfu * share:.3g} %",
            ]
        )
    columns = ("rank", "compute", "collectives", "without waiting", "waiting", "share", "peak memory", "MFU")
    more = len(run.roles) - _SHOWN_ROLES
    return Table("Ranks that ran", columns, body, note=f"{more} more" if more > 0 else "")


def _summary(job: JobReport) -> list[tuple[str, str]]:
    time = report.seconds(job.device_seconds)
    if job.steps > 1:
        time += f", {report.seconds(job.seconds_per_step)} per step"
    energy, usd = job.energy_joules, job.cost_usd
    return [
        ("device time", f"{time}, waiting included; most work is that of rank {job.slowest_rank}, the slowest"),
        ("waiting", f"{report.percent(job.waiting_share)} of it, the mean of the ranks"),
        ("imbalance", f"the slowest rank computes {report.percent(job.imbalance)} longer than the mean"),
        ("communication", f"{report.percent(job.exposed_share)} of it not hidden by compute, on the slowest rank"),
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
