"""A synthetic run of fine-tuning, as the pipeline would write it: models of one function, controls, flatness; none is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from synthetic_run import EVIL

from lmtest import atomic

SEEDS = range(4)
MODELS = {"small": 12_000, "large": 90_000}
_SMALL = {"of": "normal", "models": ["small"]}
DERIVED: dict[str, dict[str, Any]] = {
    "widened": {"kind": "widen", **_SMALL, "ratio": 2, "sigma": 0.5},
    "deepened": {"kind": "deepen", **_SMALL, "layers": 1, "reads": "random"},
    "longer": {"kind": "longer", **_SMALL, "steps": 4000, "schedule": "constant"},
    "copied": {"kind": "widen", **_SMALL, "ratio": 2, "sigma": 0.0},
    "blank": {"kind": "deepen", **_SMALL, "layers": 1, "reads": "zero"},
    "rescaled": {"kind": "rescale", **_SMALL, "alpha": 100.0},
}
FLATTER = {"normal": 1.0, "large": 0.6, "widened": 0.5, "deepened": 1.3, "longer": 0.7, "copied": 0.8, "blank": 1.0,
           "rescaled": 900.0}  # fmt: skip
"""The trace, in shares of the baseline's; the large model by its own name."""
FASTER = {"normal": 1.0, "large": 0.5, "widened": 0.6, "deepened": 0.8, "longer": 0.9, "copied": 0.8, "blank": 1.0,
          "rescaled": 2.5}  # fmt: skip
"""The steps it needs, likewise."""
TASKS = {"anbnan": ("excess", "exact_match"), "root": ("cross_entropy", "accuracy")}
EXAMPLES, RATES = (8, 64, "all"), (3e-4, 1e-3, 3e-3)
LEARNT = [*(("full", n) for n in EXAMPLES), ("probe", 64)]
"""Protocols and numbers of examples; a whole grid of them would say the same for longer."""
STEPS, THRESHOLD, EPSILON, MAJORITY = (0, 10, 20, 50, 100, 200, 300), 0.05, 0.02, 0.4
SAME = {"anbnan": 1e-3, "root": 3e-3}
"""The rate that every model chooses; of parse labels it is the last of the grid."""


def keys() -> Iterator[tuple[str, str]]:
    yield from ((model, "normal") for model in MODELS)
    yield from (("small", variant) for variant in DERIVED)


def _kind(model: str, variant: str) -> str:
    return "large" if model == "large" else variant


def curve(kind: str, seed: int, task: str, protocol: str, n: int | str, rate: float) -> dict[int, float]:
    """The loss by step; with the few examples of a probe it stays where it is."""
    kind = "normal" if kind == "blank" else kind  # nothing tells the two apart
    noise = 1 + 0.08 * math.sin(7 * seed + len(kind))
    strength = {8: 0.25, 64: 0.7, "all": 1.0}[n] * (0.3 if protocol == "probe" else 1.0)
    pace = strength * (rate / 1e-3) ** (0.4 if kind != "rescaled" else -0.4) / (30 * FASTER[kind] * noise)
    start = 4.0 if task == "anbnan" else 1.1
    # What computes one function starts at one loss.
    return {step: start * math.exp(-pace * step) + 0.004 * noise for step in STEPS}


def steps_to_threshold(losses: dict[int, float]) -> float:
    return next((float(step) for step, loss in losses.items() if loss <= THRESHOLD), math.nan)


def resolved() -> dict[str, Any]:
    tasks = [{"kind": "continuation", "name": "anbnan", "language": "anbnan"}, {"kind": "parse", "name": "root"}]
    tuning = {"tasks": tasks, "protocols": ["full", "probe"], "learning_rates": list(RATES), "steps": STEPS[-1],
              "evaluate_at": list(STEPS), "examples": list(EXAMPLES), "threshold": THRESHOLD, "accuracy_threshold": 0.9}  # fmt: skip
    language = {
        "name": "anbn_small", "title": f"aⁿbⁿ {EVIL}", "source": "position paper, section 3", "symbols": ["a", "b"],
        "rules": {}, "entropy": {"value": math.log(8), "half_width": 0.0, "exact": True}, "mean_length": 9.0,
        "epsilon": EPSILON, "models": {name: {"parameters": n, "training": {"steps": 2000}} for name, n in MODELS.items()},
        "prompt_sets": {},
    }  # fmt: skip
    return {
        "schema_version": 2, "name": "fine_tuning", "title": f"Same function, different fine-tuning {EVIL}",
        "config": {"claims": [], "variants": {"normal": {}}, "derived": DERIVED,
                   "evaluators": {"fine_tuning": tuning, "flatness": {"probes": 32}}},
        "languages": {"anbn_small": language}, "published": [],
    }  # fmt: skip


