"""The tables of one language, as rows of text."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pandas as pd

from lmtest.report.marks import REFERENCE_LABELS, colours
from lmtest.report.tables import (
    FINE_TUNING,
    HEADLINE,
    IN_CONTEXT,
    PERTURBATION,
    REFERENCE,
    TUNING,
    Key,
    RunTables,
    records,
    select,
)
from lmtest.report.text import mean_sd, num, over_seeds

SETS = {
    "ood_heldout": "held-out OOD",
    "ood_trained": "trained OOD",
    "ood": "all OOD",
    "id": "ID",
    "empty": "empty prompt",
}


def label(run: RunTables, key: Key) -> str:
    """How a row is called: its variant, its model where those differ, or both; a reference model by its name."""
    model, variant = key
    if variant == REFERENCE:
        return f"the language, {model}" if model in run.derived else REFERENCE_LABELS.get(model, model)
    if len(run.models) == 1:
        return variant
    return model if len(run.variants) == 1 else f"{model}, {variant}"


def shown_sets(run: RunTables, rows: pd.DataFrame | None = None) -> dict[str, str]:
    """Prompt set → its title, of some measurements, by default those of the headline measure."""
    rows = select(run.measurements, measure=HEADLINE) if rows is None else rows
    found = dict.fromkeys(rows["prompt_set"])
    titles = SETS | ({} if any(name.startswith("ood_") for name in found) else {"ood": "OOD"})
    return {name: titles.get(name, name) for name in {**SETS, **found} if name in found}


def saturated(run: RunTables, key: Key) -> tuple[str, bool]:
    """ "7 of 8", and whether some are not; a dash where nothing was certified."""
    flags = run.certificate(key)["saturated"].eq(True)
    return (f"{int(flags.sum())} of {len(flags)}", not bool(flags.all())) if len(flags) else ("–", False)


def main_table(run: RunTables) -> list[dict[str, Any]]:
    """One section a decoding, one row a variant or reference model: losses, then the headline measure by prompt set."""
    sections = []
    sets = shown_sets(run)
    for decoding in sorted(select(run.measurements, measure=HEADLINE)["decoding"].unique()):  # greedy comes first
        rows = []
        for key in (*run.trained, *run.references):
            share, dagger = saturated(run, key)
            finish = run.measured(key, "finish_rate", run.heldout, decoding)["value"]
            rows.append(
                {
                    "label": label(run, key),
                    "variant": key[1],
                    "colour": colours(run).get(key),
                    "excess": over_seeds(run.certificate(key)["kl"].astype(float)),
                    "saturated": share,
                    "dagger": dagger and key[1] != REFERENCE,
                    "values": _by_set(run, key, HEADLINE, decoding, sets),
                    "finish": over_seeds(finish),
                    "chance": num(run.chance(HEADLINE, run.heldout, decoding)),
                }
            )
        sections.append({"decoding": decoding, "rows": rows})
    return sections


def every_measure(run: RunTables) -> list[dict[str, Any]]:
    """One table an evaluator: its prompt sets, and one section a decoding and measure with one row a model."""
    tables = []
    evaluators = run.measurements["evaluator"]
    # Some prompt sets are too many for one table: those of in-context learning have one for each family, those of
    # fine-tuning one for each task, protocol and number of examples.
    names = run.measurements["prompt_set"].astype(str)
    of_family = names.str.split(".").str[0].where(evaluators == IN_CONTEXT, "")
    of_family = of_family.where(evaluators != FINE_TUNING, names.str.split("@").str[0])
    for (evaluator, family), found in run.measurements.groupby([evaluators, of_family], sort=False):
        sets, sections = shown_sets(run, found), []
        decodings = sorted({str(name) for name in found["decoding"]})
        for decoding, measure in itertools.product(decodings, dict.fromkeys(found["measure"])):
            cells: list[dict[str, Any]] = [
                {
                    "label": label(run, key),
                    "variant": key[1],
                    "colour": colours(run).get(key),
                    "values": _by_set(run, key, measure, decoding, sets),
                }
                for key in (*run.trained, *run.references)
            ]
            rows = [row for row in cells if any(value != "–" for value in row["values"])]
            chance = [num(run.chance(measure, name, decoding)) for name in sets]
            known = (
                chance if evaluator not in (IN_CONTEXT, PERTURBATION, *TUNING) or any(c != "–" for c in chance) else []
            )
            if rows:
                sections.append({"decoding": decoding, "measure": measure, "rows": rows, "chance": known})
        title = f"{evaluator}: {family}" if family else str(evaluator)
        tables.append({"evaluator": title.replace("_", " "), "sets": sets, "sections": sections})
    return tables


def each_seed(run: RunTables) -> list[dict[str, Any]]:
    """One row a trained seed: its certificate, and the headline measure with its interval over prompts."""
    wanted = {"measure": HEADLINE, "prompt_set": run.heldout, "decoding": "greedy"}
    identity = ["model", "variant", "seed"]
    measured = select(run.measurements, **wanted)[[*identity, "value", "lower", "upper", "count"]]
    table = run.certificates[run.certificates["variant"] != REFERENCE].merge(measured, on=identity, how="left")
    rows = []
    for row in records(table.astype({"saturated": object})):
        key = (row["model"], row["variant"])
        unsaturated = row["saturated"] is not True
        rows.append({"label": label(run, key), "colour": colours(run).get(key), "dagger": unsaturated, **row})
    return rows


def published_table(run: RunTables) -> list[dict[str, Any]]:
    """One row a published value and model of ours that it can be set beside: theirs, ours (mean ± SD), difference."""
    rows = []
    for entry in run.resolved["published"]:
        decoding = entry.get("decoding", "greedy")
        keys = [key for key in run.trained if key[1] == entry["variant"] and entry.get("model") in (None, key[0])]
        for key in keys or [("", entry["variant"])]:
            values = run.measured(key, entry["measure"], entry["prompt_set"], decoding)["value"].dropna()
            rows.append(
                {
                    **{"seeds": None, "spread": None, "source": "", "note": "", **entry},
                    "what": f"{entry['measure']}, {SETS.get(entry['prompt_set'], entry['prompt_set'])}, {decoding}",
                    "row": label(run, key),
                    "colour": colours(run).get(key),
                    "ours": mean_sd(values.mean(), values.std()),
                    "n": len(values),
                    "difference": values.mean() - float(entry["value"]) if entry["value"] is not None else math.nan,
                }
            )
    return rows


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested data as (dotted name, text) pairs."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [(name, " ".join(value))]
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _by_set(run: RunTables, key: Key, measure: str, decoding: str, sets: dict[str, str]) -> list[str]:
    return [over_seeds(run.values(key, measure, name, decoding)) for name in sets]
