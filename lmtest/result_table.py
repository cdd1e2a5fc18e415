"""Tables of results as files: one CSV format for published cells and for own ones, refused where it is faulty."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from lmtest.errors import UsageError, nearest

TEXTS = ["language", "model", "variant", "measure", "prompt_set", "decoding", "source"]
NUMBERS = ["value", "spread", "n", "loss", "loss_spread", "positions"]
COLUMNS = [*TEXTS[:-1], *NUMBERS, "source", "note"]
"""What a cell is: `spread` is a standard deviation over `n` runs (ddof 1), `loss` a mean over `positions` of a string."""

STATED = ["chance", "kl", "prompts", "prompts_trained", "parameters"]
"""What a paper says beside its cells: chance level, KL under the averaging of the loss, numbers of prompts and of parameters."""
SETTINGS = ["group", "unit", "prompt_length", "max_new_tokens", "chosen_by"]
"""How a row is to be read: which rows it is compared with, nats or bits, its prompts, and what its checkpoint was chosen by."""
EVERY = [*COLUMNS, *STATED, *SETTINGS]
"""All columns of the format."""

NATS = {"": 1.0, "nats": 1.0, "bits": math.log(2)}
"""What one of a `unit` is in nats."""

MOST_BYTES = 20_000_000
MOST_ROWS = 5_000
LARGEST = 1e15
"""Numbers beyond this are mistakes, and their squares no numbers."""

ROUNDED = ["value", "spread", "loss", "kl", "chance"]

_COUNTS = ["n", "prompts", "prompts_trained", "parameters", "prompt_length", "max_new_tokens"]
_WORDS = {"unit": ("nats", "bits"), "chosen_by": ("loss", "value")}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_PER_STRING = "string"
"""Of `positions`: the loss is of a whole string, so that it is a mean over one position."""


def read_table(path: Path, needed: Collection[str]) -> pd.DataFrame:
    """A CSV file in UTF-8 → EVERY, `line` (of the file), and each of ROUNDED with `_rounding`; see the two below."""
    return parse(read_texts(path, needed), path)


def read_texts(path: Path, needed: Collection[str]) -> pd.DataFrame:
    """A CSV file in UTF-8 → its cells as they are written, less white space around them, and the `line` that a row begins on.

    Raises FileNotFoundError where there is none, UsageError on what is no such file, on unknown, double or missing columns,
    and on lines of another width.
    """
    header, rows = _records(path)
    for column in header:
        if column not in EVERY:
            raise UsageError(f"{path}: unknown column {column!r}; {nearest(column, EVERY)}")
        if header.count(column) > 1:
            raise UsageError(
                f"{path}: the column {column!r} stands there {header.count(column)} times; expected it once"
            )
    if missing := [column for column in needed if column not in header]:
        raise UsageError(f"{path}: the column {missing[0]!r} is missing; expected {', '.join(needed)}")
    texts = pd.DataFrame([cells for _, cells in rows], columns=header, dtype="str")
    return texts.assign(line=[line for line, _ in rows])


def parse(texts: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Cells as they are written → EVERY, `line`, and each of ROUNDED with `_rounding`.

    Columns that the file lacks are empty: "" in texts, NaN in numbers. `*_rounding` is half a unit of the last digit as
    written. Raises UsageError, with line and column, on numbers and words that are none.
    """
    lines = texts["line"].tolist()
    texts = texts.reindex(columns=EVERY, fill_value="")
    table = texts.copy()
    for column in [*NUMBERS, *STATED, "prompt_length", "max_new_tokens"]:
        words = (_PER_STRING,) if column == "positions" else ()
        numbers = [_number(text, words) for text in texts[column]]
        refuse(
            texts,
            lines,
            column,
            [number is None for number in numbers],
            " or ".join(["a finite number or nothing", *map(repr, words)]),
            path,
        )
        table[column] = pd.Series(numbers, table.index, dtype="float64")
    for column in ("spread", "loss_spread", "prompts_trained", "parameters"):
        refuse(texts, lines, column, table[column] < 0, "a number ≥ 0", path)
    for column in _COUNTS:
        least = 0 if column in ("prompts_trained", "parameters") else 1
        wrong = (table[column] < least) | (table[column] % 1 > 0)
        refuse(texts, lines, column, wrong, f"a whole number ≥ {least}", path)
    refuse(texts, lines, "positions", table["positions"] < 1, "a number ≥ 1", path)
    for column, known in _WORDS.items():
        refuse(texts, lines, column, ~texts[column].isin(["", *known]), " or ".join(known), path)
    rounding = {f"{column}_rounding": texts[column].map(_half_unit) for column in ROUNDED}
    return table.assign(line=lines, **rounding)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table by column."""
    return [{str(column): cell for column, cell in row.items()} for row in table.to_dict("records")]


def refuse(
    table: pd.DataFrame, lines: Sequence[int], column: str, wrong: Iterable[bool], expected: str, path: Path
) -> None:
    """Raises UsageError at the first row that is `wrong`: where it stands, what was expected, what was found."""
    for line, found, is_wrong in zip(lines, table[column], wrong, strict=True):
        if is_wrong:
            shown = "" if isinstance(found, float) and math.isnan(found) else found
            raise UsageError(f"{path}, line {line}, {column}: expected {expected}, found {shown!r}")


def _records(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows, each with the line that it starts on; empty lines are none."""
    try:
        if not path.is_file():
            raise FileNotFoundError
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(f"{path}: expected at most {MOST_BYTES} bytes, found {size}; split the table")
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        records, line = [], 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except (FileNotFoundError, UsageError):
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV file in UTF-8: {error}") from None
    if not records:
        raise UsageError(f"{path} is empty; expected a line of column names, such as {', '.join(COLUMNS)}")
    (_, header), *rows = records
    if not rows:
        raise UsageError(f"{path} has no rows below its column names; add one")
    if len(rows) > MOST_ROWS:
        raise UsageError(f"{path}: expected at most {MOST_ROWS} rows, found {len(rows)}; split the table")
    for line, cells in rows:
        if len(cells) != len(header):
            raise UsageError(
                f"{path}, line {line}: expected {len(header)} cells, one a column, found {len(cells)}; "
                "put a cell that holds a comma in double quotes"
            )
    return header, rows


def _number(text: str, words: Sequence[str]) -> float | None:
    """NaN for nothing, None for what is no finite number; a loss of a whole string is a mean over one position."""
    if text in words:
        return 1.0
    if not text:
        return math.nan
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if abs(number) <= LARGEST else None


def _half_unit(text: str) -> float:
    """Half a unit of the last digit as written; 0 for nothing."""
    exponent = Decimal(text).as_tuple().exponent if text else 0
    return 0.5 * 10.0**exponent if text and isinstance(exponent, int) else 0.0