def tables() -> dict[str, list[dict[str, Any]]]:
    """Rows of certificates, measurements and completions."""
    certificates, measured, done = [], [], []
    for (model, variant), seed in itertools.product(keys(), SEEDS):
        kind, identity = _kind(model, variant), {"study": "fine_tuning", "language": "anbn_small", "model": model}
        identity |= {"variant": variant, "seed": seed}  # type: ignore[dict-item]
        kl = 0.004 * (1 + 0.2 * seed) * (0.8 if kind in ("large", "longer") else 1.0)
        kl = 0.05 if (kind, seed) == ("longer", 3) else kl
        certificates.append({**identity, "kl": kl, "kl_lower": kl, "kl_upper": kl, "kl_per_token": kl / 10, "exact": True,
                             "saturated": kl < EPSILON})  # fmt: skip

        def row(measure: str, where: str, value: float, evaluator: str = "fine_tuning", decoding: str = "exact",
                half: float = 0.0, chance: float = math.nan, count: int = 8,
                common: dict[str, Any] = identity | {"saturated": kl < EPSILON}) -> dict[str, Any]:  # fmt: skip
            return {**common, "evaluator": evaluator, "measure": measure, "prompt_set": where, "decoding": decoding,
                    "value": value, "lower": value - half, "upper": value + half, "count": 0 if math.isnan(value) else count,
                    "chance": chance}  # fmt: skip

        if variant in DERIVED and variant != "longer":
            for measure, size in (("function_difference", 2e-6), ("function_difference_float64", 3e-14)):
                size *= 0.0 if variant == "blank" else 1 + seed
                measured += [row(measure, where, size, "function") for where in ("id", "ood")]
        if variant == "longer":
            measured.append(row("kl_added", "documents", -0.001, "perturbation"))
        trace = 40 * FLATTER[kind] * math.exp(0.1 * math.sin(5 * seed))
        flat = {"gn_trace": trace, "top_eigenvalue": trace / 5, "gn_top_eigenvalue": trace / 5,
                "relative_sharpness": (3 if kind == "rescaled" else 3 * FLATTER[kind]) * (1 + 0.01 * seed),
                "parameter_norm": 20 * FLATTER[kind] ** -0.2 + 0.1 * seed, "effective_rank": 5.0 + 0.2 * seed}  # fmt: skip
        count = MODELS[model] * (2 if variant in ("widened", "copied", "deepened", "blank") else 1)
        measured += [row(m, "support", value, "flatness", count=count) for m, value in flat.items()]
        for m, value in (
            ("trace_residual", 0.01 * trace),
            ("hessian_trace", 1.01 * trace),
            ("hutchinson_trace", trace),
        ):
            measured.append(row(m, "support", value, "flatness", "probes", 0.02 * trace))
        for task, (protocol, n), rate in itertools.product(TASKS, LEARNT, RATES):
            losses = curve(kind, seed, task, protocol, n, rate)
            lane, (loss, right) = f"{task}.{protocol}.{n}", TASKS[task]
            steps, last = steps_to_threshold(losses), losses[STEPS[-1]]
            found = {"steps_to_threshold": steps, "log_steps_to_threshold": math.log(max(steps, 1.0)),
                     "reached": float(not math.isnan(steps)), loss: last, right: 1 / (1 + last),
                     "forgetting": 0.3 / (1 + last)}  # fmt: skip
            found |= {"majority_rate": MAJORITY} if task == "root" else {}
            chance = {right: MAJORITY} if task == "root" else {}
            chosen = rate == SAME[task]
            for where in (f"{lane}@{rate:g}", *([lane] if chosen else [])):
                measured += [row(m, where, value, chance=chance.get(m, math.nan)) for m, value in found.items()]
            if chosen:
                measured += [
                    row(f"{loss}_at_{step}", lane, value) for step, value in losses.items() if step != STEPS[-1]
                ]
                measured += [row("chosen_rate", lane, rate), row("rate_at_edge", lane, float(rate in (3e-4, 3e-3)))]
            done += [
                {**identity, "evaluator": "fine_tuning", "prompt_set": f"{lane}@{rate:g}", "prompt": f"step {step}",
                 "weight": 1.0, "decoding": "exact", "replicate": 0, "completion": "", "finished": True, "step": step,
                 "rate": rate, "task_loss": value, "task_right": 1 / (1 + value), "validation_loss": value,
                 "validation_accuracy": math.nan}
                for step, value in losses.items()
            ]  # fmt: skip
    return {"certificates": certificates, "measurements": measured, "completions": done}


def write_fine_tuning_run(directory: Path) -> Path:
    """A whole run directory; one seed of what was trained longer is not saturated."""
    atomic.write_json(directory / "resolved.json", resolved())
    atomic.write_json(directory / "env.json", {"versions": {"python": "3.11.9"}, "device": "cpu", "seconds": 700.0})
    for name, rows in tables().items():
        atomic.write_parquet(directory / f"{name}.parquet", pd.DataFrame(rows))
    return directory
