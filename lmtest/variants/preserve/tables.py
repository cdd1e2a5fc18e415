"""All function-preserving variants by kind: what a study's `[derived.NAME]` tables may declare."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from lmtest.errors import UsageError
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.validation import Table
from lmtest.variants.derivation import Derivation
from lmtest.variants.preserve.deepen import Reads, deepen, deepened
from lmtest.variants.preserve.grow import add_heads, add_units, with_heads, with_units
from lmtest.variants.preserve.neurons import (
    permute_heads,
    permute_neurons,
    permuted_heads,
    rescale,
    split,
    split_config,
)
from lmtest.variants.preserve.pad import pad, padded
from lmtest.variants.preserve.widen import widen, widened


class Preserving(Derivation):
    """A variant that computes the function of the transformer it is made from, with other parameters."""

    def config_of(self, model: Table) -> TransformerConfig:
        """A `[models.NAME]` table → that of the variant; UsageError where it is no transformer, or not exact for this one."""
        if not isinstance(model, TransformerConfig):
            raise UsageError(
                f"function-preserving variants: expected a transformer, found {getattr(model, 'architecture', model)}; "
                "name the transformers of the study with models = […]"
            )
        return self.derive(model)

    @abstractmethod
    def derive(self, config: TransformerConfig) -> TransformerConfig:
        """The variant's configuration; UsageError, with the reason, where it would not be exact."""

    @abstractmethod
    def apply(self, model: Transformer) -> Transformer:
        """The variant of a model, of the same seeds."""


class Widen(Preserving):
    """`kind = "widen"`: by duplication, plain or asymmetric (see `widen.py`)."""

    kind: Literal["widen"]
    ratio: int = Field(2, ge=2)
    heads: int | None = Field(None, ge=1)
    """Of the wide model; `ratio` times as many where not given, the small model's times a divisor of it otherwise."""
    sigma: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Strength of the asymmetry, in shares of the weight."""

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return widened(config, self.ratio, self.heads)

    def apply(self, model: Transformer) -> Transformer:
        return widen(model, self.ratio, self.heads, self.sigma)


class Pad(Preserving):
    """`kind = "pad"`: coordinates of the residual stream that are 0; pre-norm only (see `pad.py`)."""

    kind: Literal["pad"]
    coordinates: int = Field(ge=1)

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return padded(config, self.coordinates)

    def apply(self, model: Transformer) -> Transformer:
        return pad(model, self.coordinates)


class ExtraUnits(Preserving):
    """`kind = "extra_units"`: more feed-forward units."""

    kind: Literal["extra_units"]
    units: int = Field(ge=1)

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return with_units(config, self.units)

    def apply(self, model: Transformer) -> Transformer:
        return add_units(model, self.units)


class ExtraHeads(Preserving):
    """`kind = "extra_heads"`: more heads."""

    kind: Literal["extra_heads"]
    heads: int = Field(ge=1)

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return with_heads(config, self.heads)

    def apply(self, model: Transformer) -> Transformer:
        return add_heads(model, self.heads)


class Split(Preserving):
    """`kind = "split"`: two neurons for each one."""

    kind: Literal["split"]
    share: float = Field(0.5, gt=0, allow_inf_nan=False)
    """What the first of the two writes: ½ equal, below 1 the same sign, above 1 opposite signs."""

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return split_config(config, self.share)

    def apply(self, model: Transformer) -> Transformer:
        return split(model, self.share)


class PermuteNeurons(Preserving):
    """`kind = "permute_neurons"`: feed-forward neurons in another order."""

    kind: Literal["permute_neurons"]

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return config

    def apply(self, model: Transformer) -> Transformer:
        return permute_neurons(model)


class PermuteHeads(Preserving):
    """`kind = "permute_heads"`: heads in another order."""

    kind: Literal["permute_heads"]
    order: list[int] | None = Field(None)
    """Which head stands in each place; back to front where not given."""

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return permuted_heads(config, self.order)

    def apply(self, model: Transformer) -> Transformer:
        return permute_heads(model, self.order)


class Rescale(Preserving):
    """`kind = "rescale"`: what neurons read × α, what they write ÷ α."""

    kind: Literal["rescale"]
    alpha: float = Field(gt=0, allow_inf_nan=False)

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return config

    def apply(self, model: Transformer) -> Transformer:
        return rescale(model, self.alpha)


class Deepen(Preserving):
    """`kind = "deepen"`: identity blocks; in post-norm only with layer_norm_eps = 0 (see `deepen.py`)."""

    kind: Literal["deepen"]
    layers: int = Field(1, ge=1)
    reads: Reads = "random"

    def derive(self, config: TransformerConfig) -> TransformerConfig:
        return deepened(config, self.layers)

    def apply(self, model: Transformer) -> Transformer:
        return deepen(model, self.layers, self.reads)


PreservingConfig = Annotated[
    Widen | Pad | ExtraUnits | ExtraHeads | Split | PermuteNeurons | PermuteHeads | Rescale | Deepen,
    Field(discriminator="kind"),
]
