"""What is exact beside a table of results: the floor of each loss under its own averaging, the levels of trivial policies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lmtest import limits
from lmtest.errors import LmtestError, UsageError
from lmtest.languages import Language, load_language, shipped_languages
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.prompts import PromptSet, empty_prompt, prompts_of_length, published_prompts
from lmtest.published import MAX_NEW_TOKENS, half_widths, policy_levels
from lmtest.result_table import NATS

ALL = "all"
"""The prompt set of all prompts of a kind, in and out of distribution."""

MOST_COMPLETED = 20_000_000
"""Prompts times new tokens: bounds memory and time."""
WITHOUT_RUNS = 1.96
"""Spreads to a 95 % interval, where no number of runs gives Student's quantile."""

_Sets = dict[str, PromptSet]


def load_languages(table: pd.DataFrame, path: Path) -> dict[str, Language]:
    """The languages of a table by their names there: shipped ones, or files relative to the table's folder.

    Each is loaded once. Raises UsageError, with the line, where there is no such language and where its file is faulty.
    """
    shipped, found = shipped_languages(), {}
    for line, name in zip(table["line"], table["language"], strict=True):
        if name not in found:
            beside = path.parent / name
            try:
                with limits.within(f"reading {name}"):
                    found[name] = load_language(name if name in shipped or not beside.is_file() else beside)
            except (LmtestError, OSError, ValueError) as error:
                raise UsageError(f"{path}, line {line}, language: {error}") from None
    return found


def with_floors(table: pd.DataFrame, languages: Mapping[str, Language]) -> pd.DataFrame:
    """The table, and what is exact about its losses.

    `tokens` of a string on average, EOS counted; `strings`: their number, where they can be listed; `averaged_over`: how many
    positions a string counts in the mean; `scale`: nats per string of one unit of the loss; `floor floor_half_width`: the
    least loss, in the row's own unit and averaging; `entropy entropy_half_width` and `excess excess_lower excess_upper`,
    the loss above it, in nats per string: a 95 % interval over runs, widened by what may be rounding of the digits and by
    the half width of an entropy that is sampled; `reason`: why there is no floor.
    """
    lossy = set(
        table.loc[table["loss"].notna(), "language"]
    )  # an entropy may take a while: only where a loss is to be judged
    known = {name: _floor(language if name in lossy else None) for name, language in languages.items()}
    facts = pd.DataFrame([known[name] for name in table["language"]], table.index)
    table = pd.concat([table, facts], axis=1)
    over = (
        table["positions"].fillna(table["tokens"]).replace(math.inf, math.nan)
    )  # no mean per token without a mean length
    scale = over * table["unit"].map(NATS)
    excess = table["loss"] * scale - table["entropy"]
    half = (_half_widths(table["loss_spread"], table["n"]) + table["loss_rounding"]) * scale + table[
        "entropy_half_width"
    ]
    return table.assign(
        averaged_over=over,
        scale=scale,
        floor=table["entropy"] / scale,
        floor_half_width=table["entropy_half_width"] / scale,
        excess=excess,
        excess_lower=excess - half,
        excess_upper=excess + half,
    )


