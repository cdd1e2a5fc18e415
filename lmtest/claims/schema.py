"""A claim as it stands in a study's TOML, one `[[claims]]` table each: fixed before anything is run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lmtest.claims.groups import KL, Compared, Finite, Group, Grouped, Pairwise, Quantity, Stated, Text
from lmtest.validation import Table


class Equivalence(Pairwise):
    """All pairs of `variants` (`models`, `prompt_sets`) differ by less than `margin` in the mean over seeds."""

    kind: Literal["equivalence"]
    measure: Text = KL
    margin: Annotated[Finite, Field(gt=0)]


class Order(Pairwise):
    """The means of `variants` (`models`, `prompt_sets`) ascend as listed, each by more than `margin` over the one before."""

    kind: Literal["order"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Difference(Pairwise):
    """All pairs of `variants` (`models`, `prompt_sets`) differ by more than `margin`, in either direction."""

    kind: Literal["difference"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Trend(Compared):
    """The values of each seed tend to rise (fall) along `variants` (`models`, `prompt_sets`) as listed, in Kendall's sense.

    Weaker than an order: single steps may be flat or go back.
    """

    kind: Literal["trend"]
    direction: Literal["rising", "falling"] = "rising"

    @property
    def is_paired(self) -> bool:
        return True


class Predictor(Table):
    """What is to predict the outcome of a correlation: known of the same seeds of the same groups."""

    measure: Text
    prompt_set: Text | None = None
    decoding: Text = "greedy"

    @property
    def quantity(self) -> Quantity:
        return Quantity(self.measure, self.prompt_set, self.decoding)

    @model_validator(mode="after")
    def _is_complete(self) -> Predictor:
        if self.measure == KL and self.prompt_set is not None:
            raise ValueError("measure 'kl' is a certificate and has no prompt_set: remove prompt_set")
        if self.measure != KL and self.prompt_set is None:
            raise ValueError(f"measure {self.measure!r} needs a prompt_set, such as 'support' or 'id'")
        return self


class Correlation(Grouped):
    """Across `variants` (`models`) the measure of each seed rises (falls) with a predictor: Spearman's ρ is > `margin`.

    The seeds are the sample, not the groups: it speaks of the groups that are listed.
    """

    kind: Literal["correlation"]
    predictor: Predictor
    direction: Literal["rising", "falling"] = "rising"
    margin: Annotated[Finite, Field(ge=0, lt=1)] = 0.0

    @property
    def is_paired(self) -> bool:
        return True

    def quantities(self, group: Group) -> list[Quantity]:
        return [self.quantity(group), self.predictor.quantity]

    @model_validator(mode="after")
    def _has_something_to_correlate(self) -> Correlation:
        if self.prompt_sets is not None:
            raise ValueError(
                "expected variants = […] or models = […], found prompt_sets: the predictor is one number a model, the same"
                " whatever the prompts, so there is nothing to correlate; name the models whose predictors differ"
            )
        if len(self.groups) < 3:
            raise ValueError(f"expected at least 3 variants (models) to correlate across, found {len(self.groups)}")
        if str(self.predictor.quantity) == str(self.quantity(self.groups[0])):
            raise ValueError(f"expected a predictor other than the outcome, found {self.predictor.quantity} as both")
        return self


class Threshold(Grouped):
    """Each of `variants` (`models`, `prompt_sets`) has its mean over seeds above (below) a number or a baseline.

    The baseline "chance" is the chance column of the same rows; any other is that reference model's value.
    """

    kind: Literal["threshold"]
    direction: Literal["above", "below"] = "above"
    bound: Finite | None = None
    baseline: Literal["chance", "uniform", "stop", "ngram", "normative", "language", "rule_keeper"] | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Threshold:
        if (self.bound is None) == (self.baseline is None):
            raise ValueError("expected either bound (a number) or baseline (a name), one of the two")
        if self.measure == KL and self.baseline == "chance":
            raise ValueError("measure 'kl' has no chance level: give a bound or a reference model as the baseline")
        return self


class Heterogeneity(Stated):
    """The seeds of one model and variant differ among themselves: by more than prompts explain, and their SD is > `margin`."""

    kind: Literal["heterogeneity"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0

    @property
    def groups(self) -> list[Group]:
        return [Group(" ".join(filter(None, (self.model, self.variant))) or "the model", self.model, self.variant)]

    @model_validator(mode="after")
    def _has_prompts(self) -> Heterogeneity:
        if self.measure == KL:
            raise ValueError("heterogeneity needs a measure with an outcome per prompt, found 'kl'")
        return self


Claim = Annotated[
    Equivalence | Order | Difference | Trend | Correlation | Threshold | Heterogeneity, Field(discriminator="kind")
]
"""One claim; `kind` says which."""
