"""The one contract of every evaluator: a model in, measurements out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from lmtest.evaluators.contract import Evaluated
from lmtest.models.contract import LanguageModel


@dataclass(frozen=True)
class Size:
    """Of a prompt set: how many prompts, and the probability that a string of the language starts with one of them."""

    count: int
    mass: float


class Evaluator(Protocol):
    """An evaluator of one language: its prompts are fixed, models come and go.

    Tables are without the columns that only the caller knows: study, language, model, variant, saturated.
    """

    @property
    def name(self) -> str:
        """What stands in the column `evaluator`."""

    @property
    def longest(self) -> int:
        """Symbols of the longest string, completion included, that a model has to read."""

    @property
    def last_probe_is_all(self) -> bool:
        """Whether the probe of the last step is what `evaluate` measures: then it is not measured twice."""

    def measured(self) -> Evaluated:
        """What there will be a value, or an outcome for each prompt, of."""

    def sizes(self) -> dict[str, Size]:
        """The prompt sets by name."""

    def probed_at(self, steps: int, every: int) -> Collection[int]:
        """The steps of a training of `steps` at which to probe; `every`: how often the study probes."""

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
        """What is followed along training, as rows of measurements."""

    def evaluate(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measurements, a row a seed and measure, and completions, a row a seed and prompt; `seed` is of the decoding."""


def regularly(steps: int, every: int) -> set[int]:
    """Steps 0, `every`, 2·`every`, … and the last one."""
    return {*range(0, steps + 1, every), steps}
