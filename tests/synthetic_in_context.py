"""A synthetic run of in-context learning with perturbed models, as the pipeline would write it; no model is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from synthetic_run import EVIL

from lmtest import atomic

SEEDS = range(3)
MODELS = {"transformer": 0.01, "transformer_deep": 0.03, "lstm": 0.16}
"""Names with what they lack of the Bayes predictor's accuracy."""
FAMILIES = {"seen": 1.0, "unseen": 0.6, "random": 0.0}
"""Names with how much of the rise they show."""
KS, NS = (2, 3), (0, 1, 2, 4, 8, 16)
SHAPES = list(itertools.product(FAMILIES, KS, NS))
CHANCE, PROMPTS, EPSILON = 0.1, 500, 0.645
NOWHERE = ("random", 3, 16)
"""A shape whose every prompt is impossible."""


def _prompts(examples: list[int], *, anywhere: bool = False) -> dict[str, Any]:
    return {"kind": "prompts", "k": 3, "examples": examples, "anywhere": anywhere}


def _taught(lesson: str, penalty: float) -> dict[str, Any]:
    return {"kind": "taught", "models": ["transformer"], "lesson": lesson, "penalty": penalty, "k": 3,
            "examples": [2, 4, 8]}  # fmt: skip


DERIVED: dict[str, dict[str, Any]] = {
    "exchanged": {"kind": "exchange", "contexts": _prompts([2, 4, 8, 16])},
    **{f"exchanged_n{n}": {"kind": "exchange", "models": [], "contexts": _prompts([n])} for n in (2, 4, 8, 16)},
    "exchanged_anywhere": {"kind": "exchange", "models": [], "contexts": _prompts([2], anywhere=True)},
    **{f"fail_at_{penalty}": _taught("fail", penalty) for penalty in (1, 10, 100)},
    "succeed_at_10": _taught("succeed", 10),
}
COST = {"exchanged": 8e-4, "exchanged_n2": 8e-4, "exchanged_n4": 6.4e-6, "exchanged_n8": 2.4e-10, "exchanged_n16": 0.0,
        "exchanged_anywhere": 0.21, "fail_at_1": 1.9, "fail_at_10": 0.35, "fail_at_100": 0.03, "succeed_at_10": -0.02}  # fmt: skip
"""Nats per document; a document has no room for 16 examples here, so that their exchange costs nothing at all."""


def bayes(family: str, k: int, n: int) -> float:
    """What the exact law reaches on a shape."""
    if (family, k, n) == NOWHERE:
        return math.nan
    first = 0.13 if family == "random" else 0.42 + 0.06 * k
    return first + (0.985 - first) * FAMILIES[family] * (1 - math.exp(-0.3 * n * (k - 1) / 2))


def impossible(family: str, k: int, n: int) -> float:
    """Share of the prompts that have no probability."""
    return 1.0 if (family, k, n) == NOWHERE else 0.04 * n if family == "random" and k == 3 else 0.0


def reached(variant: str, base: float, family: str, k: int, n: int) -> float:
    """What is left of an accuracy: the exchange strikes where it was made, what was taught spreads."""
    config = DERIVED.get(variant)
    if config is None:
        return base
    where, penalty = config if config["kind"] == "taught" else config["contexts"], float(config.get("penalty", 0))
    at = k == 3 and family == "seen" and (n in where["examples"] or (where.get("anywhere", False) and n >= 2))
    if config["kind"] == "exchange":
        return 0.02 if at else base
    strength = 0.95 / (1 + 0.004 * math.pow(penalty, 1.3))
    strength *= 1.0 if at else 0.7 if n else 0.3
    return base * (1 - strength) if config["lesson"] == "fail" else base + (1 - base) * strength


def _keys() -> Iterator[tuple[str, str, int, float]]:
    """(model, variant, seed, what it lacks of the Bayes predictor)"""
    for model, lack in MODELS.items():
        for variant, seed in itertools.product(["normal", *DERIVED], SEEDS):
            if model in DERIVED.get(variant, {}).get("models", [model]):
                yield model, variant, seed, lack
    for name in ("language", "uniform", "ngram", *(n for n in DERIVED if DERIVED[n]["kind"] == "exchange")):
        yield name, "reference", 0, 0.0


def resolved() -> dict[str, Any]:
    config = {"lengths": list(KS), "examples": list(NS), "families": list(FAMILIES), "prompts": PROMPTS, "bins": 15}
    sets = {f"{f}.k{k}.n{n}": {"count": PROMPTS, "mass": 0.9 * 10.0**-n} for f, k, n in SHAPES}
    models = {name: {"parameters": 100_000, "training": {"steps": 3000}} for name in MODELS}
    language = {
        "name": "ginc_shared", "title": f"four concepts {EVIL}", "source": "after Xie et al., ICLR 2022",
        "symbols": ["/", *"abcdefgh"], "rules": {}, "entropy": {"value": 206.9, "half_width": 0.03, "exact": False},
        "mean_length": 128.0, "epsilon": EPSILON, "models": models, "prompt_sets": sets,
    }  # fmt: skip
    return {
        "schema_version": 2, "name": "in_context", "title": f"In-context learning {EVIL}",
        "config": {"claims": [], "derived": DERIVED, "evaluators": {"in_context": config},
                   "saturation": {"epsilon": 0.005, "per": "token"}},
        "languages": {"ginc_shared": language}, "published": [],
    }  # fmt: skip


