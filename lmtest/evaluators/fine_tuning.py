"""Fine-tuning: how many steps and examples does a model need to learn something else, and what does it forget of the old?

Reizinger et al., ICML 2024 (arXiv 2405.01964), case study 3; Liu et al., ICML 2023 (arXiv 2210.14199). Models of one function
may learn a task at different speed, which is a matter of the learning rate too. So every rate of a grid has results of its
own; beside them stand those of the rate with the lowest validation loss at the last step, by the same rule for every seed,
and whether it was the first or last of the grid. Strings, their order and the strings to validate on are the same for all models
of a seed, so that their differences are paired. Speed is the first of the evaluated steps at which a threshold is met; its
resolution is that of those steps, nothing is interpolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.evaluators.contract import Evaluated
from lmtest.evaluators.downstream import Count, Examples, Protocol, Sizes, Task, TaskTable
from lmtest.evaluators.evaluator import Size
from lmtest.evaluators.exams import Exam, label_scores, language_exam, row_excess, summed
from lmtest.evaluators.learning_curves import Curve, Lane, Outcome, measures
from lmtest.evaluators.tuning import Learner, learner, read_batch, read_examples, tune
from lmtest.languages.base import Language
from lmtest.measurement import TYPES, Interval
from lmtest.models.contract import LanguageModel
from lmtest.models.stack import StackedModel
from lmtest.models.transformer import Transformer
from lmtest.seeds import generator
from lmtest.training.batches import Batch, cross_entropy
from lmtest.validation import Table

NAME = "fine_tuning"


class Assignment(NamedTuple):
    """A task, and how it is learnt: every protocol × number of examples × learning rate; evaluated `at` these of its `steps`."""

    task: Task
    protocols: list[Protocol]
    examples: list[Count]
    rates: dict[Protocol, list[float]]
    steps: int
    at: list[int]


class FineTuningConfig(Table):
    """The `[evaluators.fine_tuning]` table of a study."""

    tasks: list[TaskTable] = Field(min_length=1)
    protocols: list[Protocol] = Field(["full"], min_length=1)
    learning_rates: list[float] = Field([3e-4, 1e-3, 3e-3], min_length=1)
    steps: int = Field(300, ge=1)
    evaluate_at: list[int] = []
    """Steps at which models are evaluated; the first (0) and the last always."""
    examples: list[Count] = Field(["all"], min_length=1)
    """Numbers of strings to train on. "all": every string of a continuation with its exact weight where that is possible,
    else all `strings`."""
    batch: int = Field(32, ge=1)
    """Strings of an update; all of them where there are fewer."""
    strings: int = Field(4096, ge=1)
    """Of each seed to train on, at most; drawn once, from the task's exact law."""
    validation: float = Field(0.25, gt=0, le=1)
    """Strings to validate on for each of `strings`; as many to test on, where no exact law is summed."""
    threshold: float = Field(0.05, gt=0, allow_inf_nan=False)
    """Of a continuation: the excess over the exact floor, nats per string, below which it is learnt."""
    accuracy_threshold: float = Field(0.9, gt=0, le=1)
    """Of parse labels: the accuracy on the strings to validate on, from which on they are learnt."""
    data_seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> FineTuningConfig:
        for task in self.tasks:
            grids = task.learning_rates
            if isinstance(grids, dict) and (none := [p for p in task.protocols or self.protocols if not grids.get(p)]):
                raise ValueError(f"task {task.name!r}: expected learning_rates for {none[0]}, found none; add some")
        rates = [*self.learning_rates, *(rate for task in self.tasks for rate in _all_rates(task.learning_rates))]
        if wrong := [rate for rate in rates if not 0 < rate < math.inf]:
            raise ValueError(f"expected learning_rates > 0, found {wrong[0]}; leave it out")
        last = max(self.steps, *(task.steps or 0 for task in self.tasks))
        if beyond := [step for step in self.evaluate_at if not 0 <= step <= last]:
            raise ValueError(f"expected evaluate_at within 0 … {last}, found {beyond[0]}; raise steps, or leave it out")
        asked = [n for owner in (self, *self.tasks) for n in owner.examples or []]
        if most := [n for n in asked if n != "all" and not 1 <= n <= self.strings]:
            raise ValueError(
                f"expected examples within 1 … {self.strings}, found {most[0]}; raise strings, or lower it"
            )
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError("expected tasks of different names; rename one")
        return self

    def assignment(self, table: TaskTable, task: Task) -> Assignment:
        """How one task is learnt: as its own table says, else as this one does."""
        steps = table.steps or self.steps
        protocols = list(dict.fromkeys(table.protocols or self.protocols))
        grids = table.learning_rates or self.learning_rates
        return Assignment(
            task,
            protocols,
            list(dict.fromkeys(table.examples or self.examples)),
            {p: sorted(set(grids[p] if isinstance(grids, dict) else grids)) for p in protocols},
            steps,
            sorted({0, *(step for step in self.evaluate_at if step < steps), steps}),
        )

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.strings, max(1, round(self.validation * self.strings)), self.data_seed)

    def evaluator(self, language: Language) -> FineTuning:
        """Raises UsageError where a task does not fit the language, or has more classes than there are examples."""
        return FineTuning(language, self)


