"""The tables of a run directory: which columns they have, what a column holds, and the one way to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from pandas.api import types

from lmtest import limits
from lmtest.errors import UsageError

MOST_ROWS = 20_000_000
"""Of a table: repeated values cost nothing in a file, and much in memory."""
TEXT, NUMBER, COUNT, TRUTH = "str", "float64", "int64", "bool"
"""What a column holds, as pandas names it."""
Columns = dict[str, str]


def _columns(names: str, holds: str) -> Columns:
    return dict.fromkeys(names.split(), holds)


IDENTITY = _columns("study language model variant", TEXT) | _columns("seed", COUNT)
CERTIFICATES = IDENTITY | _columns("kl kl_lower kl_upper kl_per_token", NUMBER) | _columns("exact saturated", TRUTH)
MEASUREMENTS = (
    IDENTITY
    | _columns("evaluator measure prompt_set decoding", TEXT)
    | _columns("value lower upper", NUMBER)
    | _columns("count", COUNT)
    | _columns("chance", NUMBER)
    | _columns("saturated", TRUTH)
)
TRAJECTORY = MEASUREMENTS | _columns("step", COUNT) | _columns("kl", NUMBER)
COMPLETIONS = (
    IDENTITY
    | _columns("evaluator prompt_set prompt decoding", TEXT)
    | _columns("replicate", COUNT)
    | _columns("completion", TEXT)
    | _columns("finished", TRUTH)
)
"""And a column a rule, and what else an evaluator says of a completion."""
VERDICTS = (
    _columns("claim statement verdict", TEXT)
    | _columns("effect lower upper p_value", NUMBER)
    | _columns("seeds_used seeds_asked", COUNT)
    | _columns("published", NUMBER)
    | _columns("source", TEXT)
    | _columns("p_raw", NUMBER)
    | _columns("test note", TEXT)
)
PUBLISHED = (
    _columns("language model variant measure prompt_set decoding label", TEXT)
    | _columns("value spread seeds their_excess trivial ours ours_sd", NUMBER)
    | _columns("ours_seeds ours_saturated", COUNT)
    | _columns("difference lower upper", NUMBER)
    | _columns("verdict comment source note", TEXT)
)


def read(path: Path, columns: Columns, remedy: str) -> pd.DataFrame:
    """A parquet file with at least these columns; UsageError, which ends in `remedy`, where it is damaged or another table."""
    try:
        rows = pq.read_metadata(path).num_rows
        limits.check(f"rows in {path}", rows, MOST_ROWS, remedy)
        table = pd.read_parquet(path)
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:  # pyarrow's errors are among these
        raise UsageError(f"{path} is damaged ({error}): {remedy}") from None
    if table.empty and set(table.columns) <= set(columns):
        return pd.DataFrame(columns=list(columns))  # nothing was measured
    if absent := [column for column in columns if column not in table]:
        more = f" and {len(absent) - 1} more" * (len(absent) > 1)
        raise UsageError(
            f"{path} lacks the column {absent[0]!r}{more}: it is of another version, or no such table; {remedy}"
        )
    for column, holds in columns.items():
        if not _holds(table[column], holds):
            words = {TEXT: "text", TRUTH: "True or False", COUNT: "whole numbers"}.get(holds, "numbers")
            raise UsageError(f"{path} is damaged: expected {words} in the column {column!r}; {remedy}")
    # Whatever wrote them: empty cells of numbers are NaN, and nothing else is empty but texts.
    return table.astype({column: holds for column, holds in columns.items() if holds != TEXT})


def _holds(values: pd.Series[Any], holds: str) -> bool:
    if holds == TEXT:
        return isinstance(values.dtype, pd.StringDtype) or all(isinstance(value, str) for value in values.dropna())
    if holds == NUMBER:
        return bool(values.isna().all()) or _is_number(values)
    if values.empty:
        return True
    if values.isna().any():
        return False
    return types.is_bool_dtype(values) if holds == TRUTH else _is_number(values) and bool((values % 1 == 0).all())


def _is_number(values: pd.Series[Any]) -> bool:
    return types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
