"""A synthetic run, as the pipeline would write it: of one language, and of several with several architectures.

3 variants × 8 seeds on the 251 OOD prompts of aⁿbⁿ, reference models and claims; no model is trained.
"""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmtest import atomic

SEEDS = range(8)
REFERENCES = ("language", "rule_keeper", "normative", "ngram", "uniform", "stop")
COLUMN = {measure: measure for measure in ("R1", "R2_completion", "grammatical")}
COLUMN |= {"R1_finished": "R1", "finish_rate": "finished"}
RATE = {"normal": 0.43, "adversarial": 0.0, "oracle": 1.0}
EVIL = '<script>alert("&")</script>'
PROMPTS = ["".join(p) for p in itertools.product("ab", repeat=8)]


def is_id(prompt: str) -> bool:
    return "ba" not in prompt and prompt.count("a") >= prompt.count("b")


OOD = [prompt for prompt in PROMPTS if not is_id(prompt)]
SETS = {
    "id": [prompt for prompt in PROMPTS if is_id(prompt)],
    "ood": OOD,
    "ood_trained": OOD[::2],
    "ood_heldout": OOD[1::2],
    "empty": [""],
}


def resolved() -> dict[str, Any]:
    published = {"measure": "R1_finished", "prompt_set": "ood", "decoding": "greedy", "source": "paper, table 1"}
    return {
        "schema_version": 2,
        "name": "rule_extrapolation",
        "title": f"Rule extrapolation {EVIL}",
        "config": {"claims": [{"id": "same_loss", "kind": "equivalence", "measure": "kl", "margin": 0.02}]},
        "languages": {
            "anbn": {
                "name": "anbn",
                "title": "aⁿbⁿ, n uniform on 1…128",
                "source": "position paper, section 3",
                "symbols": ["a", "b"],
                "rules": {"R1": 'count = "a == b"', "R2": 'regex = "a*b*"'},
                "entropy": {"value": math.log(128), "half_width": 0.0, "exact": True},
                "mean_length": 129.0,
                "models": {"transformer": {"layers": 5, "width": 10, "parameters": 110_076}},
                "epsilon": 0.01,
                "prompt_sets": {name: {"count": len(of), "mass": float(name == "id")} for name, of in SETS.items()},
            }
        },
        "published": [
            {"label": "Normal", "variant": "normal", "value": 0.437, "spread": 0.045, "seeds": 46, **published},
            {"label": "Normal, larger", "variant": "normal", "value": 0.462, "spread": 0.076, "seeds": 34, **published},
            {"label": "Adversarial", "variant": "adversarial", "value": 0.0, "spread": 0.0, "seeds": 50, **published},
            {"label": "Oracle", "variant": "oracle", "value": 0.83, "spread": 0.105, "seeds": 44, "note": EVIL}
            | published,
        ],
    }


