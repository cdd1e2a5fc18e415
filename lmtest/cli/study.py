"""Verbs about studies and their run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmtest.cli.app import (
    Directory,
    Json,
    app,
    cell,
    check_directory,
    console,
    output,
    print_json,
    print_table,
    records,
)
from lmtest.terminal import plain


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A study file, such as runs/rule_extrapolation.toml.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/out/NAME-HASH.")] = None,
    set_: Annotated[
        list[str],
        typer.Option("--set", help="Override a key, such as training.steps=200. Repeatable.", metavar="KEY=VALUE"),
    ] = [],  # noqa: B006
    seeds: Annotated[str | None, typer.Option(help="Seeds, inclusive: 0-7, or 0,2,5.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes, one thread each. Default: one a core.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where a run stopped; what is done is not redone.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show cells, cost and whether the seeds can support each claim; run nothing."),
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Run a study: train, certify, evaluate, judge its claims, write the report.

    Ctrl-C saves and stops; the same command with --resume goes on. Verdicts do not change the exit code: see `lmtest claims`.
    """
    from lmtest import pipeline
    from lmtest.display import Bars

    if dry_run:
        _show_dry_run(file, set_, seeds, jobs, device, as_json)
        return
    display = pipeline.Silent() if quiet else Bars(console)
    done = pipeline.run_study(
        file, out=out, overrides=set_, seeds=seeds, jobs=jobs, device=device, resume=resume, display=display
    )
    if as_json:
        print_json({"directory": str(done.directory), "verdicts": records(done.verdicts)})
    elif not quiet:
        show_verdicts(done.verdicts)
        output.print(f"report: {done.directory / 'report.html'}")


@app.command()
def report(directory: Directory) -> None:
    """Draw the figures and write report.html of a finished run again."""
    from lmtest.report import write_report

    check_directory(directory)
    typer.echo(str(write_report(directory)))


@app.command()
def claims(directory: Directory, as_json: Json = False) -> None:
    """Print a run's verdicts; exit code 3 where a claim is refuted, else 4 where one is undecided."""
    from lmtest.directory import Run

    check_directory(directory)
    verdicts = Run(directory).verdicts
    if as_json:
        print_json(records(verdicts))
    else:
        show_verdicts(verdicts)
    found = set(verdicts["verdict"])
    raise typer.Exit(3 if "refuted" in found else 4 if "undecided" in found else 0)


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")],
    right: Annotated[Path, typer.Argument(help="Another one.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Compare two runs: the difference of each measure with its 95 % interval over seeds."""
    from lmtest.claims import compare_runs
    from lmtest.directory import Run

    for directory in (left, right):
        check_directory(directory)
    table = compare_runs(Run(left).measurements, Run(right).measurements)
    if as_json:
        print_json(records(table))
        return
    rows = [[cell(value) for value in row] for row in table.itertuples(index=False)]
    print_table(list(table.columns), rows)


def _show_dry_run(
    file: Path, overrides: list[str], seeds: str | None, jobs: int | None, device: str, as_json: bool
) -> None:
    from lmtest import pipeline
    from lmtest.dryrun import dry_run
    from lmtest.study import load_study

    with console.status("reading the study") as status:
        study, languages = load_study(file, overrides, seeds)
        chosen = pipeline.pick_device(device)
        n_jobs = pipeline.pick_jobs(jobs, chosen)
        plan = dry_run(file.stem, study, languages, n_jobs, chosen, lambda text: status.update(plain(text)))
    if as_json:
        print_json({"cells": records(plan.cells), "claims": records(plan.claims), "seconds": plan.seconds})
        return
    for table in (plan.cells, plan.claims):
        print_table(list(table.columns), [[cell(value) for value in row] for row in table.itertuples(index=False)])
    untimed = int(plan.cells["training_seconds"].isna().sum())
    output.print(
        f"training: about {plan.seconds:.0f} s on {n_jobs} job(s), device {chosen}; probes and evaluation come on top"
        + (
            f"; {untimed} of {len(plan.cells)} cells are too large to be timed on a CPU and not counted"
            if untimed
            else ""
        )
    )


def show_verdicts(verdicts: Any) -> None:
    if not len(verdicts):
        output.print("the study declares no claims")
        return
    rows = [
        [
            r.verdict,
            r.claim,
            f"{r.effect:.4g} [{r.lower:.4g}, {r.upper:.4g}]",
            f"{r.p_value:.3g}",
            f"{r.seeds_used}/{r.seeds_asked}",
            r.note,
        ]
        for r in verdicts.itertuples()
    ]
    print_table(["verdict", "claim", "effect [95 %]", "p (Holm)", "seeds", "note"], rows)
