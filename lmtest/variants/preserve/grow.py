"""More feed-forward units and more heads: they read at random, as an untrained model's, and write nothing yet."""

from __future__ import annotations

from torch import Tensor

from lmtest.models.positions import alibi_slopes
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.variants.preserve.rebuild import changed, check_count, fresh, parameters_of, rebuilt


def with_units(config: TransformerConfig, units: int) -> TransformerConfig:
    """The configuration of `add_units`' model."""
    check_count("units", units, 1)
    return changed(config, feed_forward=config.feed_forward + units)


def add_units(model: Transformer, units: int) -> Transformer:
    """The model with so many feed-forward units more in each layer; UsageError where there are none.

    Random reads, zero writes: the function does not change because the new units add 0.
    """
    config, f = with_units(model.config, units), model.config.feed_forward
    small, wide = parameters_of(model), fresh(model, config, "add_units")
    for name, value in small.items():
        if name.endswith("feed_forward.in.weight") or name.endswith("feed_forward.in.bias"):
            wide[name][..., :f] = value
        elif name.endswith("feed_forward.out.weight"):
            wide[name][:, :f], wide[name][:, f:] = value, 0.0
        else:
            wide[name] = value
    return rebuilt(model, config, wide)


def with_heads(config: TransformerConfig, heads: int) -> TransformerConfig:
    """The configuration of `add_heads`' model: alibi's new heads have the slopes of the first ones."""
    check_count("heads", heads, 1)
    tables = config.tables.model_dump(exclude_defaults=True)
    if config.positions == "alibi":
        slopes = config.tables.slopes or alibi_slopes(config.heads)
        tables["slopes"] = slopes + [slopes[i % config.heads] for i in range(heads)]
    return changed(config, heads=config.heads + heads, tables=tables)


def add_heads(model: Transformer, heads: int) -> Transformer:
    """The model with so many heads more in each layer, all of one size; UsageError where there are none.

    Random reads, zero writes: the function does not change because the new heads add 0.
    """
    config, a = with_heads(model.config, heads), model.config.inner
    small, wide = parameters_of(model), fresh(model, config, "add_heads")

    def by_part(value: Tensor) -> Tensor:
        parts: Tensor = value.unflatten(-1, (3, -1))  # queries, keys, values: a view
        return parts

    for name, value in small.items():
        if name.endswith("attention.in.weight") or name.endswith("attention.in.bias"):
            by_part(wide[name])[..., :a] = by_part(value)
        elif name.endswith("attention.out.weight"):
            wide[name][:, :a], wide[name][:, a:] = value, 0.0
        else:
            wide[name] = value
    return rebuilt(model, config, wide)
