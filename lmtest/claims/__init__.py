"""Claims: measurements in, verdicts out."""

from lmtest.claims.attainability import attainability
from lmtest.claims.check import check_claims
from lmtest.claims.compare import compare_runs
from lmtest.claims.groups import KL
from lmtest.claims.judge import judge
from lmtest.claims.published import compare_published
from lmtest.claims.schema import (
    Claim,
    Correlation,
    Difference,
    Equivalence,
    Heterogeneity,
    Order,
    Threshold,
    Trend,
)
from lmtest.evaluators.contract import Evaluated, Measured

__all__ = [
    "KL",
    "Claim",
    "Correlation",
    "Difference",
    "Equivalence",
    "Evaluated",
    "Heterogeneity",
    "Measured",
    "Order",
    "Threshold",
    "Trend",
    "attainability",
    "check_claims",
    "compare_published",
    "compare_runs",
    "judge",
]
