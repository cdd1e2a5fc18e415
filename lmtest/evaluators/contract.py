"""What evaluators tell before a run: of what there will be values."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

Measured = tuple[str, str, str]
"""A measure, a prompt set, a decoding."""


class Evaluated(NamedTuple):
    """What the evaluators of one language give a value for, and an outcome for each prompt; "kl" is always known."""

    values: Collection[Measured]
    outcomes: Collection[Measured]


UNBOUNDED = frozenset(
    {
        *("kl", "kl_added", "kl_bound", "kl_guaranteed", "excess", "cross_entropy", "forgetting", "log_mass"),
        *(
            "posterior_entropy",
            "gain",
            "steps_to_threshold",
            "log_steps_to_threshold",
            "chosen_rate",
            "ties",
            "no_second",
        ),
        *("function_difference", "function_difference_float64", "hessian_trace", "trace_residual", "hutchinson_trace"),
        *("gn_trace", "relative_sharpness", "top_eigenvalue", "gn_top_eigenvalue", "parameter_norm", "effective_rank"),
    }
)
"""The measures that are no shares: nats, steps, rates, differences, curvatures."""


def is_share(measure: str) -> bool:
    """Whether a measure lies in [0, 1] by what it is: an accuracy, a rule kept, a rate, a probability.

    Rules bear the names that a language file gives them, so it is the others that are listed.
    """
    return re.sub(r"_at_\d+$", "", measure) not in UNBOUNDED
