"""docs/audit.md: the format of a table, and what the audit of the shipped ones finds, each finding with the command that tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lmtest.audit.auditing import EPSILON, Audit, audit
from lmtest.audit.findings import FINDINGS
from lmtest.audit.pairs import DIFFER, EQUAL
from lmtest.published import load_published, published_tables
from lmtest.result_table import records

MOST_SHOWN = 6
"""Rows told of each finding."""

COLUMN_TEXTS = {
    "language": "a shipped language, or a language file relative to the table",
    "model": "its name; `people` are compared with no model",
    "variant": "how it was made, such as `normal` or `adversarial`",
    "measure": "a rule of the language, `RULE_completion` for the completion alone, `grammatical`, `finish_rate`; "
    "`_finished` at the end: among finished completions alone; `accuracy`",
    "prompt_set": "`id` or `ood`: those of the prompts that the language can complete, or cannot; `empty`; `all`",
    "decoding": "such as `greedy`",
    "value": "a share in [0, 1], with the digits that are printed: `1.000`, not `1`",
    "spread": "standard deviation of the value over runs (ddof 1)",
    "n": "number of runs (seeds)",
    "loss": "mean test loss over runs, with the digits that are printed",
    "loss_spread": "standard deviation of the loss over runs (ddof 1)",
    "positions": "how many positions a string counts in the mean of the loss, PAD included; `string`: a loss per string; "
    "empty: all tokens of all strings, EOS included, PAD not",
    "source": "where it stands",
    "note": "anything",
    "chance": "the chance level that is stated",
    "kl": "the KL divergence that is stated, in the unit and averaging of the loss",
    "prompts": "the number of prompts that is stated",
    "prompts_trained": "how many of the prompts the model was trained on",
    "parameters": "number of parameters",
    "group": "rows of one language, measure, prompt set and decoding are compared with each other if they agree in this too",
    "unit": "`nats` (where empty) or `bits`: of loss, loss_spread and kl",
    "prompt_length": "the prompts are all strings of so many symbols; empty: those that the language file declares",
    "max_new_tokens": "of a completion; empty: 300",
    "chosen_by": "what the checkpoint was chosen by: `loss`, or `value` (the largest value over training)",
}
"""Every column of the format: what it holds."""

INTRODUCTION = """# The audit of published tables

`lmtest audit TABLE` reads a table of results and puts beside each row what is exact: the floor of its loss under the averaging
that was used, the chance level of its accuracy on the same prompts, the score of a model that stops at once. What is the matter
with a row is a finding with a fixed name. This page is written by `lmtest.audit.page.page()` from the tables shipped in
`lmtest/published_data/`; each command below prints the rows that it stands above.

## A table of one's own

A CSV file in UTF-8 with a line of column names; `language` and at least one of `value`, `loss`, `kl`, `chance`, `prompts` are
needed. A row is one model (over its runs) and one measure. Rows without value and loss hold what a paper states about its prompts.
"""

INTERVALS = """
How it is judged: the interval of a value or a loss is Student's 95 % interval over runs, widened by half a unit of the last
digit printed. The excess is loss × positions − entropy, in nats per string. Losses of two rows are equal where two one-sided
Welch tests at 5 % show their difference within ε, and differ where Welch's 95 % interval leaves out 0. A test set is taken to
be large: what its own draw adds to a loss is not in the spread over runs unless every run draws one of its own.
"""

BEYOND = """
## What no table shows

These were found by reading the released code, and cannot be had from numbers that are printed; our studies do without them.

- The released transformer takes its position from the row of the batch: no position of a string can be told from another.
- Where it is trained on completions, the slice begins one token late: the first token of a completion is never trained.
- For aⁿbⁿ and aⁿbⁿcⁿ the training, validation and test strings are the same.
"""


def page() -> str:
    """The text of docs/audit.md: the same bytes for the same tables."""
    parts = [INTRODUCTION, _table(["column", "what it holds"], [[f"`{k}`", text] for k, text in COLUMN_TEXTS.items()])]
    audits = {name: audit(name) for name in published_tables()}
    parts += [
        INTERVALS,
        "## Rows by finding\n\nIn brackets: of how many models, each once on a language.\n",
        _summary(audits),
        f"\nε = {EPSILON:g} nats per string.",
    ]
    parts += [line for name, done in audits.items() for line in _of_table(name, done)]
    return "\n".join([*parts, BEYOND.rstrip()]) + "\n"


def command(table: str, finding: str) -> str:
    """The command that tells one finding of one table."""
    return f"lmtest audit {table} --finding {finding}"


def _summary(audits: Mapping[str, Audit]) -> str:
    """One row a finding, one column a table: rows, and the models on a language that they are of."""
    counts = {
        name: {row["finding"]: f"{row['rows']} ({row['models']})" for row in records(done.counts())}
        for name, done in audits.items()
    }
    found = [finding for finding in FINDINGS if any(finding in told for told in counts.values())]
    cells = [[f"`{finding}`", *(told.get(finding, "") for told in counts.values())] for finding in found]
    all_rows = ["rows in all", *(str(len(done.rows)) for done in audits.values())]
    return _table(["finding", *audits], [*cells, all_rows])


def _of_table(name: str, done: Audit) -> list[str]:
    counts = done.counts()
    papers = sorted({source.split(", ")[0] for source in load_published(name)["source"]})
    parts = [f"\n## {name}\n", f"{', '.join(papers)}: {len(done.rows)} rows, {len(done.findings)} findings."]
    pairs = done.comparisons
    differ = pairs[pairs["verdict"] == DIFFER]
    known = differ[differ["loss_difference"].notna()]
    equal = int((known["loss_verdict"] == EQUAL).sum())
    losses = f"the losses are shown to be equal for {equal} of these" if len(known) else "no losses are to be compared"
    parts += [f"\nOf {len(pairs)} pairs of compared rows, the values of {len(differ)} differ; {losses}."]
    for finding in counts["finding"]:
        parts += _of_finding(name, finding, done.findings[done.findings["finding"] == finding])
    return parts


def _of_finding(table: str, finding: str, rows: pd.DataFrame) -> list[str]:
    told = _various(records(rows.drop_duplicates(["language", "model", "variant", "sentence"])))
    names = ["language", "model", "variant", "measure", "prompt_set"]
    lines = [
        f"- line {row['line']}, {' '.join(row[name] for name in names if row[name])}: {row['sentence']}" for row in told
    ]
    more = len(rows) - len(told)
    meaning = FINDINGS[finding]
    return [
        f"\n### {finding}\n",
        f"{meaning[0].upper()}{meaning[1:]}.\n",
        f"```sh\n{command(table, finding)}\n```\n",
        *lines,
        *([f"- and {more} more"] if more else []),
    ]


def _various(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MOST_SHOWN of the rows in their order, so that languages, models and variants have their turns."""
    left, chosen = list(rows), list[dict[str, Any]]()
    columns = ("language", "model", "variant", "measure")
    while left and len(chosen) < MOST_SHOWN:
        seen = [[row[column] for row in chosen] for column in columns]
        repeats = [sum(s.count(row[column]) for s, column in zip(seen, columns, strict=True)) for row in left]
        chosen.append(left.pop(repeats.index(min(repeats))))
    return sorted(chosen, key=lambda row: row["line"])


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
