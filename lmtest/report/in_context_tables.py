"""The tables of in-context learning and of perturbed models, as rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmtest.report.marks import model_colours
from lmtest.report.overview import excess
from lmtest.report.rows import SETS, label, saturated
from lmtest.report.shapes import (
    LANGUAGE,
    SEEN,
    Derived,
    Shape,
    accuracy,
    asked,
    called,
    chosen,
    cost,
    derived,
    scratch,
    shapes,
)
from lmtest.report.tables import HEADLINE, REFERENCE, Key, RunTables, records
from lmtest.report.text import between, mean_interval, num, percent

NGRAM: Key = ("ngram", REFERENCE)


def in_context_section(run: RunTables) -> dict[str, Any]:
    """All that the page says in numbers of one language's in-context learning and derived variants."""
    config, found = run.resolved["config"], asked(run)
    saturation = config.get("saturation", {})
    title = found[2][0].upper() + found[2][1:] if found else ""
    return {
        "tables": accuracy_table(run),
        "bayes": bayes_table(run),
        "sensitivity": sensitivity_table(run),
        "perturbation": perturbation_table(run),
        "judged": title.split(",")[0],
        "certificates": certificate_table(run),
        "seeds": seeds_table(run),
        "per_token": f"{saturation['epsilon']:g}" if saturation.get("per") == "token" else "",
    }


def bayes_table(run: RunTables) -> list[dict[str, Any]]:
    """One section a family, one row a shape: what the exact law makes of the prompts, and how likely they are."""
    found = shapes(run)
    return [
        {"family": family, "rows": [_bayes(run, shape) for shape in found if shape.family == family]}
        for family in dict.fromkeys(shape.family for shape in found)
    ]


def accuracy_table(run: RunTables) -> list[dict[str, Any]]:
    """One table a family: a section a length k, in it a row a model, and a column a number of examples."""
    found, tables = shapes(run), []
    for family in dict.fromkeys(shape.family for shape in found):
        ns = sorted({shape.n for shape in found if shape.family == family})
        sections = []
        for k in sorted({shape.k for shape in found if shape.family == family}):
            here = [Shape(family, k, n) for n in ns]
            rows: list[dict[str, Any]] = [
                {
                    "label": called(run, key),
                    "reference": key[1] == REFERENCE,
                    "cells": [mean_interval(accuracy(run, key, shape)) for shape in here],
                }
                for key in (*scratch(run), LANGUAGE, NGRAM)
                if key in (*run.trained, *run.references)
            ]
            chance = [num(run.chance("accuracy", str(shape), "greedy")) for shape in here]
            sections.append({"k": k, "rows": [*rows, {"label": "chance", "reference": True, "cells": chance}]})
        tables.append({"family": family, "ns": ns, "sections": sections})
    return tables


def sensitivity_table(run: RunTables) -> dict[str, Any]:
    """One row a model that no one changed: how far apart orders of the same examples are, and the calibration error."""
    at = chosen(run)
    columns = [
        (f"Order range, k = {name.removeprefix('orders.k')}", "order_range", str(name), "greedy")
        for name in dict.fromkeys(run.measurements.loc[run.measurements["measure"] == "order_range", "prompt_set"])
    ]
    if at is not None:
        here = [shape for shape in shapes(run) if (shape.family, shape.k) == (at.family, at.k)]
        columns += [
            (f"ECE{of}, k = {shape.k}, n = {shape.n}", f"calibration_error{which}", str(shape), "exact")
            for of, which in ((" of drawn answers", "_drawn"), (" of labels", ""))
            for shape in dict.fromkeys((here[0], here[-1]))
        ]
    rows: list[dict[str, Any]] = [
        {
            "label": called(run, key),
            "reference": key[1] == REFERENCE,
            "cells": [mean_interval(run.measured(key, *column)["value"].astype(float)) for _, *column in columns],
        }
        for key in (*scratch(run), LANGUAGE, NGRAM)
    ]
    rows = [row for row in rows if any(cell != "–" for cell in row["cells"])]
    return {"titles": [title for title, *_ in columns], "rows": rows if columns else []}


def perturbation_table(run: RunTables) -> dict[str, Any]:
    """One row a derived variant: what was changed where, what it costs, and the outcome before and after."""
    found, at = derived(run), chosen(run)
    columns: list[tuple[str, int | str]] = []
    if at is not None:
        columns = [(f"n = {n}", n) for n in sorted({shape.n for shape in shapes(run) if shape.family == at.family})]
    elif asked(run) is not None:
        columns = [(f"{HEADLINE}, {SETS.get(name, name)}", name) for name in ("id", run.heldout)]
    return {
        "titles": [title for title, _ in columns],
        "rows": [_perturbed(run, one, [which for _, which in columns]) for one in found],
    }


