"""What is the matter with one row of a table: findings by fixed names, each with a sentence that holds the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmtest.audit.pairs import MEASURED_ONLY
from lmtest.claims.published import PEOPLE
from lmtest.result_table import NATS

FINDINGS = {
    "loss-below-floor": "the loss is lower than any model's can be: it is below the exact floor under the averaging stated",
    "not-saturated": "the loss is above the floor by more than ε: a better model of the language exists, and may behave otherwise",
    "saturation-open": "whether the loss is within ε of the floor is left open by its spread or its digits",
    "too-few-digits": "the last digit of the loss is worth more than ε: no model's loss, printed so, can show that it is saturated",
    "pad-in-loss": "the mean of the loss counts positions behind the end of the string, which cost nothing: it reads too small",
    "floor-unknown": "there is a loss, but no exact floor to set it beside",
    "negative-kl": "a KL divergence is stated that is negative: no KL is",
    "kl-misstated": "the KL stated is not the loss less the exact floor",
    "losses-differ": "the loss differs from that of rows that it is compared with: their values are not compared at one loss",
    "losses-not-shown-equal": "the losses of compared rows neither differ beyond their spread nor are shown to be within ε",
    "below-chance": "the accuracy is below that of the uniform law on the same prompts",
    "at-chance": "the accuracy is not shown to differ from that of the uniform law on the same prompts",
    "below-trivial": "the accuracy is below that of stopping at once",
    "at-trivial": "the accuracy is not shown to differ from that of stopping at once",
    "uninformative-measure": "stopping at once scores 1 by this measure: no value can be above a trivial policy's",
    "broken-in-distribution": "on prompts that the language can complete, where the language itself scores 1, the model does not",
    "chance-misstated": "the chance level stated is not that of the uniform law on the same prompts",
    "prompts-miscounted": "the number of prompts stated is not the number of distinct ones",
    "impossible-spread": "shares with this mean cannot spread so far",
    "all-or-nothing": "mean and spread are those of runs that score either 0 or 1: the mean describes none of them",
    "finished-only": "the accuracy is a share of the completions that finish, and far from all do",
    "finish-rate-unknown": "the accuracy is a share of the completions that finish, and how many do is not reported",
    "too-few-seeds": "the runs cannot carry the difference from compared rows",
    "runs-not-stated": "there is no spread or no number of runs: differences from compared rows cannot be judged",
    "trained-on-test": "the model was trained on prompts that it is evaluated on",
    "chosen-on-test": "the checkpoint was chosen by the very value that is reported",
    "sizes-differ": "compared rows of one model differ in their number of parameters",
}
"""Every finding by name: what it says."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One of FINDINGS about one row."""

    name: str
    sentence: str


def of_row(row: Row, epsilon: float) -> list[Finding]:
    """The findings that a row with its floors and levels has by itself; ε in nats per string."""
    found = [*_of_loss(row, epsilon), *_of_kl(row), *_of_value(row), *_of_statements(row), *_of_design(row)]
    return [Finding(name, sentence) for name, sentence in found]


_Found = list[tuple[str, str]]


def _of_loss(row: Row, epsilon: float) -> _Found:
    if math.isnan(row["loss"]):
        return []
    if math.isnan(row["excess"]):
        return [("floor-unknown", row["reason"] or "the strings have no mean length, so a loss per token has no floor")]
    found = []
    loss, floor, over = f"{row['loss']:g}{_unit(row)}", f"{row['floor']:.5g}{_unit(row)}", row["averaged_over"]
    excess = f"{row['excess']:+.4g} [{row['excess_lower']:.4g}, {row['excess_upper']:.4g}] nats per string"
    averaging = "per string" if over == 1 else f"over {over:.5g} positions a string"
    if row["excess_upper"] < 0:
        found.append(
            (
                "loss-below-floor",
                f"a loss of {loss} {averaging}, where the floor is {floor}: {excess}; check unit and positions",
            )
        )
    elif row["excess_lower"] > epsilon:
        found.append(
            ("not-saturated", f"a loss of {loss} {averaging}, where the floor is {floor}: {excess}, ε = {epsilon:g}")
        )
    elif row["excess_upper"] > epsilon:
        found.append(
            ("saturation-open", f"a loss of {loss} {averaging}, where the floor is {floor}: {excess}, ε = {epsilon:g}")
        )
    if (digit := row["loss_rounding"] * row["scale"]) > epsilon:
        found.append(
            ("too-few-digits", f"half a unit of the last digit is {digit:.3g} nats per string, ε = {epsilon:g}")
        )
    if over > row["tokens"] * (1 + 1e-9):
        found.append(
            (
                "pad-in-loss",
                f"a mean over {over:g} positions, where a string has {row['tokens']:.5g} tokens on average: "
                f"{1 - row['tokens'] / over:.1%} of what is averaged is padding",
            )
        )
    return found


