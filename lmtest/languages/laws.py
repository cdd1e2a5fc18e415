"""Laws of an exponent: uniform, geometric, explicit weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from lmtest.errors import UsageError
from lmtest.limits import MOST_LENGTH
from lmtest.validation import Table

LEAST_P = 1 / MOST_LENGTH
"""Of a geometric law: below, its mean is more symbols than a string may have."""


@dataclass(frozen=True)
class FiniteLaw:
    """P(n = low + i) = probs[i]."""

    low: int
    probs: tuple[float, ...]

    @property
    def high(self) -> int:
        return self.low + len(self.probs) - 1

    def log_pmf(self, n: int) -> float:
        return _log(self.probs[n - self.low]) if self.low <= n <= self.high else -math.inf

    def log_tail(self, n: int) -> float:
        """ln P(N ≥ n)."""
        return _log(math.fsum(self.probs[max(0, n - self.low) :]))

    def at_most(self, limit: int | None) -> FiniteLaw:
        """The law given n ≤ limit, None for no limit; raises UsageError where nothing is left."""
        if limit is None or limit >= self.high:
            return self
        kept = self.probs[: max(0, limit - self.low + 1)]
        if not (total := math.fsum(kept)):
            raise UsageError(f"no length that the law allows is at most max_length = {limit}; raise it")
        return FiniteLaw(self.low, tuple(p / total for p in kept))

    def mean(self) -> float:
        return math.fsum((self.low + i) * p for i, p in enumerate(self.probs))

    def entropy(self) -> float:
        return -math.fsum(p * math.log(p) for p in self.probs if p > 0)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.low + rng.choice(len(self.probs), size=n, p=np.array(self.probs) / math.fsum(self.probs))


@dataclass(frozen=True)
class GeometricLaw:
    """P(n) = p (1 − p)^(n − low) for n ≥ low."""

    low: int
    p: float
    high = None

    def log_pmf(self, n: int) -> float:
        return math.log(self.p) + self.log_tail(n) if n >= self.low else -math.inf

    def log_tail(self, n: int) -> float:
        """ln P(N ≥ n)."""
        more = max(0, n - self.low)
        return more * math.log1p(-self.p) if more and self.p < 1 else 0.0 if not more else -math.inf

    def mean(self) -> float:
        return self.low + (1 - self.p) / self.p

    def entropy(self) -> float:
        p, q = self.p, 1 - self.p
        return -math.log(p) - (q / p * math.log(q) if q > 0 else 0.0)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.low - 1 + rng.geometric(self.p, size=n)


ExponentLaw = FiniteLaw | GeometricLaw


class UniformTable(Table):
    """`{ law = "uniform", low = 2, high = 256, step = 2 }`: equal probability for low, low + step, …, high."""

    law: Literal["uniform"]
    low: int = Field(1, ge=0)
    high: int = Field(le=MOST_LENGTH)
    step: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> UniformTable:
        if self.low > self.high:
            raise ValueError(f"expected low ≤ high, found low = {self.low}, high = {self.high}")
        if (self.high - self.low) % self.step:
            reached = self.high - (self.high - self.low) % self.step
            raise ValueError(f"steps of {self.step} from low = {self.low} miss high = {self.high}: write {reached}")
        return self

    def build(self) -> FiniteLaw:
        values = range(self.low, self.high + 1)
        reached = values[:: self.step]
        return FiniteLaw(self.low, tuple(1 / len(reached) if n in reached else 0.0 for n in values))


class GeometricTable(Table):
    """`{ law = "geometric", p = 0.5, low = 1 }`"""

    law: Literal["geometric"]
    p: float = Field(ge=LEAST_P, le=1)
    low: int = Field(1, ge=0, le=MOST_LENGTH)

    def build(self) -> ExponentLaw:
        return GeometricLaw(self.low, self.p)


class WeightsTable(Table):
    """`{ law = "weights", weights = [0.5, 0.25, 0.25], low = 1 }`"""

    law: Literal["weights"]
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(min_length=1)
    low: int = Field(1, ge=0, le=MOST_LENGTH)

    @model_validator(mode="after")
    def _sum(self) -> WeightsTable:
        total = math.fsum(self.weights)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the weights sum to {total:.10g}, not to 1; they are taken as written")
        return self

    def build(self) -> FiniteLaw:
        return FiniteLaw(self.low, tuple(self.weights))


FiniteTable = Annotated[UniformTable | WeightsTable, Field(discriminator="law")]
"""The table of a law with finitely many values."""

LAWS: dict[str, type[UniformTable | GeometricTable | WeightsTable]] = {
    "uniform": UniformTable,
    "geometric": GeometricTable,
    "weights": WeightsTable,
}


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
