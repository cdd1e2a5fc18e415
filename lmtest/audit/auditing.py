"""The audit of a table of results: read, put what is exact beside each row, compare rows, say what is the matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lmtest.atomic import write_text
from lmtest.audit import beside, exact, pairs
from lmtest.audit.findings import FINDINGS, of_row
from lmtest.errors import UsageError
from lmtest.published import no_such_table, shipped_or_path
from lmtest.result_table import TEXTS, parse, read_texts, records, refuse
from lmtest.saturation import SaturationConfig

EPSILON = float(SaturationConfig().epsilon)
"""What counts as saturated where nobody says otherwise, in nats per string."""
NEEDED = ["language"]
CONTENTS = ["value", "loss", "kl", "chance", "prompts"]
"""A row has at least one of these."""
EXACT = [
    "averaged_over",
    "floor",
    "floor_half_width",
    "excess",
    "excess_lower",
    "excess_upper",
    "exact_chance",
    "stop_at_once",
]
"""What the annotated table has beside the columns of the file: see `exact.with_floors` and `exact.with_levels`."""
_FINDING_COLUMNS = ["line", *TEXTS, "finding", "sentence"]


@dataclass(frozen=True, eq=False)
class Audit:
    """`rows`: the table as written, `line`, EXACT and the names of the `findings` with their `explanation`; `findings`: one row
    each, with its `sentence`; `comparisons`: see `pairs.compare_rows`; `path`: the file that was read."""

    path: Path
    rows: pd.DataFrame
    findings: pd.DataFrame
    comparisons: pd.DataFrame

    def counts(self) -> pd.DataFrame:
        """The findings that there are, in the order of FINDINGS: `finding rows models meaning`; a model counts once on a language."""
        found = dict(list(self.findings.groupby("finding")))
        return pd.DataFrame(
            [
                (name, len(rows), rows.groupby(["language", "model", "variant", "source"]).ngroups, meaning)
                for name, meaning in FINDINGS.items()
                if (rows := found.get(name)) is not None
            ],
            columns=["finding", "rows", "models", "meaning"],
        )

    def unjudged(self) -> list[int]:
        """Lines with an accuracy of which nothing exact is known: of another measure or prompt set than those that are."""
        rows = self.rows.reindex(columns=["line", "value", "measure", "exact_chance"], fill_value="")
        unknown = (rows["value"] != "") & (rows["measure"] != "finish_rate") & rows["exact_chance"].isna()
        return [int(line) for line in rows.loc[unknown, "line"]]

    def write(self, path: Path) -> None:
        """Writes `rows`, less `line`, as CSV, whole or not at all. Raises UsageError where that would replace the table itself."""
        if path.resolve() == self.path.resolve():
            raise UsageError(f"{path} is the table that was audited; name another file to write to")
        write_text(path, self.rows.drop(columns="line").to_csv(index=False, lineterminator="\n"))


def audit(name_or_path: str | Path, epsilon: float = EPSILON) -> Audit:
    """A shipped table by name or any CSV file by path (columns: `result_table.EVERY`) → what is exact about it, and findings.

    `epsilon`: nats per string, for saturation and for equality of losses. Raises UsageError on an ε that is not positive,
    and on a table that is faulty: with file, line and column.
    """
    if not 0 < epsilon < math.inf:
        raise UsageError(f"expected an ε > 0 in nats per string, found {epsilon:g}")
    path = shipped_or_path(name_or_path)
    try:
        texts = read_texts(path, NEEDED)
    except FileNotFoundError:
        raise no_such_table(name_or_path) from None
    table = parse(texts, path)
    _check(texts, table, path)
    languages = exact.load_languages(table, path)
    table = exact.with_levels(exact.with_floors(table, languages), languages, path)
    comparisons = pairs.compare_rows(table, epsilon)
    by_pairs, by_finishing = beside.of_pairs(table, comparisons), beside.of_finishing(table)
    found = {
        row["line"]: [*of_row(row, epsilon), *by_finishing.get(row["line"], []), *by_pairs[row["line"]]]
        for row in records(table)
    }
    findings = pd.DataFrame(
        [
            [*(row[column] for column in _FINDING_COLUMNS[:-2]), finding.name, finding.sentence]
            for row in records(table)
            for finding in found[row["line"]]
        ],
        columns=_FINDING_COLUMNS,
    )
    rows = texts.assign(
        **{column: table[column] for column in EXACT},
        findings=["; ".join(f.name for f in found[line]) for line in texts["line"]],
        explanation=[" | ".join(f"{f.name}: {f.sentence}" for f in found[line]) for line in texts["line"]],
    )
    return Audit(path, rows, findings, comparisons)


def _check(texts: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """Raises UsageError where there is nothing to audit, and where a share is none."""
    lines = table["line"].tolist()
    if not set(CONTENTS) & set(texts.columns):
        raise UsageError(f"{path}: expected at least one of the columns {', '.join(CONTENTS)}, found none of them")
    refuse(table, lines, "language", table["language"] == "", "a shipped language or a language file", path)
    for line, nothing in zip(lines, table[CONTENTS].isna().all(axis=1), strict=True):
        if nothing:
            raise UsageError(
                f"{path}, line {line}: expected at least one of {', '.join(CONTENTS)}, found none; fill one, or delete the line"
            )
    for column in ("value", "chance"):
        wrong = ~table[column].isna() & ~table[column].between(0, 1)
        refuse(table, lines, column, wrong, "a share between 0 and 1 (percentages divided by 100)", path)
