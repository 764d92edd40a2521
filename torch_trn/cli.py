"""The `trn` command: run a script under a profile, list targets and operators, check the installation, re-cost."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from torch_trn import native

app = typer.Typer(
    name="trn",
    help="A Trainium that is not there: run PyTorch scripts on a simulated one and see what they cost.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import PackageNotFoundError, version

        import torch

        try:
            own = version("torch_trn")
        except PackageNotFoundError:
            own = "(not installed)"
        typer.echo(f"torch_trn {own}, torch {torch.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("run", context_settings={"allow_interspersed_args": False})
def run(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="Script to run, or with -m a module.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="Passed on.")] = None,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is a module name, as with python -m.")] = False,
    target: Annotated[str | None, typer.Option(help="Target name or TOML file.")] = None,
    mode: Annotated[str, typer.Option(help="eager: a dispatch per operator; compiled: neighbours fused.")] = "eager",
    report: Annotated[Path | None, typer.Option(help="Write the report: .html, .json, or text.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline for ui.perfetto.dev.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Write the recording, for `trn recost`.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="A:B", help="Record only training steps A to B-1.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--no-values", help="Count, time and account memory; compute no values.")
    ] = False,
    values: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="What a dry run's script reads where there is no value.")
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(metavar="N", help="Run N ranks in this process, as torchrun would in N processes.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="R",
            help="With --world-size --dry-run: the rank that runs, 0 if left out; repeat it, or give first:stop[:step] "
            "for a rank of each of a pipeline's stages.",
        ),
    ] = None,
    prefix_output: Annotated[bool, typer.Option(help="With --world-size: each line says its rank.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no report and no progress.")] = False,
) -> None:
    """Run a script unmodified under a profile and print the report. The exit code is the script's.

    Under torchrun (`torchrun --no-python ... trn run train.py`) each rank writes files of its own: {rank} in their
    names is its number, which otherwise stands before the suffix. `trn merge` makes one report of them.
    """
    from torch_trn.costing import MODES
    from torch_trn.profiler import parse_steps
    from torch_trn.run import RunOptions, is_quiet_rank, of_rank, run_script

    if mode not in MODES:
        raise typer.BadParameter(f"{mode!r} is not one of {', '.join(MODES)}.", param_hint="--mode")
    try:
        parse_steps(steps)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--steps") from error
    import torch_trn

    if target is not None:
        try:
            torch_trn.set_target(target)
        except (OSError, ValueError, RuntimeError) as error:
            typer.echo(f"trn run: {error}", err=True)
            raise typer.Exit(2) from None
        # The environment carries it to processes that the script starts.
        os.environ["TORCH_TRN_TARGET"] = target
    if dry_run:
        _enter_dry_run(values)
    elif values is not None:
        raise typer.BadParameter("values are a dry run's; give --dry-run too.", param_hint="--values")
    if role and not (dry_run and world_size is not None):
        raise typer.BadParameter("a role is one rank of a job's dry run; give --dry-run and --world-size too.")
    if prefix_output and (dry_run or world_size is None):
        raise typer.BadParameter(
            "lines are of ranks; give --world-size without --dry-run.", param_hint="--prefix-output"
        )
    for path in (report, trace, ledger):
        if path is not None and not path.absolute().parent.is_dir():
            raise typer.BadParameter(f"{path.absolute().parent} is not a directory.")
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"{path} is a directory; name a file in it.")
    options = RunOptions(
        mode=mode,
        # The script may change its directory before they are written.
        report=of_rank(report and report.absolute()),
        trace=of_rank(trace and trace.absolute()),
        ledger=of_rank(ledger and ledger.absolute()),
        steps=steps,
        quiet=quiet or is_quiet_rank(),
    )
    if world_size is not None:
        from torch_trn.rank_scripts import run_script_on_ranks
        from torch_trn.simulation import checked_world_size

        if dry_run:
            roles = [rank for text in role or ["0"] for rank in ranks_of(text, world_size)]
            if len(roles) > 1:
                if steps is not None or trace is not None:
                    raise typer.BadParameter("several roles have neither --steps nor --trace.", param_hint="--role")
                from torch_trn.rank_scripts import run_script_as_roles

                raise typer.Exit(run_script_as_roles(script, arguments or [], module, world_size, roles, options))
            from torch_trn.one_rank import one_rank

            with one_rank(roles[0], world_size):
                raise typer.Exit(run_script(script, arguments or [], module, options))
        try:
            checked_world_size(world_size)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--world-size") from error
        code = run_script_on_ranks(script, arguments or [], module, world_size, prefix_output, options)
        raise typer.Exit(code)
    raise typer.Exit(run_script(script, arguments or [], module, options))


def ranks_of(text: str, world_size: int) -> list[int]:
    """Of "8" or "0:64:8"."""
    try:
        numbers = [int(part) for part in text.split(":")]
        found = list(range(*numbers)) if len(numbers) > 1 else numbers
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 <= rank < world_size for rank in found):
        raise typer.BadParameter(f"{text} is no rank of {world_size}.", param_hint="--role")
    return found


def _enter_dry_run(values: str | None) -> None:
    import torch_trn

    try:
        number = float(values) if values is not None else None
    except ValueError:
        raise typer.BadParameter(f"{values!r} is not a number.", param_hint="--values") from None
    # The environment carries it to processes that the script starts.
    os.environ["TORCH_TRN_DRY_RUN"] = "1"
    if values is not None:
        os.environ["TORCH_TRN_DRY_RUN_VALUES"] = values
    torch_trn.dry_run(number).__enter__()


@app.command("targets")
def targets() -> None:
    """The targets that come with the package."""
    from torch_trn import report
    from torch_trn.target_files import HEADER, rows

    found = [list(row) for row in rows()]
    table = report.Table(f"{len(found)} targets", HEADER, found, left=len(HEADER))
    report.show(report.rich_table(table))
    typer.echo(f"current: {native.extension().current_target_name()}")


@app.command("ops")
def ops(
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
    status: Annotated[str | None, typer.Option(help="Only native, host or absent on TorchNeuron.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The operator table: family, engines, and what TorchNeuron does with each."""
    from torch_trn import report

    rows = native.op_table()
    for option, wanted, known in (
        ("--family", family, sorted({row["family"] for row in rows})),
        ("--status", status, ["native", "host", "absent"]),
    ):
        if wanted is not None and wanted not in known:
            raise typer.BadParameter(f"{wanted!r} is not one of {', '.join(known)}.", param_hint=option)
    rows = [row for row in rows if family in (None, row["family"]) and (status is None or status in _statuses(row))]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    body = [
        [row["name"], row["family"], row["engines"], _shown_status(row), row["no_program"] or "executes"]
        for row in rows
    ]
    columns = ("operator", "family", "engines", "TorchNeuron", "in hardware numerics")
    report.show(report.rich_table(report.Table(f"{len(rows)} operators", columns, body, left=5)))
    if family in (None, "generic") and status is None:
        typer.echo("\nOperators of other libraries (quantized::, mkldnn::, your own) are generic: counted by bytes.")


