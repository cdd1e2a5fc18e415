"""The tables of a whole study: language × architecture, floors and chance levels, published values beside ours."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd

from lmtest.claims.published import PEOPLE
from lmtest.report.marks import colours
from lmtest.report.rows import SETS, label, saturated
from lmtest.report.tables import HEADLINE, REFERENCE, Key, RunTables, records
from lmtest.report.text import between, mean_interval, mean_sd, num

SECOND = "R2_completion"
VERDICT_BADGES = {"reproduced": "supported", "not reproduced": "refuted"}
"""Published verdict → the colour of its badge; the others say that nothing could be decided."""
WEAK = "‡"
ROUNDING = 1e-12
"""Nats: what floating point leaves of an excess of zero."""


def columns(run: RunTables) -> list[dict[str, Any]]:
    """Measured columns of the overview: title, measure, decoding, and whether trivial policies are told apart by it."""
    finished = f"{HEADLINE}_finished"
    found = [
        {"title": f"OOD {HEADLINE}, greedy", "measure": HEADLINE, "decoding": "greedy", "judged": True},
        {"title": f"{HEADLINE} of finished", "measure": finished, "decoding": "greedy", "judged": True},
        {"title": "R2 on the completion", "measure": SECOND, "decoding": "greedy", "judged": False},
        {"title": "Finish rate", "measure": "finish_rate", "decoding": "greedy", "judged": False},
        {"title": f"OOD {HEADLINE}, sampled at temperature {run.temperature:g}", "measure": HEADLINE,
         "decoding": "sampled", "judged": True},
    ]  # fmt: skip
    decodings = set(run.measurements["decoding"])
    return [column for column in found if column["decoding"] in decodings]


def overview(run: RunTables) -> list[dict[str, Any]]:
    """One group a language, one row an architecture (and variant), then the reference models."""
    views = {name: view for name in run.languages if (view := run.of(name)).of_rules}
    return [{"language": name, "rows": _rows(view, columns(run))} for name, view in views.items()]


def floors(run: RunTables) -> list[dict[str, Any]]:
    """One row a language: its entropy, its prompts, and what trivial policies reach on them."""
    return [_floor(run.of(name)) for name in run.languages]


def published_comparison(run: RunTables) -> list[dict[str, Any]]:
    """One row a published value: theirs, ours, the difference with its interval, and the verdict."""
    rows = []
    for row in records(run.published):
        prompt_set = (SETS | {"ood": "OOD"}).get(row["prompt_set"], row["prompt_set"])
        several = len(run.variants) > 1 and row["variant"]
        rows.append(
            {
                **row,
                "model": f"{row['model']}, {row['variant']}" if several else row["model"],
                "what": f"{row['measure']}, {prompt_set}, {row['decoding']}",
                "theirs": mean_sd(row["value"], row["spread"]),
                "our": mean_sd(row["ours"], row["ours_sd"]),
                "between": between(row["lower"], row["upper"]),
                "badge": VERDICT_BADGES.get(row["verdict"], "undecided"),
            }
        )
    return rows


def tally(run: RunTables) -> str:
    """How many published values got which verdict, in words."""
    verdicts = run.published["verdict"].dropna()
    counts = Counter(text for text in verdicts.astype(str) if text)
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())


def excess(run: RunTables, key: Key) -> str:
    """Mean excess with its t interval over seeds; the certificate's own interval where there is one seed."""
    rows = run.certificate(key)
    if len(rows) != 1:
        return mean_interval(rows["kl"].astype(float))
    [row] = records(rows)
    interval = "" if row["exact"] is True or math.isinf(row["kl"]) else f"\n{between(row['kl_lower'], row['kl_upper'])}"
    return f"{num(0.0 if row['kl'] < ROUNDING else row['kl'])}{interval}"


def trivial(run: RunTables, measure: str, decoding: str) -> float:
    """The better of the uniform law's exact level and stop-at-once, NaN where neither is known."""
    levels = [run.reference(name, measure, run.heldout, decoding) for name in ("uniform", "stop")]
    return max((level for level in levels if not math.isnan(level)), default=math.nan)


def _rows(run: RunTables, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for key in (*run.trained, *run.references):
        share, unsaturated = saturated(run, key)
        trained = key in run.trained
        rows.append(
            {
                "label": "uniform law (chance)" if key[0] == "uniform" else label(run, key),
                "reference": not trained,
                "colour": colours(run).get(key),
                "excess": excess(run, key),
                "saturated": share if trained else "–",
                "dagger": unsaturated and trained,
                "cells": [_cell(run, key, trained, column) for column in measured],
                "chance": num(run.chance(HEADLINE, run.heldout, "greedy")),
                "stop": num(run.reference("stop", HEADLINE, run.heldout, "greedy")),
            }
        )
    return rows + _people(run, measured)


def _people(run: RunTables, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What people answered on the published language, where a pilot asked them."""
    answers = run.published[run.published["model"] == PEOPLE]
    if answers.empty:
        return []
    value = {(row["measure"], row["decoding"]): row["value"] for row in records(answers)}
    # Whoever answers has finished: R2 on the completion, of all or of those that finish, is one number.
    value |= {(measure.removesuffix("_finished"), how): x for (measure, how), x in value.items() if SECOND in measure}
    cells = [num(value.get((column["measure"], column["decoding"]))) for column in measured]
    n = int(answers["seeds"].max())
    row = {"label": f"people ({n} answers, published)", "reference": True, "colour": None, "excess": "–"}
    return [row | {"saturated": "–", "dagger": False, "cells": cells, "chance": "–", "stop": "–"}]


def _cell(run: RunTables, key: Key, trained: bool, column: dict[str, Any]) -> str:
    measure, decoding = column["measure"], column["decoding"]
    if not trained:
        return num(run.reference(key[0], measure, run.heldout, decoding))
    values = run.measured(key, measure, run.heldout, decoding)["value"].astype(float)
    text = mean_interval(values)
    weak = column["judged"] and values.mean() <= trivial(run, measure, decoding)
    first, *rest = text.split("\n")
    return "\n".join([f"{first} {WEAK}" if weak else first, *rest])


def _floor(run: RunTables) -> dict[str, Any]:
    language = run.language
    entropy, prompts = language["entropy"], language["prompt_sets"]
    half, tokens = entropy["half_width"], language["mean_length"] + 1
    return {
        "language": run.languages[0],
        "title": language["title"],
        "entropy": num(run.floor, 4) if entropy["exact"] else f"{num(run.floor, 4)} ± {num(half, 2)}",
        "per_token": num(run.floor / tokens, 4),
        "exact": "exact" if entropy["exact"] else "from draws",
        "mean_length": num(language["mean_length"], 1),
        "epsilon": f"{run.epsilon:g}",
        "id": prompts.get("id", {}).get("count", 0),
        "ood": sum(of["count"] for name, of in prompts.items() if name.startswith("ood")),
        "heldout": prompts["ood_heldout"]["count"] if "ood_heldout" in prompts else None,
        "chance": num(run.chance(HEADLINE, run.heldout, "greedy")),
        "stop": num(run.reference("stop", HEADLINE, run.heldout, "greedy")),
        "finish": num(run.chance("finish_rate", run.heldout, "greedy")),
    }


def common(values: list[float]) -> str:
    """One value where all agree, else the range."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def seeds_of(run: RunTables) -> list[int]:
    """Trained seeds of the whole study."""
    seeds: pd.Series = run.certificates.loc[run.certificates["variant"] != REFERENCE, "seed"]
    return sorted(int(seed) for seed in seeds.unique())
