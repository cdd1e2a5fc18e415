"""What a study would do: its cells, what they cost (a few real updates are timed), and whether its claims are attainable."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lmtest.cells import Cell, cells
from lmtest.claims import attainability
from lmtest.evaluators.evaluator import Evaluator
from lmtest.languages import Language
from lmtest.study import Study
from lmtest.threads import one_thread
from lmtest.training.loop import Steps
from lmtest.variants.preserve.tables import Preserving
from lmtest.workshop import Workshop

TIMED_UPDATES = 3
LARGE = 20_000_000
"""Parameters of a stack that is not timed on the CPU: one update takes minutes, and nobody trains it there."""
LONG = 2.0
"""Seconds of an update beyond which one is enough."""


@dataclass(frozen=True)
class DryRun:
    """Tables of a dry run; `seconds` is the estimated training time on the asked number of jobs.

    It is NaN for cells that are too large to be timed here, and these are not counted.
    """

    cells: pd.DataFrame
    claims: pd.DataFrame
    seconds: float


def dry_run(
    name: str,
    study: Study,
    languages: Mapping[str, Language],
    jobs: int,
    device: str,
    tell: Callable[[str], None] = lambda text: None,
) -> DryRun:
    """Builds one stack of every language × model × variant, times a few updates where it trains, and adds up.

    `tell` is told what is being timed.
    """
    workshop = Workshop(name, study, dict(languages), Path(), device)
    update_seconds: dict[tuple[str, str, str], float] = {}
    rows = []
    for cell in cells(study, languages):
        kind = (cell.language, cell.model, cell.variant)
        steps = workshop.steps(cell)
        model, derivation = study.models[cell.model], study.derived.get(cell.variant)
        model = derivation.config_of(model) if isinstance(derivation, Preserving) else model
        parameters = model.n_parameters(languages[cell.language].vocabulary)
        too_large = device == "cpu" and parameters * len(cell.seeds) > LARGE
        if kind not in update_seconds:
            tell(f"timing a few updates of {cell.model}, {cell.variant}, on {cell.language}")
            update_seconds[kind] = (
                _update_seconds(workshop, cell) if steps and not too_large else math.nan if steps else 0.0
            )
        rows.append((*kind, list(cell.seeds), parameters, steps, round(update_seconds[kind] * steps, 3)))
    table = pd.DataFrame(
        rows, columns=["language", "model", "variant", "seeds", "parameters", "steps", "training_seconds"]
    )
    counts = {name: prompt_counts(evaluators) for name, evaluators in workshop.evaluators.items()}
    parallel = min(jobs, len(table))
    return DryRun(
        table,
        attainability(study.claims, len(study.seed_list), counts),
        float(table["training_seconds"].sum()) / parallel,
    )


def _update_seconds(workshop: Workshop, cell: Cell) -> float:
    with one_thread():
        steps = workshop.rehearse(cell)
        first = _seconds(steps, 0)
        if first > LONG:
            return first  # what the first one takes beside its work does not show
        return statistics.mean(_seconds(steps, step) for step in range(1, 1 + TIMED_UPDATES))


def _seconds(steps: Steps, step: int) -> float:
    began = time.perf_counter()
    steps.update(step, [])
    return time.perf_counter() - began


def prompt_counts(evaluators: Sequence[Evaluator]) -> dict[str, int]:
    """How many prompts each set has; those out of distribution together are "ood"."""
    counts = {name: size.count for evaluator in evaluators for name, size in evaluator.sizes().items()}
    outside = sum(count for name, count in counts.items() if name.startswith("ood"))
    return counts | ({"ood": outside} if outside else {})
