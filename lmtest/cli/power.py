"""The verb that says how many seeds a study's claims need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmtest.cli.app import Json, app, cell, check_directory, console, output, print_json, print_table, records


@app.command()
def power(
    file: Annotated[Path, typer.Argument(help="A study file, such as runs/rule_extrapolation.toml.", metavar="FILE")],
    from_: Annotated[
        Path | None, typer.Option("--from", help="A run directory to take effects and spreads from.", metavar="DIR")
    ] = None,
    sd: Annotated[float | None, typer.Option(help="Spread over seeds, in the measure's unit.")] = None,
    effect: Annotated[
        float | None,
        typer.Option(help="How far beyond its bound or margin the truth lies (of an equivalence: within)."),
    ] = None,
    wanted: Annotated[float, typer.Option("--power", help="The chance of support that is wanted.")] = 0.8,
    seeds: Annotated[str | None, typer.Option(help="Seeds, inclusive: 0-7, or 0,2,5. Default: the study's.")] = None,
    as_json: Json = False,
) -> None:
    """Say how many seeds each claim of a study needs, by simulation; trains nothing.

    A claim counts as supported at Holm's strictest step: p at most 0.05 over the number of claims.
    """
    from lmtest.claims.power import power as power_of
    from lmtest.claims.samples import Tables
    from lmtest.directory import Run
    from lmtest.study import load_study

    run = None
    if from_ is not None:
        check_directory(from_)
        done = Run(from_)
        run = Tables(done.measurements, done.certificates, done.table("completions"))
    with console.status("simulating studies"):
        study, _ = load_study(file, [], seeds)
        table = power_of(study.claims, len(study.seed_list), sd, effect, wanted, run)
    if as_json:
        print_json(records(table))
        return
    columns = [*table.columns[:-2], f"power with {len(study.seed_list)} seeds", f"seeds for {wanted:.0%}"]
    shown = table.astype(object).where(table.notna(), None)  # no spread is told of a heterogeneity
    shown["needed_seeds"] = shown["needed_seeds"].fillna("> 64")
    rows = [["–" if value is None else cell(value) for value in row] for row in shown.itertuples(index=False)]
    print_table(columns, rows)
    output.print(f"p at most 0.05/{len(study.claims)}: Holm's strictest step; seeds are assumed to be normal")
