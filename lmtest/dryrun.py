"""What a study would do: its cells, what they cost (a few real updates are timed), and whether its claims are attainable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lmtest.cells import Workshop, cells
from lmtest.claims import attainability
from lmtest.languages import Language
from lmtest.pool import one_thread
from lmtest.study import Evaluators, Study
from lmtest.training.loop import Steps

TIMED_UPDATES = 3


@dataclass(frozen=True)
class DryRun:
    """Tables of a dry run; `seconds` is the estimated training time on the asked number of jobs."""

    cells: pd.DataFrame
    claims: pd.DataFrame
    seconds: float


def dry_run(name: str, study: Study, languages: Mapping[str, Language], jobs: int, device: str) -> DryRun:
    """Builds one stack of every language × model × variant, times a few updates, and adds up."""
    workshop = Workshop(name, study, dict(languages), Path(), device)
    update_seconds: dict[tuple[str, str, str], float] = {}
    rows = []
    for cell in cells(study, languages):
        kind = (cell.language, cell.model, cell.variant)
        config, language = workshop.training(cell), languages[cell.language]
        if kind not in update_seconds:
            prompts = workshop.evaluators[cell.language].rule_extrapolation.trainable
            with one_thread():
                steps = Steps(workshop.build(cell), language, study.variants[cell.variant], prompts, config)
                steps.update(0, [])
                began = time.perf_counter()
                for step in range(1, 1 + TIMED_UPDATES):
                    steps.update(step, [])
                update_seconds[kind] = (time.perf_counter() - began) / TIMED_UPDATES
        parameters = study.models[cell.model].n_parameters(language.vocabulary)
        seconds = update_seconds[kind] * config.steps
        rows.append((*kind, list(cell.seeds), parameters, config.steps, round(seconds, 3)))
    table = pd.DataFrame(
        rows, columns=["language", "model", "variant", "seeds", "parameters", "steps", "training_seconds"]
    )
    counts = {language: _prompt_counts(evaluators) for language, evaluators in workshop.evaluators.items()}
    parallel = min(jobs, len(table))
    return DryRun(
        table,
        attainability(study.claims, len(study.seed_list), counts),
        float(table["training_seconds"].sum()) / parallel,
    )


def _prompt_counts(evaluators: Evaluators) -> dict[str, int]:
    counts = {key: len(prompts.rows) for key, prompts in evaluators.rule_extrapolation.prompt_sets.items()}
    return counts | {"ood": sum(size for key, size in counts.items() if key.startswith("ood"))}
