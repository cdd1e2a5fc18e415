"""Learning curves of fine-tuning, and what is read off them: how fast, how well, at which learning rate, at what price."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmtest.evaluators.downstream import Scores, Task
from lmtest.measurement import Interval, measurement

NONE: Interval = (math.nan, math.nan, math.nan)


class Outcome(NamedTuple):
    """What is known of S seeds at one step: the exam, the loss (nats) and the accuracy (NaN without classes) on the strings to
    validate on [S], and after the last step what has been forgotten of the old language, nats per string."""

    scores: Scores
    validation: list[float]
    accuracy: list[float]
    forgetting: list[Interval] | None


Curve = Mapping[int, Outcome]
"""By step, ascending."""


@dataclass(frozen=True)
class Lane:
    """One task learnt by one protocol from so many examples: its name is the prompt set, `curves` are by learning rate.

    `threshold`: the excess below which, or with classes the validation accuracy from which on, the task is learnt.
    """

    evaluator: str
    name: str
    task: Task
    curves: Mapping[float, Curve]
    threshold: float

    def chosen(self, i: int) -> float:
        """The rate with the lowest validation loss of seed number i at the last step; one that diverged has none.

        Each seed chooses for itself: the choice cannot depend on which seeds share a stack.
        """
        last = {rate: curve[max(curve)].validation[i] for rate, curve in self.curves.items()}
        return min(last, key=lambda rate: math.inf if math.isnan(last[rate]) else last[rate])

    def rows(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Measurements at each seed's chosen rate, under the lane's name, and at each rate, under NAME@RATE."""
        edge, rows = {min(self.curves), max(self.curves)}, []
        for i, s in enumerate(seeds):
            chosen = self.chosen(i)
            rows += self._measures(i, s, chosen, self.name)
            curve = self.curves[chosen]
            for step in sorted(curve)[:-1]:
                scores = curve[step].scores
                rows.append(self._row(s, f"{self.task.loss}_at_{step}", self.name, scores.loss[i], scores.strings))
                rows.append(self._row(s, f"{self.task.right}_at_{step}", self.name, scores.right[i], scores.answers))
            for measure, value in (("chosen_rate", chosen), ("rate_at_edge", float(len(edge) > 1 and chosen in edge))):
                rows.append(self._row(s, measure, self.name, (value, value, value), len(self.curves)))
            for rate in self.curves:
                rows += self._measures(i, s, rate, f"{self.name}@{rate:g}")
        return rows

    def _measures(self, i: int, s: int, rate: float, name: str) -> list[dict[str, Any]]:
        curve = self.curves[rate]
        last = curve[max(curve)]
        steps = self.steps_to_threshold(curve, i)
        reached = float(not math.isnan(steps[0]))
        logs = (math.log(max(steps[0], 1)), math.log(max(steps[1], 1)), math.log(max(steps[2], 1))) if reached else NONE
        assert last.forgetting is not None
        rows = [
            self._row(s, "steps_to_threshold", name, steps, int(reached)),
            self._row(s, "log_steps_to_threshold", name, logs, int(reached)),
            self._row(s, "reached", name, (reached, reached, reached), 1),
            self._row(s, self.task.loss, name, last.scores.loss[i], last.scores.strings),
            self._row(s, self.task.right, name, last.scores.right[i], last.scores.answers),
            self._row(s, "forgetting", name, last.forgetting[i], 1),
        ]
        if self.task.classes is not None:
            majority = self.task.majority_rate
            rows.append(self._row(s, "majority_rate", name, (majority, majority, majority), last.scores.answers))
        return rows

    def steps_to_threshold(self, curve: Curve, i: int) -> Interval:
        """The first evaluated step of seed number i at which the task is learnt, between the one before and itself; NaN if none."""
        before = 0
        for step in sorted(curve):
            outcome = curve[step]
            if self.task.classes is None:
                met = outcome.scores.loss[i][2] <= self.threshold  # certified: by the upper end
            else:
                met = outcome.accuracy[i] >= self.threshold
            if met:
                return float(step), float(before), float(step)
            before = step
        return NONE

    def points(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """The curves, a row a seed, rate and evaluated step: the prompt is the step, and there is no completion."""
        return [
            {
                "seed": s,
                "evaluator": self.evaluator,
                "prompt_set": f"{self.name}@{rate:g}",
                "prompt": f"step {step}",
                "weight": 1.0,
                "decoding": "exact",
                "replicate": 0,
                "completion": "",
                "finished": True,
                "step": step,
                "rate": rate,
                "task_loss": outcome.scores.loss[i][0],
                "task_right": outcome.scores.right[i][0],
                "validation_loss": outcome.validation[i],
                "validation_accuracy": outcome.accuracy[i],
            }
            for rate, curve in self.curves.items()
            for step, outcome in curve.items()
            for i, s in enumerate(seeds)
        ]

    def _row(self, seed: int, measure: str, prompt_set: str, interval: Interval, count: int) -> dict[str, Any]:
        accuracy = self.task.classes is not None and measure.split("_at_")[0] == self.task.right
        chance = self.task.majority_rate if accuracy else math.nan
        return measurement(seed, self.evaluator, measure, prompt_set, interval, count, chance=chance)


def measures(task: Task, steps: Sequence[int], rates: Sequence[float]) -> dict[str, set[str]]:
    """What a lane gives values of: by what its name is followed by ("" or "@RATE"), given the evaluated steps."""
    always = {"steps_to_threshold", "log_steps_to_threshold", "reached", task.loss, task.right, "forgetting"}
    always |= set() if task.classes is None else {"majority_rate"}
    once = {f"{measure}_at_{step}" for measure in (task.loss, task.right) for step in steps[:-1]}
    return {"": always | once | {"chosen_rate", "rate_at_edge"}} | {f"@{rate:g}": always for rate in rates}