def _statuses(row: dict[str, Any]) -> list[str]:
    return [overload["torchneuron"] for overload in row["overloads"]]


def _shown_status(row: dict[str, Any]) -> str:
    """One word where all overloads agree, else how many have which."""
    found = _statuses(row)
    kinds = sorted(set(found), key=found.count, reverse=True)
    return kinds[0] if len(kinds) == 1 else ", ".join(f"{found.count(kind)} {kind}" for kind in kinds) or "-"


@app.command("doctor")
def doctor() -> None:
    """Check the installation; the exit code is 1 where something is wrong."""
    from torch_trn.doctor import CHECKS, run_check

    results = [run_check(name, check) for name, check in CHECKS]
    for result in results:
        typer.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name}: {result.detail}")
        if not result.ok and result.hint:
            typer.echo(f"      {result.hint}")
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


@app.command("recost")
def recost(
    path: Annotated[Path, typer.Argument(metavar="LEDGER", help="File written by `trn run --ledger`.")],
    target: Annotated[list[str] | None, typer.Option(help="Target name or TOML file; repeat it to compare.")] = None,
    mode: Annotated[str, typer.Option(help="eager or compiled.")] = "eager",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cost a saved recording on another target, without running again."""
    from torch_trn import report
    from torch_trn.ledger import Ledger
    from torch_trn.recording import Recording

    asked: list[str | None] = [*target] if target else [None]
    try:
        saved = Ledger.load(path)
        recordings = [Recording(saved, name, mode) for name in asked]
        names = [recording.target.name for recording in recordings]
    except (OSError, ValueError, RuntimeError) as error:
        typer.echo(f"trn recost: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        found = {name: recording.to_dict() for name, recording in zip(names, recordings, strict=True)}
        typer.echo(json.dumps(found if len(found) > 1 else next(iter(found.values())), indent=2))
    elif len(recordings) > 1:
        report.show(report.rich_table(report.comparison(recordings)))
    else:
        report.show(recordings[0])


@app.command("merge")
def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="FILES", help="Ledgers or JSON reports, one of each rank.")],
    target: Annotated[str | None, typer.Option(help="Cost ledgers on this target.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the communication matrix as a picture.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the job's report: .json, or text.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One report of a job from those of its ranks: the slowest, the imbalance, and who sends to whom."""
    from torch_trn.job import merge as merge_ranks
    from torch_trn.report import show

    try:
        job = merge_ranks(paths, target)
        if plot is not None:
            job.plot(plot)
        if report is not None:
            report.write_text((job.to_json() if report.suffix == ".json" else str(job)) + "\n")
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        typer.echo(f"trn merge: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(job.to_json())
    else:
        show(job)


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    app(args=arguments, prog_name="trn")


if __name__ == "__main__":
    main()
