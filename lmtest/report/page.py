"""One self-contained page: tables in, HTML with its pictures inlined out."""

from __future__ import annotations

import base64
import itertools
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from lmtest import atomic
from lmtest.report import figures
from lmtest.report.marks import REFERENCE_LABELS, colours
from lmtest.report.tables import HEADLINE, REFERENCE, Key, RunTables, load, modal_completions, records, select

SETS = {
    "ood_heldout": "held-out OOD",
    "ood_trained": "trained OOD",
    "ood": "all OOD",
    "id": "ID",
    "empty": "empty prompt",
}
CAPTIONS = {
    "loss_against_rule_extrapolation": f"{HEADLINE} on all OOD prompts (greedy; an unfinished completion counts as "
    "broken) against the excess of the loss over the floor, along training: one thin line a seed, its end marked, "
    "hollow where the seed is not saturated; ticks on the left axis are published values, measured at other losses.",
    "rule_extrapolation_per_seed": f"{HEADLINE} on OOD prompts that no objective was shown (greedy): one point a seed "
    "with its 95 % interval over prompts, hollow where not saturated; the mean over seeds as a line, reference models "
    "dashed.",
    "prompts": "Greedy completions: one row a seed, one column a prompt, grouped by the rules that the prompt has "
    "already broken (joint: none of them alone, but together they can no longer hold).",
    "certificates": "Excess of the loss over the floor with its 95 % interval, one row a seed, hollow where not "
    "saturated; a margin of equivalence bounds the difference between two variants' means.",
}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
SHOWN = 30
"""Characters of a completion that the table of prompts shows; the whole of it is the cell's tooltip."""


def write_report(directory: Path) -> Path:
    """Draws `figures/*.png` and writes `report.html` from the tables of a run directory; returns the page's path.

    Raises UsageError where a file is missing or unreadable, LmtestError on a full disk.
    """
    directory = Path(directory)
    run = load(directory)
    pictures = figures.draw(run)
    for name, png in pictures.items():
        path = directory / "figures" / f"{name}.png"
        if png is None:
            path.unlink(missing_ok=True)  # a picture of other tables would be worse than none
        else:
            atomic.write_bytes(path, png)
    atomic.write_text(directory / "report.html", render(run, pictures))
    return directory / "report.html"


def render(run: RunTables, pictures: dict[str, bytes | None]) -> str:
    """The page as HTML; all data are escaped, nothing is loaded from elsewhere."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(num=num, seconds=duration, percent=percent)
    environment.globals.update(between=between)
    text = resources.files("lmtest.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        run=run,
        resolved=run.resolved,
        language=run.language,
        colours=colours(run),
        keys={key: label(run, key) for key in run.trained},
        seeds=sorted(run.certificates.loc[run.certificates["variant"] != REFERENCE, "seed"].unique().tolist()),
        claims=records(run.verdicts),
        figures=[
            {"name": name, "caption": CAPTIONS[name], "data": png and base64.b64encode(png).decode()}
            for name, png in pictures.items()
        ],
        headline=HEADLINE,
        sets=shown_sets(run),
        main=main_table(run),
        every=every_measure(run),
        each=each_seed(run),
        published=published_table(run),
        prompts=prompt_table(run),
        environment=flat(run.env),
    )


# Numbers as one reads them.


def num(value: Any, digits: int = 3) -> str:
    """A number with `digits` decimals, or as many significant digits where it is small; NaN and None are a dash."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, str):
        return value or "–"
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    small = digits > 1 and value != 0 and abs(value) < 10 ** (1 - digits)
    return (f"{value:#.{digits - 1}g}" if small else f"{value:.{digits}f}").replace("-", "−")


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def duration(seconds: Any) -> str:
    """Seconds as hours, minutes and seconds."""
    if not isinstance(seconds, int | float):
        return "–"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n) or "0 s"


def between(lower: Any, upper: Any) -> str:
    """An interval; a dash where there is none."""
    text = f"{num(lower)} to {num(upper)}"
    return "–" if text == "– to –" else text


def over_seeds(values: pd.Series) -> str:
    """Mean and, on a line of its own, range over seeds, and over how many where some are NaN; a dash where all are."""
    defined = values.dropna()
    if defined.empty:
        return "–"
    low, high, mean = num(defined.min()), num(defined.max()), num(defined.mean())
    text = mean if low == high else f"{mean}\n{low} to {high}"
    return text if len(defined) == len(values) else f"{text}\n{len(defined)} of {len(values)} seeds"


def short(completion: str, finished: bool) -> str:
    """A completion in few characters: runs of four and more as powers, the rest cut; says where it did not finish."""
    if not completion:
        return "⟨stops⟩" if finished else "… (unfinished)"
    if " " not in completion:
        runs = ((symbol, len(list(run))) for symbol, run in itertools.groupby(completion))
        completion = "".join(s + str(n).translate(SUPERSCRIPTS) if n > 3 else s * n for s, n in runs)
    cut = completion if len(completion) <= SHOWN else completion[:SHOWN] + "…"
    return cut if finished else f"{cut.removesuffix('…')}… (unfinished)"


