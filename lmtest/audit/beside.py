"""What is the matter with a row because of the rows beside it: other losses, too few runs, unreported finish rates, other sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from lmtest.audit.findings import Finding
from lmtest.audit.pairs import DIFFER, MEASURED_ONLY, OPEN, UNKNOWN
from lmtest.claims.published import PEOPLE, TOLERANCE
from lmtest.claims.statistics import ALPHA
from lmtest.result_table import records

RESULT = ["language", "model", "variant", "group", "source", "prompt_set", "decoding"]
"""Rows that agree in these are of the same completions."""
MOST_NAMED = 4
"""Of the rows that a sentence lists."""

Pair = Mapping[str, Any]
_Found = dict[int, list[Finding]]


def of_pairs(table: pd.DataFrame, pairs: pd.DataFrame) -> _Found:
    """Line → findings that a row has by being compared, as `pairs.compare_rows` finds it."""
    rows = {row["line"]: row for row in records(table)}
    mine: dict[int, list[Pair]] = {line: [] for line in rows}
    for pair in records(pairs):
        mine[pair["left"]].append(pair | {"other": rows[pair["right"]], "sign": -1})
        mine[pair["right"]].append(pair | {"other": rows[pair["left"]], "sign": 1})
    return {line: list(_of_one(rows[line], ours)) for line, ours in mine.items()}


def of_finishing(table: pd.DataFrame) -> _Found:
    """Line → findings about values that count finished completions alone."""
    rates = table[table["measure"].isin(MEASURED_ONLY) & table["value"].notna()]
    known = dict(zip(rates[RESULT].itertuples(index=False, name=None), rates["value"], strict=True))
    found: _Found = {}
    for key, row in zip(table[RESULT].itertuples(index=False, name=None), records(table), strict=True):
        if not row["measure"].endswith("_finished") or math.isnan(row["value"]) or row["model"] == PEOPLE:
            continue
        rate = known.get(key)
        if rate is None:
            sentence = f"{row['value']:g} of those that finish on the prompt set {row['prompt_set']!r}; no row says how many do"
            found[row["line"]] = [Finding("finish-rate-unknown", sentence)]
        elif rate < 1 - TOLERANCE:
            sentence = f"{row['value']:g} of those that finish, which are {rate:g} of all"
            found[row["line"]] = [Finding("finished-only", sentence)]
    return found


def _of_one(row: Mapping[str, Any], pairs: list[Pair]) -> Iterable[Finding]:
    """`pairs` with the other row and the sign that makes a difference row minus other."""
    if row["value_upper"] < row["ceiling"] - TOLERANCE:
        whole = [pair for pair in pairs if pair["other"]["value"] >= row["ceiling"] - TOLERANCE]
        others = f", and {_listed(whole, _score)}" if whole else ""
        interval = f"{row['value']:g} [{row['value_lower']:.4g}, {row['value_upper']:.4g}]"
        yield Finding(
            "broken-in-distribution", f"{interval} in distribution, where the language itself scores 1{others}"
        )
    for verdict, name in ((DIFFER, "losses-differ"), (OPEN, "losses-not-shown-equal")):
        if chosen := [pair for pair in pairs if pair["loss_verdict"] == verdict]:
            yield Finding(name, "nats per string: " + _listed(chosen, _loss))
    if chosen := [pair for pair in pairs if _is_too_few(pair)]:
        yield Finding("too-few-seeds", f"{_runs(row)}: " + _listed(chosen, _value))
    unknown = [pair for pair in pairs if _is_unknown(pair, "") or _is_unknown(pair, "loss_")]
    if unknown and (lacks := _lacks(row)):
        yield Finding("runs-not-stated", f"no {lacks}: cannot be compared with " + _listed(unknown, _name))
    if sizes := [pair for pair in pairs if _is_other_size(row, pair["other"])]:
        yield Finding("sizes-differ", f"{row['parameters']:.0f} parameters: " + _listed(sizes, _size))


def _is_too_few(pair: Pair) -> bool:
    """Whether a difference that would matter stays within the noise of its runs, or no permutation test could ever tell."""
    return bool(abs(pair["difference"]) > TOLERANCE) and bool(pair["verdict"] == OPEN or pair["smallest_p"] > ALPHA)


def _is_unknown(pair: Pair, of: str) -> bool:
    return bool(pair[f"{of}verdict"] == UNKNOWN) and math.isfinite(pair[f"{of}difference"])


def _is_other_size(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    same = row["model"] == other["model"]
    return bool(same and abs(row["parameters"] - other["parameters"]) > 0)


def _lacks(row: Mapping[str, Any]) -> str:
    value = math.isfinite(row["value"]) and not math.isfinite(row["spread"]) and row["value"] not in (0.0, 1.0)
    loss = math.isfinite(row["loss"]) and not math.isfinite(row["loss_spread"])
    runs = not math.isfinite(row["n"])
    return " and no ".join(["spread"] * value + ["spread of the loss"] * loss + ["number of runs"] * runs)


def _runs(row: Mapping[str, Any]) -> str:
    spread = f" ± {row['spread']:g}" if math.isfinite(row["spread"]) else ""
    return f"{row['value']:g}{spread} ({row['n']:g} run{'s' if row['n'] > 1 else ''})"


def _loss(pair: Pair) -> str:
    return f"{_signed(pair, 'loss_')} from {_name(pair)}"


def _value(pair: Pair) -> str:
    why = []
    if pair["smallest_p"] > ALPHA:
        why.append(f"smallest p of a permutation test {pair['smallest_p']:.2g}")
    if pair["verdict"] == OPEN and math.isfinite(pair["needed_runs"]):
        why.append(f"about {pair['needed_runs']:g} runs each for a power of 80 %")
    interval = _short(pair["sign"] * pair["difference"], "+") if math.isnan(pair["lower"]) else _signed(pair, "")
    return f"{interval} from {_name(pair)} with {_runs(pair['other'])}" + (f", {', '.join(why)}" if why else "")


def _signed(pair: Pair, of: str) -> str:
    sign = pair["sign"]
    lower, upper = sorted((sign * pair[f"{of}lower"], sign * pair[f"{of}upper"]))
    return f"{_short(sign * pair[f'{of}difference'], '+')} [{_short(lower)}, {_short(upper)}]"


def _short(number: float, sign: str = "") -> str:
    """Three digits, or all before the point; zero without a sign of its own."""
    number += 0.0
    return f"{number:{sign}.0f}" if abs(number) >= 999.5 else f"{number:{sign}.3g}"


def _score(pair: Pair) -> str:
    return f"{_name(pair)} {pair['other']['value']:g}"


def _size(pair: Pair) -> str:
    return f"{_name(pair)} has {pair['other']['parameters']:.0f}"


def _name(pair: Pair) -> str:
    other = pair["other"]
    return "/".join(filter(None, (other["model"], other["variant"]))) + f" (line {other['line']})"


def _listed(pairs: list[Pair], tell: Callable[[Pair], str]) -> str:
    more = len(pairs) - MOST_NAMED
    return "; ".join(map(tell, pairs[:MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")