def completions(rng: np.random.Generator, study: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for variant, seed in itertools.product(RATE, SEEDS):
        for prompt in [*PROMPTS, ""]:
            kind = "id" if is_id(prompt) else "ood_trained" if prompt in SETS["ood_trained"] else "ood_heldout"
            kind = "empty" if prompt == "" else kind
            d = prompt.count("a") - prompt.count("b")
            slope = 1.4 - 0.13 * abs(d) if variant == "normal" else 1.0
            good = kind in ("id", "empty") or rng.random() < RATE[variant] * slope
            excess = d if good else d + int(rng.integers(1, 4))
            finished = kind in ("id", "empty") or rng.random() < (0.97 if variant == "oracle" else 0.85)
            completion = "b" * max(excess, 0) + "a" * max(-excess, 0) if finished else "b" * 120
            total = prompt + completion
            r1 = total.count("a") == total.count("b")
            rows.append(
                {
                    **study, "model": "transformer", "variant": variant, "seed": seed, "prompt_set": kind,
                    "evaluator": "rule_extrapolation", "prompt": prompt, "decoding": "greedy", "replicate": 0,
                    "completion": completion, "finished": finished,
                    "grammatical": finished and r1 and "ba" not in total,
                    "broken": "" if not kind.startswith("ood") else "R2" if "ba" in prompt else "joint",
                    "R1": r1 and finished, "R2_completion": "ba" not in completion,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def measurements(done: pd.DataFrame, certificates: pd.DataFrame, study: dict[str, Any]) -> pd.DataFrame:
    chance = {"id": 0.031, "ood": 0.047, "ood_trained": 0.046, "ood_heldout": 0.048, "empty": 0.09}
    saturated = certificates.set_index(["variant", "seed"])["saturated"]
    common = {**study, "evaluator": "rule_extrapolation"}
    rows = []
    for (variant, seed), part in done.groupby(["variant", "seed"]):
        for name, decoding in itertools.product(SETS, ("greedy", "sampled")):
            items = part[part["prompt"].isin(SETS[name])]
            for measure, column in COLUMN.items():
                value, n = float(items[column].mean()), len(items)
                half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
                rows.append(
                    {
                        **common, "model": "transformer", "variant": variant, "seed": seed, "measure": measure,
                        "prompt_set": name, "decoding": decoding, "value": value, "lower": max(value - half, 0),
                        "upper": min(value + half, 1), "count": n, "chance": chance[name],
                        "saturated": bool(saturated[variant, seed]),
                    }
                )  # fmt: skip
    for model, name, decoding in itertools.product(REFERENCES, SETS, ("greedy", "sampled")):
        dead = model == "language" and name.startswith("ood")
        value = {
            "language": 1.0,
            "rule_keeper": 1.0,
            "normative": 0.61,
            "ngram": 0.33,
            "uniform": chance[name],
            "stop": 69 / 251,
        }[model]
        rows.append(
            {
                **common, "model": model, "variant": "reference", "seed": 0, "measure": "R1", "prompt_set": name,
                "decoding": decoding, "value": math.nan if dead else value, "lower": math.nan, "upper": math.nan,
                "count": 0 if dead else len(SETS[name]), "chance": chance[name], "saturated": model == "language",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def write_run(directory: Path) -> Path:
    """A whole run directory, as the pipeline would write it."""
    rng = np.random.default_rng(7)
    study = {"study": "rule_extrapolation", "language": "anbn"}
    rows = []
    for variant, seed in itertools.product(RATE, SEEDS):
        kl = float(rng.lognormal(math.log(0.004), 0.35))
        kl = 0.018 if (variant, seed) == ("adversarial", 3) else kl
        rows.append(
            {
                **study, "model": "transformer", "variant": variant, "seed": seed, "kl": kl, "kl_lower": 0.9 * kl,
                "kl_upper": 1.12 * kl, "kl_per_token": kl / 130, "exact": False, "saturated": 1.12 * kl < 0.01,
            }
        )  # fmt: skip
    certificates = pd.DataFrame(rows)
    done = completions(rng, study)
    table = measurements(done, certificates, study)
    ends = table.query("measure == 'R1' and prompt_set == 'ood' and decoding == 'greedy' and variant != 'reference'")
    paths = []
    for (_, end), kl in zip(ends.iterrows(), certificates.sort_values(["variant", "seed"])["kl"], strict=True):
        for i, share in enumerate(np.linspace(0, 1, 25)):
            noise = rng.normal(0, 0.08 if end["variant"] == "normal" else 0.03) * (1 - share)
            value = 0.27 * (1 - share) ** 3 + end["value"] * (1 - (1 - share) ** 3) + noise
            excess = kl * (90 / kl) ** ((1 - share) ** 1.3)
            paths.append(end.to_dict() | {"value": float(np.clip(value, 0, 1)), "step": 400 * i, "kl": excess})
    claims = [
        ("same_loss", f"The losses agree within 0.02 nats {EVIL}", "supported", 0.0004, -0.002, 0.003, 1e-5, ""),
        ("oracle_above_normal", "The oracle keeps R1 more often", "supported", 0.55, 0.48, 0.61, 2e-4, "two-sided"),
        ("normal_above_chance", "Normal lies above chance", "undecided", 0.38, math.nan, math.nan, math.nan, "7 of 8"),
        ("adversarial_keeps", "Adversarial keeps R1", "refuted", -0.41, -0.45, -0.36, 1.0, ""),
    ]
    verdicts = [
        {
            "claim": f"rule_extrapolation/{name}", "statement": statement, "verdict": verdict, "effect": effect,
            "lower": lower, "upper": upper, "p_value": p, "seeds_used": 8, "seeds_asked": 8, "published": 0.437,
            "source": "paper", "p_raw": p, "test": "Welch", "note": note,
        }
        for name, statement, verdict, effect, lower, upper, p, note in claims
    ]  # fmt: skip
    atomic.write_json(directory / "resolved.json", resolved())
    atomic.write_json(
        directory / "env.json",
        {
            "versions": {"python": "3.11.9", "torch": "2.11.0"}, "device": "cpu", "threads": 2, "seconds": 5025.4,
            "git": {"commit": "0123abc", "dirty": False}, "command": "lmtest run runs/rule_extrapolation.toml",
        },
    )  # fmt: skip
    for name, frame in {"certificates": certificates, "measurements": table, "trajectory": pd.DataFrame(paths),
                        "completions": done, "verdicts": pd.DataFrame(verdicts)}.items():  # fmt: skip
        atomic.write_parquet(directory / f"{name}.parquet", frame)
    return directory


LANGUAGES = {"anbn_small": 0.0, "ban_small": 0.25, "brackets_nested_small": -0.2}
"""Names with what they add to every share: the prompts are those of aⁿbⁿ throughout."""
MODELS = {"linear": 0.05, "lstm": 0.4, "mamba": 0.3, "transformer": 0.62, "xlstm": 0.45, "gla": 0.5, "rotary": 0.7}
CLASSES = {"mass_R1_R2": 0.04, "mass_R1": 0.0, "mass_R2": 0.0, "mass_none": 0.0}


def write_study(directory: Path, languages: list[str] | None = None, seeds: int = 5) -> Path:
    """A run directory of 3 languages × 7 architectures, one variant, nothing held out, with short strings weighed."""
    names = list(LANGUAGES) if languages is None else languages
    rng = np.random.default_rng(11)
    about = resolved()
    [language] = about["languages"].values()
    sets = {"id": SETS["id"], "ood": OOD[::6], "empty": [""]}
    counts = {name: {"count": len(of), "mass": float(name == "id")} for name, of in sets.items()}
    models = {name: {"parameters": 100_000 + 7 * i, "training": {"steps": 3000}} for i, name in enumerate(MODELS)}
    about |= {
        "languages": {
            name: copy.deepcopy(language)
            | {"name": name, "title": f"{name} {EVIL}", "prompt_sets": counts, "models": models, "epsilon": 0.01}
            for name in names
        },
        "config": {"claims": [], "evaluators": {"rule_extrapolation": {"temperature": 0.8}}},
        "published": [
            {"label": "L3", "language": names[0], "model": "lstm", "variant": "normal", "measure": "R1_finished",
             "prompt_set": "ood", "value": 0.376, "spread": 0.209, "seeds": 8, "source": "figure 2"},
            {"label": "pilot", "language": names[0], "model": "people", "variant": "normal", "measure": "R1",
             "prompt_set": "ood", "value": 0.415, "seeds": 14, "source": "pilot"},
        ],
    }  # fmt: skip
    about["languages"][names[-1]]["entropy"] = {"value": 40.2, "half_width": 0.31, "exact": False}
    certificates, measured, paths, done = [], [], [], []
    for name, (model, level), seed in itertools.product(names, MODELS.items(), range(seeds)):
        identity = {"study": "languages", "language": name, "model": model, "variant": "normal", "seed": seed}
        kl = float(rng.lognormal(math.log(0.3 if model == "linear" else 0.004), 0.4))
        certificates.append(
            {**identity, "kl": kl, "kl_lower": 0.9 * kl, "kl_upper": 1.1 * kl, "kl_per_token": kl / 130, "exact": False,
             "saturated": 1.1 * kl < 0.01}
        )  # fmt: skip
        share = float(np.clip(level + LANGUAGES[name] + rng.normal(0, 0.06), 0, 1))
        common = {**identity, "evaluator": "rule_extrapolation", "saturated": 1.1 * kl < 0.01}
        for kind, decoding in itertools.product(sets, ("greedy", "sampled")):
            values = {"R1": share, "R1_finished": share / 0.9, "R2_completion": 0.9, "finish_rate": 0.9}
            for measure, value in values.items():
                value = min(1.0, value if decoding == "greedy" else 0.6 * value)
                measured.append(
                    {**common, "measure": measure, "prompt_set": kind, "decoding": decoding, "value": value,
                     "lower": max(0.0, value - 0.05), "upper": min(1.0, value + 0.05), "count": len(sets[kind]),
                     "chance": 0.11}
                )  # fmt: skip
        for step in (0, 1, 4, 17, 65, 250, 900, 3000):
            now = step / 3000
            excess = kl * (60 / kl) ** (1 - math.log1p(step) / math.log1p(3000))
            short = {"prompt_set": "strings", "decoding": "exact", "count": 511, "chance": 0.2, "kl": excess}
            for i, (measure, end) in enumerate(CLASSES.items()):
                mass = (
                    end
                    + 0.2 * (i + 1) * math.exp(-4 * math.log1p(step) / (i + 1))
                    + (0.01 * (1 - now) if i == 2 else 0)
                )
                row = common | short | {"evaluator": "string_mass", "measure": measure, "value": mass, "step": step}
                paths.append(row | {"lower": mass, "upper": mass})
            if step % 250 == 0:
                paths.append(measured[-8] | {"step": step, "kl": excess, "value": share * now, "prompt_set": "ood",
                                             "decoding": "greedy", "measure": "R1"})  # fmt: skip
        for prompt, (kind, of) in ((p, item) for item in sets.items() for p in item[1]):
            finished, kept = rng.random() < 0.9, rng.random() < share
            done.append(
                {**identity, "prompt_set": kind, "evaluator": "rule_extrapolation", "prompt": prompt, "replicate": 0,
                 "weight": 1 / len(of), "decoding": "greedy", "completion": "b" * int(rng.integers(0, 9)),
                 "finished": finished, "grammatical": False, "broken": "R2" if kind == "ood" else "",
                 "R1": finished and kept, "R2_completion": True}
            )  # fmt: skip
    for name, model in itertools.product(names, REFERENCES):
        identity = {"study": "languages", "language": name, "model": model, "variant": "reference", "seed": 0}
        kl = {"language": 0.0, "rule_keeper": 0.0, "stop": math.inf}.get(model, 3.2)
        certificates.append(
            {**identity, "kl": kl, "kl_lower": kl, "kl_upper": kl, "kl_per_token": kl, "exact": True,
             "saturated": kl == 0}
        )  # fmt: skip
        common = {**identity, "lower": math.nan, "upper": math.nan, "count": 42, "chance": 0.11, "saturated": kl == 0}
        for kind, decoding, measure in itertools.product(sets, ("greedy", "sampled"), ("R1", "finish_rate")):
            value = {"language": math.nan if kind == "ood" else 1.0, "uniform": 0.1, "stop": 0.275}.get(model, 0.7)
            measured.append(
                {**common, "evaluator": "rule_extrapolation", "measure": measure, "prompt_set": kind,
                 "decoding": decoding, "value": value}
            )  # fmt: skip
        for measure, mass in CLASSES.items():
            measured.append(
                {**common, "evaluator": "string_mass", "measure": measure, "prompt_set": "strings", "decoding": "exact",
                 "value": mass if model in ("language", "rule_keeper") else 0.1, "chance": 0.2}
            )  # fmt: skip
    atomic.write_json(directory / "resolved.json", about)
    atomic.write_json(directory / "env.json", {"versions": {"python": "3.11.9"}, "device": "cpu", "seconds": 2400.0})
    tables = {"certificates": certificates, "measurements": measured, "trajectory": paths, "completions": done}
    for table, rows in tables.items():
        atomic.write_parquet(directory / f"{table}.parquet", pd.DataFrame(rows))
    return directory


def write_comparison(directory: Path) -> pd.DataFrame:
    """published.parquet of the run that `write_study` writes: one row a verdict, and people."""
    verdicts = ["reproduced", "not reproduced", "was not saturated", "was below a trivial policy"]
    rows = [
        {
            "language": next(iter(LANGUAGES)), "model": model, "variant": "normal", "measure": "R1_finished",
            "prompt_set": "ood", "decoding": "greedy", "label": f"L3 {model}", "value": 0.4, "spread": 0.1, "seeds": 8,
            "their_excess": 0.2, "trivial": 0.275, "ours": 0.45, "ours_sd": 0.06, "ours_seeds": 5, "ours_saturated": 4,
            "difference": 0.05, "lower": -0.01, "upper": 0.11, "verdict": verdict, "comment": f"comment on {model}",
            "source": "arXiv 2409.13728", "note": EVIL,
        }
        for model, verdict in zip(("lstm", "mamba", "transformer", "xlstm"), verdicts, strict=True)
    ]  # fmt: skip
    rows.append(rows[0] | {"model": "people", "spread": math.nan, "verdict": None, "ours": math.nan})
    frame = pd.DataFrame(rows)
    atomic.write_parquet(directory / "published.parquet", frame)
    return frame


class Undrawn(dict[str, bytes | None]):
    """No picture at all, whatever its name: for a page of which the words alone matter."""

    def __missing__(self, name: str) -> None:
        return None