def label(run: RunTables, key: Key) -> str:
    """How a row is called: the variant, with its model where there are several; a reference model by its name."""
    model, variant = key
    if variant == REFERENCE:
        return REFERENCE_LABELS.get(model, model)
    return f"{model}, {variant}" if len(run.models) > 1 else variant


# The tables of the page, as rows of text.


def shown_sets(run: RunTables) -> dict[str, str]:
    """Prompt set → its title, for what was measured; an evaluator's own sets come last."""
    found = dict.fromkeys(run.measurements["prompt_set"])
    return {name: SETS.get(name, name) for name in {**SETS, **found} if name in found}


def saturated(run: RunTables, key: Key) -> tuple[str, bool]:
    """ "7 of 8", and whether some are not; a dash where nothing was certified."""
    flags = run.certificate(key)["saturated"].eq(True)
    return (f"{int(flags.sum())} of {len(flags)}", not bool(flags.all())) if len(flags) else ("–", False)


def main_table(run: RunTables) -> list[dict[str, Any]]:
    """One section a decoding, one row a variant or reference model: losses, then the headline measure by prompt set."""
    sections = []
    for decoding in _decodings(run):
        rows = []
        for key in (*run.trained, *run.references):
            share, dagger = saturated(run, key)
            finish = run.measured(key, "finish_rate", run.heldout, decoding)["value"]
            rows.append(
                {
                    "label": label(run, key),
                    "variant": key[1],
                    "excess": over_seeds(run.certificate(key)["kl"].astype(float)),
                    "saturated": share,
                    "dagger": dagger and key[1] != REFERENCE,
                    "values": _by_set(run, key, HEADLINE, decoding),
                    "finish": over_seeds(finish),
                    "chance": num(run.chance(HEADLINE, run.heldout, decoding)),
                }
            )
        sections.append({"decoding": decoding, "rows": rows})
    return sections


def every_measure(run: RunTables) -> list[dict[str, Any]]:
    """One section a decoding and measure, one row a variant or reference model, one column a prompt set."""
    sections = []
    for decoding, measure in itertools.product(_decodings(run), dict.fromkeys(run.measurements["measure"])):
        keys = (*run.trained, *run.references)
        cells = [(label(run, key), key[1], _by_set(run, key, measure, decoding)) for key in keys]
        chance = [num(run.chance(measure, name, decoding)) for name in shown_sets(run)]
        rows = [row for row in cells if any(value != "–" for value in row[2])]
        if rows:
            sections.append({"decoding": decoding, "measure": measure, "rows": rows, "chance": chance})
    return sections


def each_seed(run: RunTables) -> list[dict[str, Any]]:
    """One row a trained seed: its certificate, and the headline measure with its interval over prompts."""
    wanted = {"measure": HEADLINE, "prompt_set": run.heldout, "decoding": "greedy"}
    identity = ["model", "variant", "seed"]
    measured = select(run.measurements, **wanted)[[*identity, "value", "lower", "upper", "count"]]
    table = run.certificates[run.certificates["variant"] != REFERENCE].merge(measured, on=identity, how="left")
    return [
        {"label": label(run, (row["model"], row["variant"])), "dagger": row["saturated"] is not True, **row}
        for row in records(table.astype({"saturated": object}))
    ]


def published_table(run: RunTables) -> list[dict[str, Any]]:
    """One row a published value and model of ours that it can be set beside: theirs, ours (mean ± SD), difference."""
    rows = []
    for entry in run.resolved["published"]:
        decoding = entry.get("decoding", "greedy")
        keys = [key for key in run.trained if key[1] == entry["variant"] and entry.get("model") in (None, key[0])]
        for key in keys or [("", entry["variant"])]:
            values = run.measured(key, entry["measure"], entry["prompt_set"], decoding)["value"].dropna()
            ours = f"{num(values.mean())} ± {num(values.std())}" if len(values) > 1 else num(values.mean())
            rows.append(
                {
                    **{"seeds": None, "spread": None, "source": "", "note": "", **entry},
                    "what": f"{entry['measure']}, {SETS.get(entry['prompt_set'], entry['prompt_set'])}, {decoding}",
                    "row": label(run, key),
                    "ours": ours,
                    "n": len(values),
                    "difference": values.mean() - float(entry["value"]) if entry["value"] is not None else math.nan,
                }
            )
    return rows


def prompt_table(run: RunTables) -> list[dict[str, Any]]:
    """One row an OOD prompt; a cell for each trained (model, variant), None where it was not asked."""
    return [
        {
            "prompt": prompt,
            "broken": broken,
            "cells": [
                {"text": short(done[0], done[1]), "whole": done[0], "share": done[2], "kept": done[3]}
                if (done := found.get(key))
                else None
                for key in run.trained
            ],
        }
        for prompt, broken, found in modal_completions(run)
    ]


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested data as (dotted name, text) pairs."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [(name, " ".join(value))]
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _by_set(run: RunTables, key: Key, measure: str, decoding: str) -> list[str]:
    return [over_seeds(run.measured(key, measure, name, decoding)["value"]) for name in shown_sets(run)]


def _decodings(run: RunTables) -> list[str]:
    return sorted(run.measurements["decoding"].dropna().unique())  # greedy comes first
