"""What was found about one claim, as a test sees it."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import NamedTuple


class Verdict(NamedTuple):
    """A row of the verdict table, and over how many claims Holm's correction ran."""

    claim: str
    statement: str
    verdict: str
    effect: float
    lower: float
    upper: float
    p_value: float
    seeds_used: int
    seeds_asked: int
    published: float
    source: str
    note: str
    study: str
    family: int

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        parts = [
            f"{self.verdict}: {self.statement}",
            f"effect {_number(self.effect)} [{_number(self.lower)}, {_number(self.upper)}]",
            f"p = {_number(self.p_value)} (Holm over {self.family})",
            f"{self.seeds_used} of {self.seeds_asked} seeds",
        ]
        if not math.isnan(self.published):
            parts.append(f"published {_number(self.published)}" + (f" ({self.source})" if self.source else ""))
        return "; ".join([*parts, *filter(None, [self.note])])


class Refuted(AssertionError):
    """The 95 % interval of the claim's effect lies wholly outside what is claimed."""


class Undecided(AssertionError):
    """The seeds neither support nor refute the claim."""


recorded: ContextVar[list[Verdict] | None] = ContextVar("recorded", default=None)
"""Where the verdicts of the test that runs are noted, for the summary."""


def settle(verdict: Verdict) -> Verdict:
    """The verdict itself where it is *supported*; raises Refuted or Undecided else."""
    if verdict.verdict == "supported":
        return verdict
    raise (Refuted if verdict.verdict == "refuted" else Undecided)(verdict.sentence)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