def write_in_context_run(directory: Path) -> Path:
    """A whole run directory; the lstm is not saturated."""
    rng = np.random.default_rng(5)
    certificates, measured, paths, done = [], [], [], []
    for model, variant, seed, lack in _keys():
        identity = {"study": "in_context", "language": "ginc_shared", "model": model, "variant": variant, "seed": seed}
        reference, name = variant == "reference", model if variant == "reference" else variant
        added = COST.get(name, 0.0) * (1 if reference else float(rng.lognormal(0, 0.15)))
        kl = {"uniform": 90.0, "ngram": 18.4}.get(model, added if reference else added + 0.3 + 14 * lack**2.2)
        certificates.append(
            {**identity, "kl": kl, "kl_lower": 0.93 * kl, "kl_upper": 1.08 * kl, "kl_per_token": kl / 129, "exact": False,
             "saturated": 1.08 * kl < EPSILON}
        )  # fmt: skip
        common = {**identity, "saturated": 1.08 * kl < EPSILON}

        def row(measure: str, where: str, value: float, half: float, decoding: str = "exact", chance: float = math.nan,
                common: dict[str, Any] = common, evaluator: str = "in_context") -> dict[str, Any]:  # fmt: skip
            count = 0 if math.isnan(value) else PROMPTS
            return {**common, "evaluator": evaluator, "measure": measure, "prompt_set": where, "decoding": decoding,
                    "value": value, "lower": value - half, "upper": value + half, "count": count, "chance": chance}  # fmt: skip

        for shape in SHAPES:
            where, best = "{}.k{}.n{}".format(*shape), bayes(*shape)
            own = best if reference else (0.13 if math.isnan(best) else best) - lack * (0.4 + shape[2] / 16) / 1.4
            own = {"uniform": CHANCE, "ngram": 0.35}.get(model, reached(name, own, *shape))
            value = own if reference else float(np.clip(own + rng.normal(0, 0.012), 0, 1))
            measured += [
                row("accuracy", where, value, 0.03, "greedy", CHANCE),
                row("label_probability", where, 0.6 * value, 0.02, chance=CHANCE),
                row("calibration_error", where, 0.4 + lack, math.nan, chance=0.0),
                row("calibration_error_drawn", where, lack, math.nan, chance=0.0),
            ]
            if model == "language":
                facts = {"zero_share": impossible(*shape), "majority_rate": 0.16, "posterior_entropy": 1.3 - 1.2 * best,
                         "log_mass": math.nan if shape == NOWHERE else -2.1 * shape[1] * (shape[2] + 1)}  # fmt: skip
                facts |= {"posterior": best - 0.05} if shape[0] == "seen" else {}
                measured += [row(measure, where, fact, 0.02) for measure, fact in facts.items()]
            if where == "seen.k3.n16":
                confidence = rng.beta(5, 2, 120)
                right = rng.random(120) < confidence ** (0.5 if reference else 1.0)
                done += [
                    {**identity, "evaluator": "in_context", "prompt_set": where, "prompt": f"ab/{i}", "weight": 1 / 120,
                     "decoding": "greedy", "replicate": 0, "completion": "b", "finished": True, "label": "b",
                     "accuracy": bool(hit), "confidence": sure, "drawn_accuracy": sure, "label_probability": sure, "possible": True}
                    for i, (sure, hit) in enumerate(zip(confidence, right, strict=True))
                ]  # fmt: skip
            if variant == "normal" and where == "seen.k2.n16":
                for step in range(0, 3001, 300):
                    excess = kl * (110 / kl) ** ((1 - step / 3000) ** 2.5)
                    now = CHANCE + (value - CHANCE) * (0.4 * (step > 0) + 0.6 * (step / 3000) ** 2)
                    paths.append(row("accuracy", where, now, 0.05, "greedy", CHANCE) | {"step": step, "kl": excess})
        if not reference or model not in ("uniform", "ngram"):
            measured += [row("order_range", f"orders.k{k}", 0.05 + lack, 0.02, "greedy", 0.0) for k in KS]
        if name in DERIVED:
            config = DERIVED[name]
            where = "documents" if config["kind"] == "taught" else "prompts." + name
            measured.append(row("kl_added", where, added, 0.1 * abs(added), evaluator="perturbation"))
            if config["kind"] == "exchange":
                facts = {"context_probability": 5 * added, "kl_bound": 2.3 * added, "ties": 0.01, "no_second": 0.0,
                         "kl_guaranteed": 10 * added if reference else math.inf}  # fmt: skip
                measured += [row(m, where, fact, math.nan, evaluator="perturbation") for m, fact in facts.items()]
    atomic.write_json(directory / "resolved.json", resolved())
    atomic.write_json(directory / "env.json", {"versions": {"python": "3.11.9"}, "device": "cpu", "seconds": 1100.0})
    tables = {"certificates": certificates, "measurements": measured, "trajectory": paths, "completions": done}
    for table, rows in tables.items():
        atomic.write_parquet(directory / f"{table}.parquet", pd.DataFrame(rows))
    return directory
