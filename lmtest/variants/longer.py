"""A trained model trained on, past saturation: the same loss, with other parameters (Liu et al., ICML 2023, arXiv 2210.14199)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lmtest.training.config import MOST_STEPS, TrainingConfig
from lmtest.variants.derivation import Derivation


class Longer(Derivation):
    """`kind = "longer"`: so many steps more on what it was trained on, at a rate of its own, with a fresh optimiser."""

    kind: Literal["longer"]
    steps: int = Field(ge=1, le=MOST_STEPS)
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The study's where not given."""
    schedule: Literal["one_cycle", "inverse_sqrt", "constant"] = "one_cycle"

    def training_of(self, first: TrainingConfig) -> TrainingConfig:
        """How it goes on, from how it was trained."""
        rate = self.learning_rate or first.learning_rate
        changed = {"steps": self.steps, "learning_rate": rate, "schedule": self.schedule, "stop_below": None}
        return first.model_copy(update=changed)