def certificate_table(run: RunTables, hues: Mapping[Key, str] | None = None) -> list[dict[str, Any]]:
    """One row a model: its excess per string and per token, and how many seeds are saturated; models have colours by default."""
    rows = []
    for key in (*run.trained, *run.references):
        certificate = run.certificate(key)
        if certificate.empty:
            continue
        share, unsaturated = saturated(run, key)
        rows.append(
            {
                "label": label(run, key),
                "reference": key[1] == REFERENCE,
                "colour": None if key[1] == REFERENCE else hues[key] if hues else model_colours(run)[key[0]],
                "excess": excess(run, key),
                "per_token": mean_interval(certificate["kl_per_token"].astype(float)),
                "saturated": share if key[1] != REFERENCE else "–",
                "dagger": unsaturated and key[1] != REFERENCE,
            }
        )
    return rows


def seeds_table(run: RunTables) -> dict[str, Any]:
    """One row a trained seed: its certificate, and the accuracy on the shape that is looked at, over prompts."""
    at = chosen(run)
    rows = []
    for key in run.trained:
        measured = run.measured(key, "accuracy", str(at), "greedy").set_index("seed")
        for row in records(run.certificate(key)):
            own = measured.loc[row["seed"]] if row["seed"] in measured.index else None
            interval = f"{num(own['value'])} ({between(own['lower'], own['upper'])})" if own is not None else "–"
            rows.append({**row, "label": label(run, key), "dagger": row["saturated"] is not True, "accuracy": interval})
    return {"shape": at, "rows": rows}


def _bayes(run: RunTables, shape: Shape) -> dict[str, Any]:
    """NaN, hence dashes, where every prompt is impossible; a posterior of the concept only where it is the language's."""

    def of(measure: str, decoding: str = "exact") -> str:
        rows = records(run.measured(LANGUAGE, measure, str(shape), decoding))
        if not rows or math.isnan(rows[0]["value"]):
            return "–"
        interval = between(rows[0]["lower"], rows[0]["upper"])
        return f"{num(rows[0]['value'])}\n{interval}" if interval != "–" else num(rows[0]["value"])

    share = run.measured(LANGUAGE, "zero_share", str(shape), "exact")["value"].astype(float).mean()
    log_mass = run.measured(LANGUAGE, "log_mass", str(shape), "exact")["value"].astype(float).mean()
    return {
        "k": shape.k,
        "n": shape.n,
        "accuracy": of("accuracy", "greedy"),
        "posterior": of("posterior"),
        "entropy": of("posterior_entropy").split("\n")[0],
        "impossible": percent(float(share)) if share in (0, 1) or math.isnan(share) else f"{share:.1%}",
        "majority": of("majority_rate").split("\n")[0],
        "log_mass": num(log_mass, 1),
    }


def _perturbed(run: RunTables, one: Derived, which: list[Any]) -> dict[str, Any]:
    added = cost(run, one)
    single = records(added)[0] if len(added) == 1 else None
    shares = {name: cost(run, one, name)["value"].mean() for name in ("context_probability", "ties", "no_second")}
    bound, guaranteed = (cost(run, one, name)["value"].mean() for name in ("kl_bound", "kl_guaranteed"))
    nowhere = shares["context_probability"] == 0
    lesson = f"taught to {one.config['lesson']}, penalty {one.config['penalty']:g}" if one.taught else "exchange"
    return {
        "label": label(run, one.key),
        "reference": one.exact,
        "what": lesson,
        "where": one.where,
        "added": f"{num(single['value'])}\n{between(single['lower'], single['upper'])}"
        if single
        else mean_interval(added["value"]),
        "probability": num(shares["context_probability"]),
        "bound": num(bound),
        "guaranteed": num(guaranteed) if math.isfinite(guaranteed) else "–",
        "cells": [_outcome(run, one, name) for name in which],
        "ties": "–" if math.isnan(shares["ties"]) else f"{percent(shares['ties'])} / {percent(shares['no_second'])}",
        "note": "no document has such a context: functional, not ε-, non-identifiability" if nowhere else "",
    }


def _outcome(run: RunTables, one: Derived, which: Any) -> dict[str, Any]:
    """Before → after, means over seeds; `changed` where the prompts are among those that the variant was changed on."""
    if isinstance(which, str):
        values = [run.measured(key, HEADLINE, which, "greedy")["value"].astype(float) for key in (one.before, one.key)]
        changed = False
    else:
        at = chosen(run)
        shape = Shape(at.family if at else SEEN, one.k or (at.k if at else 0), which)
        values = [accuracy(run, key, shape) for key in (one.before, one.key)]
        changed = one.covers(shape)
    before, after = (num(value.mean(), 2) for value in values)
    return {"text": f"{before} → {after}" if (before, after) != ("–", "–") else "–", "changed": changed}
