"""The `[training]` table of a study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.validation import Table

MOST_STEPS = 1_000_000_000


class TrainingConfig(Table):
    """The `[training]` table of a study."""

    steps: int = Field(ge=1, le=MOST_STEPS)
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["one_cycle", "inverse_sqrt", "constant"] = "one_cycle"
    warmup: int = Field(1000, ge=0)
    """Steps of linear warm-up under inverse_sqrt; one_cycle warms up over the first 30 %."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """"sgd": with momentum 0.9."""
    weight_decay: float = Field(0.01, ge=0)
    beta2: float = Field(0.999, gt=0, lt=1)
    """AdamW's memory of squared gradients: near the floor they fall fast, and a long memory makes the loss spike."""
    batch: Literal["support"] | Annotated[int, Field(ge=1, le=1_000_000)] = "support"
    """"support": every string of the language with its exact weight; a number: so many fresh strings a step."""
    targets: Literal["sampled", "law"] = "sampled"
    """What a fresh string's positions are trained on: the symbol that did come next, or the exact next-symbol law, which
    has the same loss in expectation and none of its noise (the whole support always has its exact weights)."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm, of each seed for itself; inf: no clipping."""
    stack: int = Field(4, ge=1)
    """Seeds that train as one model; fixed by the study, so that the number of jobs cannot change a bit."""
    probe_every: int = Field(100, ge=1)
    stop_below: float | None = Field(None, gt=0)
    """A seed stops as soon as its certificate's upper end (on draws of its own) is below so many nats per string."""

    def check(self, language: Language) -> None:
        """Raises UsageError where the language cannot be trained on so."""
        if self.batch == "support" and language.support() is None:
            raise UsageError(
                f'batch = "support" needs a language whose strings can be listed; {language.name} has too many: '
                "give a number of fresh strings per step, such as batch = 128"
            )