def with_levels(table: pd.DataFrame, languages: Mapping[str, Language], path: Path) -> pd.DataFrame:
    """The table, and what is exact about its accuracies.

    `value_lower value_upper`: a 95 % interval over runs, widened by what may be rounding, within [0, 1]; `exact_chance` of
    the uniform law and `stop_at_once`, the score of that policy, on the row's prompts; `ceiling`: 1 where the language itself
    reaches it; `exact_prompts`: how many distinct ones there are. The prompts are those that the language file declares, or
    all of `prompt_length` symbols; NaN where there are none such, or the prompt set is none of id, ood, empty, all. Raises
    UsageError, with the line, where no prompt of that length is out of distribution or there are too many.
    """
    columns = ["exact_chance", "stop_at_once", "ceiling", "exact_prompts"]
    levels = pd.DataFrame(math.nan, table.index, columns)
    for _, rows in table.groupby(["language", "prompt_length", "max_new_tokens"], sort=False, dropna=False):
        first = rows.iloc[0]
        language = languages[first["language"]]
        most = MAX_NEW_TOKENS if math.isnan(first["max_new_tokens"]) else int(first["max_new_tokens"])
        where = f"{path}, line {first['line']}"
        with limits.within(f"{where}: listing prompts of {language.name}"):
            sets = _prompt_sets(language, first["prompt_length"], f"{where}, prompt_length")
        if (n := sum(len(prompts.rows) for prompts in sets.values())) * most > MOST_COMPLETED:
            raise UsageError(
                f"{where}: {n} prompts with up to {most} new tokens each are too many (expected a product of at most "
                f"{MOST_COMPLETED}); lower prompt_length or max_new_tokens"
            )
        with limits.within(f"{where}: what is exact about prompts of {language.name}"):
            _fill_levels(levels, rows, language, sets, most)
    half = _half_widths(table["spread"], table["n"]) + table["value_rounding"]
    lower, upper = (table["value"] - half).clip(lower=0), (table["value"] + half).clip(upper=1)
    return pd.concat([table, levels], axis=1).assign(value_lower=lower, value_upper=upper)


def _fill_levels(levels: pd.DataFrame, rows: pd.DataFrame, language: Language, sets: _Sets, most: int) -> None:
    """Writes what is exact into the rows of `levels` that are about these prompts of one language."""
    for prompt_set, same in rows.groupby("prompt_set", sort=False):
        prompts = sets.get(str(prompt_set))
        known = policy_levels(language, prompts, set(same["measure"]), most) if prompts else {}
        for at, measure in same["measure"].items():
            stop, chance = known.get(measure, (math.nan, math.nan))
            levels.loc[at, ["stop_at_once", "exact_chance"]] = stop, chance
            if measure == "accuracy" and isinstance(language, HmmMixture):
                levels.loc[at, "exact_chance"] = 1 / language.vocabulary.n_outputs
            if prompt_set == "id" and _reaches_one(language, measure, prompts, most):
                levels.loc[at, "ceiling"] = 1.0
        if prompts is not None:
            levels.loc[same.index, "exact_prompts"] = len(prompts.rows)
        elif prompt_set == ALL and sets:
            levels.loc[same.index, "exact_prompts"] = sum(len(s.rows) for k, s in sets.items() if k != "empty")


def _half_widths(spread: pd.Series[float], n: pd.Series[float]) -> pd.Series[float]:
    """As elsewhere; a spread whose number of runs is not known counts as a standard error."""
    return half_widths(spread, n).where(n.notna() | spread.isna(), WITHOUT_RUNS * spread)


def _floor(language: Language | None) -> dict[str, Any]:
    nothing = dict.fromkeys(["tokens", "strings", "entropy", "entropy_half_width"], math.nan) | {"reason": ""}
    if language is None:
        return nothing
    known = nothing
    try:
        with limits.within(f"what is exact about {language.name}"):
            tokens, support = language.mean_length() + 1, language.support()
            known = nothing | {"tokens": tokens, "strings": math.nan if support is None else len(support.rows)}
            entropy = language.entropy()
    except UsageError as error:
        return known | {"reason": str(error)}
    return known | {"entropy": entropy.value, "entropy_half_width": entropy.half_width}


def _prompt_sets(language: Language, length: float, where: str) -> _Sets:
    """By name; {} where nothing says which prompts they are."""
    try:
        if not math.isnan(length):
            sides = prompts_of_length(language, int(length))
        elif language.prompts:
            sides = published_prompts(language)
        else:
            return {}
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return {prompts.name: prompts for prompts in (*sides, empty_prompt(language)) if prompts.rows}


def _reaches_one(language: Language, measure: str, prompts: PromptSet | None, new_tokens: int) -> bool:
    """Whether the language itself scores 1 on prompts in distribution: all its strings do, and it always finishes in time."""
    base = measure.removesuffix("_finished")
    if prompts is None or not (base in language.rules or base == "grammatical"):
        return False
    return base != measure or language.longest - min(map(len, prompts.rows)) < new_tokens
