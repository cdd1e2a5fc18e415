"""The verb about tables of results, published or own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lmtest.cli.app import Json, app, output, print_json, print_table, records
from lmtest.errors import UsageError, nearest


@app.command()
def audit(
    table: Annotated[
        str, typer.Argument(help="A CSV file, or a shipped table such as understanding_icml2024.", metavar="TABLE")
    ],
    finding: Annotated[
        str | None,
        typer.Option(help="Show the rows with this finding alone, and what it says of each.", metavar="NAME"),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What counts as saturated, nats per string. Default: 0.01.", metavar="NATS")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the table with what is exact beside each row, and its findings.", metavar="FILE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit a table of results: exact floors and chance levels beside each row, and what is the matter with it.

    Findings do not change the exit code.
    """
    import torch

    from lmtest.audit import EPSILON, FINDINGS
    from lmtest.audit import audit as audit_table

    torch.set_num_threads(1)  # charts are many small operations: a second thread only waits
    if finding is not None and finding not in FINDINGS:
        raise UsageError(f"unknown finding {finding!r}; {nearest(finding, FINDINGS)}")
    done = audit_table(table, EPSILON if epsilon is None else epsilon)
    if out is not None:
        done.write(out)
    found: Any = done.findings if finding is None else done.findings[done.findings["finding"] == finding]
    if as_json:
        keys = ("rows", "findings", "comparisons", "counts")
        print_json(dict(zip(keys, map(records, (done.rows, found, done.comparisons, done.counts())), strict=True)))
        return
    if finding is not None:
        output.print(f"{finding}: {FINDINGS[finding]}", highlight=False, soft_wrap=True)
        print_table(["line", "row", "what"], [[str(r.line), _name(r), r.sentence] for r in found.itertuples()])
        return
    columns = ["line", "row", "value", "chance", "stop", "excess nats [95 %]", "findings"]
    print_table(columns, [_row(row) for row in done.rows.itertuples()])
    counts = done.counts()
    print_table(list(counts.columns), [list(map(str, row)) for row in counts.itertuples(index=False)])
    output.print(f"{len(done.rows)} rows, {len(found)} findings; --finding NAME tells what one says of each row")
    unknown = done.unjudged()
    if unknown:
        lines = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        output.print(
            f"of {len(unknown)} values nothing exact is known, so they were not judged by it (lines {lines}): is the measure a rule "
            "of the language, the prompt set id, ood, empty or all, and does the language or prompt_length say which prompts?",
            soft_wrap=True,
        )


def _name(row: Any) -> str:
    """What a row is of; a table need not have all the columns."""
    columns = ("language", "model", "variant", "measure", "prompt_set", "decoding")
    return " ".join(part for column in columns if (part := getattr(row, column, "")))


def _row(row: Any) -> list[str]:
    excess = f"{_number(row.excess)} [{_number(row.excess_lower)}, {_number(row.excess_upper)}]"
    numbers = [getattr(row, "value", ""), _number(row.exact_chance), _number(row.stop_at_once)]
    return [str(row.line), _name(row), *numbers, excess if math.isfinite(row.excess) else "", row.findings]


def _number(number: float) -> str:
    return f"{number:.3g}" if math.isfinite(number) else ""
