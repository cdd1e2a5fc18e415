"""A claim as it stands in a study's TOML, one `[[claims]]` table each: fixed before anything is run."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lmtest.errors import UsageError, nearest
from lmtest.validation import Table

KL = "kl"
"""The measure that stands in the certificates, not in the measurements: nats per string, no prompts."""

Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Claim(Table):
    """What every claim says: its name, its sentence, what was published, and which model it is about."""

    id: Text
    statement: Text
    published: Finite | None = None
    source: str = ""
    model: Text | None = None
    measure: Text
    prompt_set: Text | None = None
    decoding: Text = "greedy"

    @property
    @abstractmethod
    def groups(self) -> list[str]:
        """The variants whose seeds are the samples of this claim."""

    @property
    def selection(self) -> str:
        """What is measured, in words."""
        return "KL" if self.measure == KL else f"{self.measure} on {self.prompt_set} ({self.decoding})"

    @model_validator(mode="after")
    def _is_complete(self) -> _Claim:
        if self.measure == KL and self.prompt_set is not None:
            raise ValueError("measure 'kl' is a certificate and has no prompt_set: remove prompt_set")
        if self.measure != KL and self.prompt_set is None:
            raise ValueError(f"measure {self.measure!r} needs a prompt_set, such as 'id' or 'ood'")
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"expected distinct variants, found {self.groups}")
        return self


class _Several(_Claim):
    """A claim about variants compared with each other."""

    variants: Annotated[list[Text], Field(min_length=2)]

    @property
    def groups(self) -> list[str]:
        return self.variants


class Equivalence(_Several):
    """All pairs of `variants` differ by less than `margin` in the mean over seeds."""

    kind: Literal["equivalence"]
    measure: Text = KL
    margin: Annotated[Finite, Field(gt=0)]


class Order(_Several):
    """The means of `variants` ascend as listed, each by more than `margin` over the one before."""

    kind: Literal["order"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Difference(_Several):
    """All pairs of `variants` differ by more than `margin`, in either direction."""

    kind: Literal["difference"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Threshold(_Claim):
    """Each of `variants` has its mean over seeds above (below) a number or a baseline.

    The baseline "chance" is the chance column of the same rows; any other is that reference model's value.
    """

    kind: Literal["threshold"]
    variants: Annotated[list[Text], Field(min_length=1)]
    direction: Literal["above", "below"] = "above"
    bound: Finite | None = None
    baseline: Literal["chance", "uniform", "stop", "language", "rule_keeper"] | None = None

    @property
    def groups(self) -> list[str]:
        return self.variants

    @model_validator(mode="after")
    def _has_one_bound(self) -> Threshold:
        if (self.bound is None) == (self.baseline is None):
            raise ValueError("expected either bound (a number) or baseline (a name), one of the two")
        if self.measure == KL and self.baseline == "chance":
            raise ValueError("measure 'kl' has no chance level: give a bound or a reference model as the baseline")
        return self


class Heterogeneity(_Claim):
    """The seeds of one variant differ among themselves: by more than prompts explain, and their SD is > `margin`."""

    kind: Literal["heterogeneity"]
    variant: Text
    margin: Annotated[Finite, Field(ge=0)] = 0.0

    @property
    def groups(self) -> list[str]:
        return [self.variant]

    @model_validator(mode="after")
    def _has_prompts(self) -> Heterogeneity:
        if self.measure == KL:
            raise ValueError("heterogeneity needs a measure with an outcome per prompt, found 'kl'")
        return self


Claim = Annotated[Equivalence | Order | Difference | Threshold | Heterogeneity, Field(discriminator="kind")]
"""One claim; `kind` says which."""


def resolve_model(claim: Claim, models: Collection[str]) -> str:
    """The trained model a claim is about: as named, else the study's only one; raises UsageError else."""
    if claim.model is not None:
        if claim.model not in models:
            raise UsageError(f"claim {claim.id!r}: unknown model {claim.model!r}; {nearest(claim.model, models)}")
        return claim.model
    if len(models) != 1:
        raise UsageError(
            f"claim {claim.id!r}: expected model = … because the study has {len(models)} models"
            f" ({', '.join(sorted(models)) or 'none'}); name one of them"
        )
    return next(iter(models))


def check_claims(
    claims: Sequence[Claim],
    models: Collection[str],
    variants: Collection[str],
    measures: Collection[str],
    prompt_sets: Collection[str],
    decodings: Collection[str],
) -> None:
    """Raises UsageError where a claim names what the study does not have: a model, a variant, a measure, prompts, …

    `models`, `variants`: the trained ones; the rest: those of the study's evaluators ("kl" is always known).
    """
    if repeated := [name for name, times in Counter(claim.id for claim in claims).items() if times > 1]:
        raise UsageError(f"expected a unique id for each claim, found {repeated[0]!r} more than once; rename one")
    for claim in claims:
        resolve_model(claim, models)
        for variant in claim.groups:
            if variant not in variants:
                raise UsageError(f"claim {claim.id!r}: unknown variant {variant!r}; {nearest(variant, variants)}")
        if claim.measure not in (known := {*measures, KL}):
            raise UsageError(f"claim {claim.id!r}: unknown measure {claim.measure!r}; {nearest(claim.measure, known)}")
        if claim.prompt_set is not None and claim.prompt_set not in prompt_sets:
            hint = nearest(claim.prompt_set, prompt_sets)
            raise UsageError(f"claim {claim.id!r}: unknown prompt_set {claim.prompt_set!r}; {hint}")
        if claim.prompt_set is not None and claim.decoding not in decodings:
            hint = nearest(claim.decoding, decodings)
            raise UsageError(f"claim {claim.id!r}: unknown decoding {claim.decoding!r}; {hint}")