def _of_kl(row: Row) -> _Found:
    kl, unit = row["kl"], _unit(row)
    if math.isnan(kl):
        return []
    exact, rounding = row["loss"] - row["floor"], row["kl_rounding"] + row["loss_rounding"]
    is_known = math.isfinite(exact)
    told = f"; the loss less the floor is {exact:+.4g}{unit}" + _what_was_subtracted(row, rounding) if is_known else ""
    if kl + row["kl_rounding"] < 0:
        return [("negative-kl", f"stated {kl:g}{unit}{told}")]
    if is_known and abs(kl - exact) > rounding + row["floor_half_width"]:
        return [("kl-misstated", f"stated {kl:g}{unit}{told}")]
    return []


def _what_was_subtracted(row: Row, rounding: float) -> str:
    """The entropy that a KL takes for granted, and where a known slip gives it, which."""
    subtracted, strings = row["loss"] - row["kl"], row["strings"]
    slip = math.log(strings) / strings / NATS[row["unit"]] if strings > 1 else math.nan
    why = (
        f", which is ln({strings:g})/{strings:g} of its {strings:g} strings"
        if abs(subtracted - slip) <= rounding
        else ""
    )
    return f": what was taken for the floor is {subtracted:.4g}{why}, where it is {row['floor']:.5g}"


def _of_value(row: Row) -> _Found:
    value, lower, upper = row["value"], row["value_lower"], row["value_upper"]
    if math.isnan(value) or row["measure"] in MEASURED_ONLY:
        return []
    found = []
    shown = f"{value:g} [{lower:.4g}, {upper:.4g}]" if upper - lower > 2.1 * row["value_rounding"] else f"{value:g}"
    if is_uninformative := row["stop_at_once"] > 1 - 1e-12:
        found.append(("uninformative-measure", f"{value:g}, where stopping at once scores 1"))
    if not row["exact_chance"] > 1 - 1e-12:
        found += _against("chance", row["exact_chance"], "the uniform law", shown, lower, upper)
    if not is_uninformative:
        found += _against("trivial", row["stop_at_once"], "stopping at once", shown, lower, upper)
    if row["model"] != PEOPLE:
        found += _of_spread(value, row["value_rounding"], row["n"], row["spread"], row["spread_rounding"])
    return found


def _against(name: str, level: float, policy: str, shown: str, lower: float, upper: float) -> _Found:
    if upper < level:
        return [(f"below-{name}", f"{shown}, where {policy} scores {level:.4g}")]
    return [(f"at-{name}", f"{shown}, where {policy} scores {level:.4g}")] if lower <= level + 1e-12 else []


def _of_spread(value: float, rounding: float, n: float, spread: float, spread_rounding: float) -> _Found:
    if (most := largest_spread(value, rounding, n)) < spread - spread_rounding - 1e-9:
        text = f"{n:g} shares with a mean of {value:g} spread by at most {most:.4g}, not {spread:g}"
        return [("impossible-spread", text)]
    if not n > 1 or math.isnan(spread):
        return []
    ones = round(value * n)
    exactly = largest_spread(ones / n, 0.0, n)
    fits = abs(ones / n - value) <= rounding + 1e-9 and abs(exactly - spread) <= spread_rounding + 1e-9
    # Runs that all score 0, or all 1, have a mean that describes them.
    if not fits or not 0 < ones < n:
        return []
    text = f"{value:g} ± {spread:g} of {n:g} runs is what {ones} runs at 1 and {n - ones:g} at 0 give"
    return [("all-or-nothing", text)]


def _of_statements(row: Row) -> _Found:
    found = []
    if abs(row["chance"] - row["exact_chance"]) > row["chance_rounding"] + 1e-9:
        found.append(
            ("chance-misstated", f"stated {row['chance']:g}, where the uniform law scores {row['exact_chance']:.4g}")
        )
    if abs(row["prompts"] - row["exact_prompts"]) > 0:
        stated, exact = int(row["prompts"]), int(row["exact_prompts"])
        why = _exchanged_power(stated, exact)
        found.append(("prompts-miscounted", f"stated {stated}, where {exact} are distinct{why}"))
    return found


def _exchanged_power(stated: int, exact: int) -> str:
    """Whether symbols to the power of the length were taken the other way round."""
    for symbols in range(2, 17):
        for length in range(2, 17):
            if symbols != length and (length**symbols, symbols**length) == (stated, exact):
                return f": {length}^{symbols} in place of {symbols}^{length}"
    return ""


def _of_design(row: Row) -> _Found:
    found = []
    if row["prompts_trained"] > 0:
        of = f" of the {row['exact_prompts']:g}" if math.isfinite(row["exact_prompts"]) else ""
        found.append(("trained-on-test", f"{row['prompts_trained']:g}{of} prompts were trained on"))
    if row["chosen_by"] == "value" and row["measure"] not in MEASURED_ONLY:
        found.append(
            (
                "chosen-on-test",
                f"{row['value']:g} is the largest over training, not the value at a checkpoint chosen by the loss",
            )
        )
    return found


def largest_spread(value: float, rounding: float, n: float) -> float:
    """The largest standard deviation (ddof 1) of n shares in [0, 1] with this mean, rounding granted; NaN for n < 2."""
    if not n > 1:
        return math.nan
    mean = min(value + rounding, 0.5) if value < 0.5 else max(value - rounding, 0.5)
    return math.sqrt(mean * (1 - mean) * n / (n - 1))


def _unit(row: Row) -> str:
    return f" {row['unit'] or 'nats'}"
