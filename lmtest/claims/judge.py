"""Tables in, verdicts out: each claim is put to its test, and Holm's correction runs over all claims of the study."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmtest.claims import statistics as st
from lmtest.claims.comparisons import comparisons, outcome, test_name
from lmtest.claims.samples import Tables, draw_samples, shortages
from lmtest.claims.schema import Claim
from lmtest.columns import VERDICTS


def judge(
    claims: Sequence[Claim],
    measurements: pd.DataFrame,
    certificates: pd.DataFrame,
    completions: pd.DataFrame,
    seeds_asked: int,
    required_saturated: float,
) -> pd.DataFrame:
    """The verdict table of a study (VERDICTS), one row a claim, in the order of `claims`.

    `effect lower upper` are in the measure's unit (nats per string for "kl"), with a 95 % interval over seeds, and
    belong to the comparison that goes least the claim's way (where some refute the claim, the worst of those):

    - equivalence, difference: later minus earlier group; order: next minus previous;
    - trend: Kendall's τ of the values along the list, positive on the claimed side;
    - correlation: Spearman's ρ between predictor and measure across the groups, positive on the claimed side;
    - threshold: distance from the bound, positive on the claimed side (for "below" too);
    - heterogeneity: the standard deviation of the seeds' means.

    `p_raw` is the largest p value of the claim's comparisons, each of which must hold; `p_value` is Holm's over all
    claims, where a claim that could not be tested counts as failed. Supported: p_value ≤ 0.05. Refuted: the interval
    of some comparison lies wholly outside the claimed region. A margin or bound itself belongs to the region of an
    equivalence alone; a difference without a margin cannot be refuted. Undecided: the rest, and whatever the numbers
    say, a claim with a seed missing (of `seeds_asked`, per group; or without its pair), with a value that is not finite,
    with a seed whose values or predictors are all one and so have no correlation, or with less than the share
    `required_saturated` of the seeds asked saturated in some group: `note` says which.
    Where seeds tie in a measure of known range, such as an accuracy, the interval holds for every law of the seeds, and so does
    the p value unless it is one of "no difference at all" (see `comparisons`); `test` says so.
    A paired claim uses the seeds that all its groups have; `note` names the groups that an effect is of.

    Raises UsageError where a claim does not say which of several models it is about.
    """
    tables = Tables(measurements, certificates, completions)
    findings = [_examine(claim, tables, seeds_asked, required_saturated) for claim in claims]
    table = pd.DataFrame([row for row, _ in findings], columns=list(VERDICTS))
    table["p_value"] = st.holm(table["p_raw"].to_numpy(dtype=np.float64))
    table["verdict"] = [
        reached or ("supported" if p <= st.ALPHA else "undecided")
        for p, (_, reached) in zip(table["p_value"], findings, strict=True)
    ]
    return table.astype(VERDICTS)


def _examine(claim: Claim, tables: Tables, asked: int, required: float) -> tuple[dict[str, object], str | None]:
    """A claim → its row, and its verdict unless that is for Holm's p value to say."""
    samples = draw_samples(claim, tables)
    notes = samples.notes + shortages(claim, samples, tables, asked, required)
    compared = comparisons(claim, samples) if samples.usable else []
    p_raw, refuted = outcome(compared) if compared else (math.nan, False)
    reached = "undecided" if notes else "refuted" if refuted else None
    estimate = st.Estimate(math.nan, math.nan, math.nan)
    if compared:
        weakest = min([c for c in compared if c.refuted] or compared, key=lambda comparison: comparison.strength)
        estimate = weakest.estimate
        # Sentences name variants and models, seldom prompt sets.
        named = len(compared) > 1 or any(group.prompt_set for group in claim.groups)
        notes += [f"the effect is that of {weakest.name}"] if named else []
    row = {
        "claim": claim.id,
        "statement": claim.statement,
        "effect": estimate.effect,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "p_raw": p_raw,
        "seeds_used": samples.seeds_used,
        "seeds_asked": asked,
        "published": math.nan if claim.published is None else claim.published,
        "source": claim.source,
        "test": test_name(claim, samples, guarded=any(comparison.guarded for comparison in compared)),
        "note": "; ".join(notes),
    }
    return row, reached
