"""What all claims share: names and sentence, what is measured, and the groups whose seeds are the samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from lmtest.validation import Table

KL = "kl"
"""The measure that stands in the certificates, not in the measurements: nats per string, no prompts."""

Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[list[Text], Field(min_length=1)]


class Group(NamedTuple):
    """Whose seeds are one sample of a claim: a model's in a variant, on a prompt set.

    None stands for the study's only model or variant, and for the claim's own prompt set.
    """

    name: str
    model: str | None
    variant: str | None
    prompt_set: str | None = None


class Quantity(NamedTuple):
    """What is measured, on which prompts (None for "kl") and by which decoding."""

    measure: str
    prompt_set: str | None
    decoding: str

    def __str__(self) -> str:
        return "KL" if self.measure == KL else f"{self.measure} on {self.prompt_set} ({self.decoding})"


class Stated(Table):
    """What every claim says: its name, its sentence, what was published, and what it is about."""

    id: Text
    statement: Text
    published: Finite | None = None
    """The published effect, in the units of ours: the (smallest) difference, the distance from the bound."""
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
    def is_paired(self) -> bool:
        """Whether the seeds of its groups are matched by number."""
        return False

    def prompts_of(self, group: Group) -> str | None:
        """The prompt set that a group is measured on; None for "kl"."""
        return group.prompt_set or self.prompt_set

    def quantity(self, group: Group) -> Quantity:
        """What is measured of a group; its `str` says so in words."""
        return Quantity(self.measure, self.prompts_of(group), self.decoding)

    def quantities(self, group: Group) -> list[Quantity]:
        """All that has to be measured of a group."""
        return [self.quantity(group)]

    @model_validator(mode="after")
    def _is_complete(self) -> Stated:
        prompts = [self.prompt_set, *(group.prompt_set for group in self.groups)]
        if self.measure == KL and any(prompts):
            raise ValueError(
                "measure 'kl' is a certificate and has no prompt_set: remove prompt_set (prompt_sets),"
                " or name the measure that you mean"
            )
        if self.measure != KL and not all(self.prompts_of(group) for group in self.groups):
            raise ValueError(f"measure {self.measure!r} needs a prompt_set, such as 'id' or 'ood'")
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"expected distinct names, found {names}")
        return self


class Grouped(Stated):
    """A claim about variants of one model, models in one variant, or prompt sets of one model in one variant."""

    variants: Names | None = None
    models: Names | None = None
    prompt_sets: Names | None = None

    @property
    def groups(self) -> list[Group]:
        if self.prompt_sets is not None:
            return [Group(prompts, self.model, self.variant, prompts) for prompts in self.prompt_sets]
        if self.variants is not None:
            return [Group(variant, self.model, variant) for variant in self.variants]
        return [Group(model, model, self.variant) for model in self.models or []]

    @model_validator(mode="after")
    def _has_one_kind_of_group(self) -> Grouped:
        kinds = {"variant": self.variants, "model": self.models, "prompt_set": self.prompt_sets}
        if sum(names is not None for names in kinds.values()) != 1:
            raise ValueError(
                "expected either variants = […] (of one model), models = […] (in one variant)"
                " or prompt_sets = […] (of one model in one variant)"
            )
        for one, names in kinds.items():
            if names is not None and getattr(self, one) is not None:
                raise ValueError(f"expected {one}s or {one}, found both: remove one")
        return self


class Compared(Grouped):
    """A claim about groups compared with each other, two at a time or all along the list."""

    @model_validator(mode="after")
    def _has_two(self) -> Compared:
        if len(self.groups) < 2:
            raise ValueError(f"expected at least 2 variants (models, prompt_sets) to compare, found {len(self.groups)}")
        return self


class Pairwise(Compared):
    """Groups compared two at a time: as independent samples of seeds, or seed by seed.

    `paired`: by default where prompt sets are compared, which the very same models answer, and nowhere else.
    """

    paired: bool = False

    @property
    def is_paired(self) -> bool:
        return self.paired

    @model_validator(mode="before")
    @classmethod
    def _pairs_prompt_sets(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("prompt_sets") is not None:
            return {"paired": True} | table
        return table

    @model_validator(mode="after")
    def _needs_pairs(self) -> Pairwise:
        if self.prompt_sets is not None and not self.paired:
            raise ValueError(
                "expected paired = true for prompt_sets, found false: the same models answer all of them, so their values"
                " are no independent samples; remove paired"
            )
        return self
