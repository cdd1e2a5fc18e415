"""What a study would do: its cells, what they cost (a few real updates are timed), and whether its claims are attainable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lmtest.cells import Workshop, cells
from lmtest.claims import attainability
from lmtest.languages import Language
from lmtest.pool import one_thread
from lmtest.study import Study
from lmtest.training.loop import Steps

TIMED_UPDATES = 3


@dataclass(frozen=True)
class DryRun:
    """Tables of a dry run; `seconds` is the estimated training time on the asked number of jobs."""

    cells: pd.DataFrame
    claims: pd.DataFrame
    seconds: float


def dry_run(name: str, study: Study, language: Language, jobs: int, device: str) -> DryRun:
    """Builds one stack of every model × variant, times a few updates, and adds up."""
    workshop = Workshop(name, study, language, Path(), device)
    sets = study.evaluators.rule_extrapolation.evaluator(language).prompt_sets
    prompts = sets["ood_trained"].rows
    counts = {name: len(prompt_set.rows) for name, prompt_set in sets.items()}
    counts["ood"] = counts["ood_trained"] + counts["ood_heldout"]
    update_seconds: dict[tuple[str, str], float] = {}
    rows = []
    for cell in cells(study):
        kind = (cell.model, cell.variant)
        if kind not in update_seconds:
            with one_thread():
                steps = Steps(workshop.build(cell), language, study.variants[cell.variant], prompts, study.training)
                steps.update(0, [])
                began = time.perf_counter()
                for step in range(1, 1 + TIMED_UPDATES):
                    steps.update(step, [])
                update_seconds[kind] = (time.perf_counter() - began) / TIMED_UPDATES
        parameters = study.models[cell.model].n_parameters(language.vocabulary)
        seconds = update_seconds[kind] * study.training.steps
        rows.append((cell.model, cell.variant, list(cell.seeds), parameters, study.training.steps, round(seconds, 3)))
    table = pd.DataFrame(rows, columns=["model", "variant", "seeds", "parameters", "steps", "training_seconds"])
    parallel = min(jobs, len(table))
    return DryRun(
        table,
        attainability(study.claims, len(study.seed_list), counts),
        float(table["training_seconds"].sum()) / parallel,
    )