def _all_rates(grids: list[float] | dict[Protocol, list[float]] | None) -> list[float]:
    return [rate for grid in grids.values() for rate in grid] if isinstance(grids, dict) else grids or []


@dataclass(frozen=True)
class Course:
    """All that a stack reads while it learns one task by one protocol: tokens, or, for a probe, their hidden states."""

    examples: Examples
    everything: Batch | None
    validation: Batch
    exam: Exam
    home: Exam
    """The old language, to see what is forgotten of it."""
    before: Tensor
    """The excess over its floor before, by row [S, B]."""

    def read(self, model: Transformer, task: Task) -> Course:
        """Read once by a model that stays as it is; the old language too, where the new output layer is to know it."""

        def exam(exam: Exam) -> Exam:
            return Exam(read_batch(model, exam.batch), exam.count, exam.exact)

        return Course(
            read_examples(model, self.examples),
            None if self.everything is None else read_batch(model, self.everything),
            read_batch(model, self.validation),
            exam(self.exam),
            exam(self.home) if task.classes is None else self.home,
            self.before,
        )


@dataclass(frozen=True)
class FineTuning:
    """The evaluator for one language; what is no stack has no parameters, and no rows.

    Probes and parse labels read hidden states: other architectures than transformers have no rows of them.
    """

    language: Language
    config: FineTuningConfig

    name = NAME
    last_probe_is_all = False

    def __post_init__(self) -> None:
        for task, _, examples, *_ in self.assignments:
            few = min((n for n in examples if n != "all"), default=self.config.strings)
            if task.classes is not None and few < len(task.classes):
                raise UsageError(
                    f"task {task.name!r}: expected at least as many examples as classes ({len(task.classes)}: "
                    f"{', '.join(task.classes)}), found {few}; raise it"
                )

    @cached_property
    def assignments(self) -> list[Assignment]:
        tables = self.config.tasks
        return [self.config.assignment(t, t.task(self.language, self.config.sizes)) for t in tables]

    @property
    def longest(self) -> int:
        return max(assignment.task.longest for assignment in self.assignments)

    def measured(self) -> Evaluated:
        """What there will be a value of, for transformers."""
        values = {
            (measure, f"{task.name}.{protocol}.{n}{suffix}", "exact")
            for task, protocols, examples, rates, _, at in self.assignments
            for protocol, n in itertools.product(protocols, examples)
            for suffix, found in measures(task, at, rates[protocol]).items()
            for measure in found
        }
        return Evaluated(values, set())

    def sizes(self) -> dict[str, Size]:
        return {}

    def probed_at(self, steps: int, every: int) -> Sequence[int]:
        return ()

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
        return []

    def evaluate(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measurements, a row a seed and measure, and learning curves, a row a seed, rate and evaluated step."""
        rows: list[dict[str, Any]] = []
        points: list[dict[str, Any]] = []
        for lane in self.lanes(model) if isinstance(model, StackedModel) else ():
            rows += lane.rows(seeds)
            points += lane.points(seeds)
        return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES), pd.DataFrame(points)

    def lanes(self, model: StackedModel) -> Iterator[Lane]:
        """Every task, protocol and number of examples, learnt by copies of the model."""
        c = self.config
        for assignment in self.assignments:
            task = assignment.task
            with_tokens = self._course(model, task, assignment.examples)
            threshold = c.threshold if task.classes is None else c.accuracy_threshold
            for protocol in assignment.protocols:
                course = with_tokens
                if protocol == "probe" or task.classes is not None:
                    if not isinstance(model, Transformer):
                        continue
                    course = course.read(model, task) if protocol == "probe" else course
                for n in assignment.examples:
                    curves = {
                        r: self._learn(model, assignment, protocol, course, n, r) for r in assignment.rates[protocol]
                    }
                    yield Lane(NAME, f"{task.name}.{protocol}.{n}", task, curves, threshold)

    def _course(self, model: StackedModel, task: Task, counts: Sequence[Count]) -> Course:
        c = self.config
        home = language_exam(model, self.language, c.sizes.held_out, generator(c.data_seed, "forgetting"))
        home = home.to(model.device)
        everything = task.everything(model) if "all" in counts else None
        needed = [n for n in counts if n != "all"] + [c.strings] * ("all" in counts and everything is None)
        with torch.no_grad():
            before = row_excess(model.logits(home.batch.tokens, None, home.batch.tree), home)
        return Course(
            task.examples(model.seeds).first(max(needed, default=1)).to(model.device),
            None if everything is None else everything.to(model.device),
            task.validation.to(model.device),
            task.exam(model).to(model.device),
            home,
            before,
        )

    def _learn(
        self,
        model: StackedModel,
        assignment: Assignment,
        protocol: Protocol,
        course: Course,
        n: Count,
        rate: float,
    ) -> Curve:
        """The curve of a copy of the model, all seeds at once."""
        c, task, steps = self.config, assignment.task, assignment.steps
        whole = course.everything if n == "all" else None
        examples = course.examples.first(c.strings if n == "all" else n)
        if whole is None and (shown := examples.inputs.shape[1]) <= c.batch:  # every step would show the same
            whole = examples.batch(torch.arange(shown, device=model.device).expand(len(model.seeds), shown))
        order = torch.from_numpy(self._order(task, steps, model.seeds, examples.inputs.shape[1])).to(model.device)

        def lesson(step: int) -> Batch:
            return examples.batch(order[:, step]) if whole is None else whole

        def examine(pupil: Learner, step: int) -> Outcome:
            scores = task.score(pupil.logits(course.exam.batch), course.exam)
            answers = pupil.logits(course.validation)
            loss = cross_entropy(answers.double(), course.validation).tolist()
            accuracy = [math.nan] * len(loss)
            if task.classes is not None:
                accuracy = label_scores(answers, course.validation)[1].mean(-1).tolist()
            return Outcome(scores, loss, accuracy, forgotten(pupil) if step == steps else None)

        def forgotten(pupil: Learner) -> list[Interval]:
            batch = course.home.batch
            new = task.classes is None  # then the answers of a new output layer are those to the old language too
            logits = pupil.logits(batch) if new else pupil.model.logits(batch.tokens, None, batch.tree)
            return summed(row_excess(logits, course.home) - course.before, course.home)

        pupil = learner(model, protocol, None if task.classes is None else len(task.classes))
        return tune(pupil, lesson, rate, steps, assignment.at, examine)

    def _order(self, task: Task, steps: int, seeds: Sequence[int], n: int) -> np.ndarray:
        """Which of n strings each seed is shown at each step [S, steps, b]: one random order of all after the other."""
        c = self.config
        b = min(c.batch, n)
        epochs = range(math.ceil(steps * b / n))
        orders = [
            np.concatenate([generator(c.data_seed, "order", task.name, s, e).permutation(n) for e in epochs])
            for s in seeds
        ]
        return np.stack(orders)[:, : steps * b].reshape(len(seeds), steps, b)
