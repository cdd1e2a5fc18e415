"""A claim as it stands in a study's TOML, one `[[claims]]` table each: fixed before anything is run."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from lmtest.errors import UsageError, nearest
from lmtest.validation import Table

KL = "kl"
"""The measure that stands in the certificates, not in the measurements: nats per string, no prompts."""

Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Group(NamedTuple):
    """Whose seeds are one sample of a claim: a model's in a variant; None stands for the study's only one."""

    name: str
    model: str | None
    variant: str | None


class _Claim(Table):
    """What every claim says: its name, its sentence, what was published, and what it is about."""

    id: Text
    statement: Text
    published: Finite | None = None
    source: str = ""
    language: Text | None = None
    """The language, the model, the variant that a claim is about need no name where the study has only one."""
    model: Text | None = None
    variant: Text | None = None
    measure: Text
    prompt_set: Text | None = None
    decoding: Text = "greedy"

    @property
    @abstractmethod
    def groups(self) -> list[Group]:
        """Whose seeds are the samples of this claim."""

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
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"expected distinct names, found {names}")
        return self


class _Grouped(_Claim):
    """A claim about several variants of one model, or about several models in one variant."""

    variants: Annotated[list[Text], Field(min_length=1)] | None = None
    models: Annotated[list[Text], Field(min_length=1)] | None = None

    @property
    def groups(self) -> list[Group]:
        if self.variants is not None:
            return [Group(variant, self.model, variant) for variant in self.variants]
        return [Group(model, model, self.variant) for model in self.models or []]

    @model_validator(mode="after")
    def _has_one_kind_of_group(self) -> _Grouped:
        if (self.variants is None) == (self.models is None):
            raise ValueError("expected either variants = […] (of one model) or models = […] (in one variant)")
        if self.variants is not None and self.variant is not None:
            raise ValueError("expected variants or variant, found both: remove one")
        if self.models is not None and self.model is not None:
            raise ValueError("expected models or model, found both: remove one")
        return self


class _Several(_Grouped):
    """A claim about groups compared with each other."""

    @model_validator(mode="after")
    def _has_two(self) -> _Several:
        if len(self.groups) < 2:
            raise ValueError(f"expected at least 2 variants (or models) to compare, found {len(self.groups)}")
        return self


class Equivalence(_Several):
    """All pairs of `variants` (or `models`) differ by less than `margin` in the mean over seeds."""

    kind: Literal["equivalence"]
    measure: Text = KL
    margin: Annotated[Finite, Field(gt=0)]


class Order(_Several):
    """The means of `variants` (or `models`) ascend as listed, each by more than `margin` over the one before."""

    kind: Literal["order"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Difference(_Several):
    """All pairs of `variants` (or `models`) differ by more than `margin`, in either direction."""

    kind: Literal["difference"]
    margin: Annotated[Finite, Field(ge=0)] = 0.0


class Threshold(_Grouped):
    """Each of `variants` (or `models`) has its mean over seeds above (below) a number or a baseline.

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


class Heterogeneity(_Claim):
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


Claim = Annotated[Equivalence | Order | Difference | Threshold | Heterogeneity, Field(discriminator="kind")]
"""One claim; `kind` says which."""


def resolve(claim: Claim, what: str, named: str | None, known: Collection[str]) -> str:
    """The `what` ("model", …) that a claim is about: as named, else the study's only one; raises UsageError else."""
    if named is not None:
        if named not in known:
            raise UsageError(f"claim {claim.id!r}: unknown {what} {named!r}; {nearest(named, known)}")
        return named
    if len(known) != 1:
        raise UsageError(
            f"claim {claim.id!r}: expected {what} = … because the study has {len(known)} {what}s"
            f" ({', '.join(sorted(known)) or 'none'}); name one of them"
        )
    return next(iter(known))


Measured = tuple[str, str, str]
"""A measure, a prompt set, a decoding."""


class Evaluated(NamedTuple):
    """What the evaluators of one language give a value for, and an outcome for each prompt; "kl" is always known."""

    values: Collection[Measured]
    outcomes: Collection[Measured]


def check_claims(
    claims: Sequence[Claim],
    models: Collection[str],
    variants: Collection[str],
    evaluated: Mapping[str, Evaluated],
) -> None:
    """Raises UsageError where a claim names what the study does not have: a language, a model, a measure, prompts, …

    `models`, `variants`: the trained ones; `evaluated`: by language.
    """
    if repeated := [name for name, times in Counter(claim.id for claim in claims).items() if times > 1]:
        raise UsageError(f"expected a unique id for each claim, found {repeated[0]!r} more than once; rename one")
    for claim in claims:
        language = resolve(claim, "language", claim.language, evaluated)
        for group in claim.groups:
            resolve(claim, "model", group.model, models)
            resolve(claim, "variant", group.variant, variants)
        if claim.measure != KL:
            _check_measured(claim, evaluated[language])


def _check_measured(claim: Claim, evaluated: Evaluated) -> None:
    asked = (claim.measure, str(claim.prompt_set), claim.decoding)
    for what, found, known in zip(
        ("measure", "prompt_set", "decoding"), asked, zip(*evaluated.values, strict=True), strict=True
    ):
        if found not in (names := {*known, *([KL] if what == "measure" else [])}):
            raise UsageError(f"claim {claim.id!r}: unknown {what} {found!r}; {nearest(found, names)}")
    if asked not in evaluated.values:
        sets = sorted({(prompts, how) for measure, prompts, how in evaluated.values if measure == claim.measure})
        raise UsageError(
            f"claim {claim.id!r}: {claim.measure} is not measured on {asked[1]} ({asked[2]}), only on "
            + ", ".join(f"{prompts} ({how})" for prompts, how in sets)
        )
    if isinstance(claim, Heterogeneity) and asked not in evaluated.outcomes:
        raise UsageError(
            f"claim {claim.id!r}: heterogeneity needs an outcome per prompt, which {claim.measure} on {asked[1]} "
            f"({asked[2]}) has none of; choose among measures "
            f"{', '.join(sorted({m for m, _, _ in evaluated.outcomes}))} and prompt sets "
            f"{', '.join(sorted({s for _, s, _ in evaluated.outcomes}))}"
        )
    if isinstance(claim, Threshold) and claim.baseline == "language" and asked[1].startswith("ood"):
        raise UsageError(
            f"claim {claim.id!r}: the language has no law on {asked[1]} prompts; take rule_keeper as the baseline"
        )
