"""Claims: measurements in, verdicts out."""

from lmtest.claims.attainability import attainability
from lmtest.claims.compare import compare_runs
from lmtest.claims.judge import VERDICT_COLUMNS, judge
from lmtest.claims.published import PUBLISHED_COLUMNS, compare_published
from lmtest.claims.schema import (
    KL,
    Claim,
    Difference,
    Equivalence,
    Evaluated,
    Heterogeneity,
    Order,
    Threshold,
    check_claims,
)

__all__ = [
    "KL",
    "PUBLISHED_COLUMNS",
    "VERDICT_COLUMNS",
    "Claim",
    "Difference",
    "Equivalence",
    "Evaluated",
    "Heterogeneity",
    "Order",
    "Threshold",
    "attainability",
    "check_claims",
    "compare_published",
    "compare_runs",
    "judge",
]
