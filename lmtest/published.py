"""Published results as data: one row a cell, beside what is known exactly about the languages they were measured on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.special import stdtrit

from lmtest.claims.published import CANDIDATE_COLUMNS, PEOPLE
from lmtest.claims.statistics import ALPHA
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.chance import uniform_chance
from lmtest.evaluators.rule_extrapolation import weighted_mean
from lmtest.languages import Language, load_language
from lmtest.languages.prompts import PromptSet, published_prompts
from lmtest.result_table import COLUMNS, NATS, TEXTS, read_table, refuse
from lmtest.saturation import SaturationConfig
from lmtest.validation import Table

FOLDER = Path(__file__).resolve().parent / "published_data"
MAX_NEW_TOKENS = 300
"""The papers' limit on completions."""


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


def shipped_or_path(name_or_path: str | Path) -> Path:
    """Where a table lies: that of a shipped name, or the path itself."""
    text = str(name_or_path)
    return FOLDER / f"{text}.csv" if text in published_tables() else Path(text)


def no_such_table(name_or_path: str | Path) -> UsageError:
    """The error where there is neither."""
    text = str(name_or_path)
    return UsageError(
        f"no published table {text!r}: neither a shipped name ({nearest(text, published_tables())}) nor a file"
    )


def load_published(name_or_path: str | Path) -> pd.DataFrame:
    """The cells of a shipped table by name or of any CSV file by path: COLUMNS (losses in nats), and
    `value_rounding loss_rounding`, half a unit of what is printed.

    Rows without a value are statements of a paper, not cells: left out. Raises UsageError where there is no such table, and
    on unknown or missing columns and on values that are none.
    """
    path = shipped_or_path(name_or_path)
    try:
        table = read_table(path, COLUMNS)
    except FileNotFoundError:
        raise no_such_table(name_or_path) from None
    stated = table["value"].isna() & table[["chance", "prompts"]].notna().any(axis=1)
    table = table[~stated].reset_index(drop=True)
    lines = table["line"].tolist()
    for column in [*TEXTS, "value"]:
        nothing = table[column].isna() if column == "value" else table[column] == ""
        refuse(table, lines, column, nothing, "something", path)
    refuse(
        table, lines, "positions", table["loss"].notna() & table["positions"].isna(), "a number ≥ 1 beside a loss", path
    )
    nats = table["unit"].map(NATS)
    for column in ("loss", "loss_spread", "loss_rounding"):
        table[column] *= nats
    return table[[*COLUMNS, "value_rounding", "loss_rounding"]]


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
        half = half_widths(rows["loss_spread"], rows["seeds"]) + rows["loss_rounding"]
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
    rules = [measure for measure in measures if _rule_of(measure) in language.rules]
    if not rules or not language.prompts:
        return {}
    _, outside = published_prompts(language)
    levels = policy_levels(language, outside, rules, MAX_NEW_TOKENS)
    return {
        measure: max(stop, uniform) if math.isfinite(uniform) else stop for measure, (stop, uniform) in levels.items()
    }


def policy_levels(
    language: Language, prompts: PromptSet, measures: Collection[str], max_new_tokens: int
) -> dict[str, tuple[float, float]]:
    """For each measure of a rule, and for "grammatical", what stop-at-once and the uniform law score on prompts, exactly.

    Measures are named as in `trivial_levels`. The uniform law's is NaN where it cannot be had (see `uniform_chance`).
    """
    rules = {measure: _rule_of(measure) for measure in measures}
    chance = uniform_chance(language, prompts.rows, max_new_tokens, set(rules.values()))
    uniform = {name: weighted_mean(values, prompts.weights) for name, values in chance.items()}
    levels = {}
    for measure, name in rules.items():
        base = measure.removesuffix("_finished")
        if name in language.rules:
            rule = language.rules[name]
            rows = prompts.rows if base == name else [()] * len(prompts.rows)
            kept = np.array([float(rule.accepts(rule.run(row))) for row in rows])
        elif base == "grammatical":
            kept = np.isfinite(language.log_prob_ids(prompts.rows).numpy()).astype("float64")
        else:
            continue
        finishing = uniform["finish_rate"] if base != measure else 1.0
        levels[measure] = weighted_mean(kept, prompts.weights), uniform[base] / finishing
    return levels


def _rule_of(measure: str) -> str:
    return measure.removesuffix("_finished").removesuffix("_completion")


def half_widths(spread: pd.Series[float], n: pd.Series[float]) -> pd.Series[float]:
    """Half of Student's 95 % interval of a mean; 0 where nothing is known about it."""
    quantile = pd.Series(stdtrit((n - 1).clip(lower=1), 1 - ALPHA / 2), n.index)
    return (quantile * spread / n**0.5).where((n > 1) & spread.notna(), 0.0)


def _the_one(name: str | None, known: Collection[str], message: str) -> str:
    if name is None and len(known) > 1:
        raise UsageError(message + ", ".join(sorted(known)))
    return name or next(iter(known))
