"""Published results as data: one row a cell, beside what is known exactly about the languages they were measured on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import stats

from lmtest.claims.published import CANDIDATE_COLUMNS, PEOPLE
from lmtest.claims.statistics import ALPHA
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.chance import uniform_chance
from lmtest.evaluators.rule_extrapolation import weighted_mean
from lmtest.languages import Language, load_language
from lmtest.languages.prompts import published_prompts
from lmtest.saturation import SaturationConfig
from lmtest.validation import Table

FOLDER = Path(__file__).resolve().parent / "published_data"
MAX_NEW_TOKENS = 300
"""The papers' limit on completions."""

TEXTS = ["language", "model", "variant", "measure", "prompt_set", "decoding", "source"]
NUMBERS = ["value", "spread", "n", "loss", "loss_spread", "positions"]
COLUMNS = [*TEXTS[:-1], *NUMBERS, "source", "note"]
"""The columns of a published table: `spread` is a standard deviation over `n` runs (ddof 1), `loss` in nats, a mean over
`positions` of the padded string; what is not known is left empty, but for value and texts."""


class PublishedTable(Table):
    """One of the `[[published_tables]]` of a study: the published cells that ours stand beside."""

    table: str
    """A shipped table, or a path relative to the study file."""
    languages: dict[str, str] = Field(min_length=1)
    """Ours → theirs: a shipped language, by its name in the table."""
    models: dict[str, str] = {}
    """Ours → theirs; those of the same name where none is given."""
    variant: str | None = None
    """Ours; needs no name where the study has only one."""
    their_variant: str | None = None
    """Needs no name where the table has only one."""


