"""What evaluators tell before a run: of what there will be values."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

Measured = tuple[str, str, str]
"""A measure, a prompt set, a decoding."""


class Evaluated(NamedTuple):
    """What the evaluators of one language give a value for, and an outcome for each prompt; "kl" is always known."""

    values: Collection[Measured]
    outcomes: Collection[Measured]