def published_tables() -> list[str]:
    """Names of the shipped tables, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def load_published(name_or_path: str | Path) -> pd.DataFrame:
    """A shipped table by name or any CSV file by path: COLUMNS, and `value_rounding loss_rounding`, half a unit of what is printed.

    Raises UsageError where there is no such table, and on unknown or missing columns and on values that are none.
    """
    text = str(name_or_path)
    path = FOLDER / f"{text}.csv" if text in published_tables() else Path(text)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        hint = nearest(text, published_tables())
        raise UsageError(f"no published table {text!r}: neither a shipped name ({hint}) nor a file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no CSV file in UTF-8: {error}") from None
    for column in table.columns:
        if column not in COLUMNS:
            raise UsageError(f"{path}: unknown column {column!r}; {nearest(column, COLUMNS)}")
    if missing := [column for column in COLUMNS if column not in table]:
        raise UsageError(f"{path}: the column {missing[0]!r} is missing; expected {', '.join(COLUMNS)}")
    for column in [*TEXTS, "value"]:
        _refuse(table, column, table[column].str.strip() == "", "something", path)
    rounding = {f"{column}_rounding": table[column].map(_half_unit) for column in ("value", "loss")}
    for column in NUMBERS:
        numbers = pd.to_numeric(table[column].replace("", "nan"), errors="coerce").astype("float64")
        _refuse(table, column, (table[column] != "") & ~np.isfinite(numbers), "a finite number or nothing", path)
        table[column] = numbers
    _refuse(table, "spread", table["spread"] < 0, "a number ≥ 0", path)
    _refuse(table, "n", (table["n"] < 1) | (table["n"] % 1 > 0), "a whole number ≥ 1", path)
    _refuse(table, "positions", table["loss"].notna() & ~(table["positions"] >= 1), "a number ≥ 1 beside a loss", path)
    return table.assign(**rounding)


def match_published(
    asked: PublishedTable, languages: Collection[str], models: Collection[str], variants: Collection[str], folder: Path
) -> pd.DataFrame:
    """The cells of a table that a study with these names can be compared with, in the order of the table.

    Columns: `language model variant` ours, `their_language label`, the rest as in `load_published`; rows of people keep
    "people" for a model. Raises UsageError on
    unknown names, and where a variant has to be named or no model is common to both.
    """
    beside = folder / asked.table
    table = load_published(beside if asked.table not in published_tables() and beside.is_file() else asked.table)
    where = f"published_tables, {asked.table}"
    theirs = {column: set(table[column]) for column in ("language", "model", "variant")}
    pairs = asked.models or {name: name for name in models if name in theirs["model"]}
    if not pairs:
        raise UsageError(
            f"{where}: no model of the study has the name of one of the table ({', '.join(sorted(theirs['model']))}); "
            "add models = { OURS = THEIRS }"
        )
    ours = _the_one(asked.variant, variants, f"{where}: expected variant, one of ")
    their_variant = _the_one(asked.their_variant, theirs["variant"], f"{where}: expected their_variant, one of ")
    for what, names, known in (
        ("language", asked.languages, languages),
        ("model", pairs, models),
        ("variant", [ours], variants),
        ("language of the table", asked.languages.values(), theirs["language"]),
        ("model of the table", pairs.values(), theirs["model"]),
        ("variant of the table", [their_variant], theirs["variant"]),
    ):
        for name in names:
            if name not in known:
                raise UsageError(f"{where}: unknown {what} {name!r}; {nearest(name, known)}")
    table = table[table["variant"] == their_variant]
    several = f", {their_variant}" if len(theirs["variant"]) > 1 else ""
    cells = []
    for language, their_language in asked.languages.items():
        for model, their_model in pairs.items():
            rows = table[(table["language"] == their_language) & (table["model"] == their_model)]
            label = f"{their_model} on {their_language}{several}"
            named = {"language": language, "model": model, "variant": ours, "their_language": their_language}
            cells.append(rows.assign(**named, label=label))
        # People are nobody's model: they stand beside all of them.
        people = table[(table["language"] == their_language) & (table["model"] == PEOPLE)]
        named = {"language": language, "variant": ours, "their_language": their_language}
        cells.append(people.assign(**named, label=f"{PEOPLE} on {their_language}"))
    return pd.concat(cells).sort_index(kind="stable").reset_index(drop=True)


def published_rows(cells: Sequence[pd.DataFrame], saturation: SaturationConfig) -> pd.DataFrame:
    """Cells of `match_published`, with what is exact about them (claims.published.CANDIDATE_COLUMNS).

    `their_excess` is the published loss of a string above the entropy of their own language, in nats;
    `their_excess_lower` the lower end of its 95 % interval over runs, less what may be rounding; `epsilon` the study's
    bound on it; `trivial` the best of stop-at-once and the uniform law, exact, on the published prompts out of
    distribution, where the measure is the share of completions that keep a rule (NaN elsewhere).
    """
    if not cells:
        return pd.DataFrame(columns=list(CANDIDATE_COLUMNS)).astype(CANDIDATE_COLUMNS)
    table = pd.concat(cells, ignore_index=True).rename(columns={"n": "seeds"})
    parts = []
    for name, rows in table.groupby("their_language", sort=False):
        language = load_language(str(name))
        tokens = language.mean_length() + 1 if saturation.per == "token" else 1.0
        half = _half_widths(rows["loss_spread"], rows["seeds"]) + rows["loss_rounding"]
        # The entropy of a language without a closed form takes a while: only where there is a loss to compare.
        floor = language.entropy().value if rows["loss"].notna().any() else math.nan
        excess = rows["loss"] * rows["positions"] - floor
        outside = rows.loc[rows["prompt_set"] == "ood", "measure"]
        known = trivial_levels(language, outside.unique().tolist()) if len(outside) else {}
        parts.append(
            rows.assign(
                their_excess=excess,
                their_excess_lower=excess - half * rows["positions"],
                epsilon=saturation.epsilon * tokens,
                trivial=rows["measure"].map(known).where(rows["prompt_set"] == "ood"),
            )
        )
    return pd.concat(parts).sort_index()[list(CANDIDATE_COLUMNS)].astype(CANDIDATE_COLUMNS)


def trivial_levels(language: Language, measures: Collection[str]) -> dict[str, float]:
    """For each measure of a rule the best of stop-at-once and the uniform law, exact, on the language's own OOD prompts.

    Measures are named as by the evaluator: RULE or RULE_completion, with _finished where only finished completions count;
    the others are left out. {} where the language has no published prompts.
    """
    rules = {measure: _rule_of(measure) for measure in measures if _rule_of(measure) in language.rules}
    if not rules or not language.prompts:
        return {}
    _, outside = published_prompts(language)
    chance = uniform_chance(language, outside.rows, MAX_NEW_TOKENS, set(rules.values()))
    level = {name: weighted_mean(values, outside.weights) for name, values in chance.items()}
    levels = {}
    for measure, name in rules.items():
        base, rule = measure.removesuffix("_finished"), language.rules[name]
        prompts = [()] * len(outside.rows) if base != name else outside.rows
        stop = weighted_mean(np.array([float(rule.accepts(rule.run(row))) for row in prompts]), outside.weights)
        uniform = level[base] / (level["finish_rate"] if base != measure else 1.0)
        levels[measure] = max(stop, uniform) if math.isfinite(uniform) else stop
    return levels


def _rule_of(measure: str) -> str:
    return measure.removesuffix("_finished").removesuffix("_completion")


def _half_widths(spread: pd.Series[float], n: pd.Series[float]) -> pd.Series[float]:
    """Half of Student's 95 % interval of a mean; 0 where nothing is known about it."""
    quantile = pd.Series(stats.t.ppf(1 - ALPHA / 2, (n - 1).clip(lower=1)), n.index)
    return (quantile * spread / n**0.5).where((n > 1) & spread.notna(), 0.0)


def _half_unit(text: str) -> float:
    """Half a unit of the last decimal as printed."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def _the_one(name: str | None, known: Collection[str], message: str) -> str:
    if name is None and len(known) > 1:
        raise UsageError(message + ", ".join(sorted(known)))
    return name or next(iter(known))


def _refuse(table: pd.DataFrame, column: str, wrong: pd.Series, expected: str, path: Path) -> None:
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        found = table[column].iloc[place]
        raise UsageError(f"{path}, line {place + 2}, {column}: expected {expected}, found {found!r}")
