"""Feed-forward neurons split, permuted or rescaled, and heads permuted: other parameters of the same function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.models.positions import alibi_slopes
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.seeds import torch_generator
from lmtest.variants.preserve.rebuild import Parameters, changed, check_factor, parameters_of, rebuilt


def split_config(config: TransformerConfig, share: float) -> TransformerConfig:
    """The configuration of `split`'s model; UsageError on the shares that it refuses."""
    if not (math.isfinite(share) and share > 0 and share != 1):
        raise UsageError(
            f"expected a share > 0 other than 1, found {share!r}; 0.5 splits equally, one below 1 with the same sign, "
            "one above 1 with opposite signs"
        )
    return changed(config, feed_forward=2 * config.feed_forward)


def split(model: Transformer, share: float = 0.5) -> Transformer:
    """The model with two neurons for each one, which read the same, and write `share` and 1 − `share` of what it wrote.

    ½ splits equally (the two stay equal in training), a share below 1 with the same sign, one of 1 + α with opposite signs
    (1 + α and −α). The function does not change because shares add up to 1.
    Raises UsageError on a share that is 1 (the second neuron would write nothing), not above 0, or not finite.
    """
    config, parameters = split_config(model.config, share), parameters_of(model)
    for name, axis in neuron_axes(model.config):
        value = parameters[name]
        pair = (share * value, (1 - share) * value) if ".out." in name else (value, value)
        parameters[name] = torch.cat(pair, axis)
    return rebuilt(model, config, parameters)


def permute_neurons(model: Transformer) -> Transformer:
    """The model with the neurons of each layer in another order, drawn for each seed; a sum does not ask for the order."""
    config, parameters = model.config, parameters_of(model)
    orders = [
        [
            torch.randperm(config.feed_forward, generator=torch_generator(seed, "preserve", "order", i))
            for i in range(config.layers)
        ]
        for seed in model.seeds
    ]
    for name, axis in neuron_axes(config):
        layer = int(name.split(".")[1])
        rows = zip(parameters[name], orders, strict=True)
        permuted = [value.index_select(axis - 1, order[layer].to(model.device)) for value, order in rows]
        parameters[name] = torch.stack(permuted)
    return rebuilt(model, config, parameters)


def rescale(model: Transformer, alpha: float) -> Transformer:
    """The model with what each neuron reads (weights and bias) × α, and what it writes ÷ α.

    The function does not change because ReLU(αx) = α ReLU(x) for α > 0 (the reparameterisation of Reizinger et al., ICML
    2024, case study 3, here in the weights). Raises UsageError where α is not a finite number above 0.
    """
    check_factor("alpha", alpha)
    parameters = parameters_of(model)
    for name, _ in neuron_axes(model.config):
        parameters[name] = parameters[name] / alpha if ".out." in name else parameters[name] * alpha
    return rebuilt(model, model.config, parameters)


def permuted_heads(config: TransformerConfig, order: Sequence[int] | None = None) -> TransformerConfig:
    """The configuration of `permute_heads`' model: alibi's slopes go with their heads."""
    chosen = _order(config, order)
    if config.positions != "alibi":
        return config
    slopes = config.tables.slopes or alibi_slopes(config.heads)
    return changed(config, tables={"slopes": [slopes[head] for head in chosen]})


def permute_heads(model: Transformer, order: Sequence[int] | None = None) -> Transformer:
    """The model with the heads of every layer in another order, `order[i]` in place i; back to front where none is given.

    The function does not change because heads add up. The order is one for all seeds: alibi's slopes, which must go
    with the heads, belong to the configuration. Raises UsageError where `order` is no order of the heads.
    """
    config, chosen = model.config, torch.tensor(_order(model.config, order), device=model.device)
    parameters = parameters_of(model)

    def reordered(value: Tensor, axis: int, parts: int) -> Tensor:
        heads: Tensor = value.unflatten(axis, (parts, config.heads, config.head))
        return heads.index_select(axis + 1, chosen).flatten(axis, axis + 2)

    changes: Parameters = {}
    for i in range(config.layers):
        for name, axis, parts in (("in.weight", 2, 3), ("in.bias", 1, 3), ("out.weight", 1, 1)):
            key = f"layers.{i}.attention.{name}"
            changes[key] = reordered(parameters[key], axis, parts)
    return rebuilt(model, permuted_heads(config, order), parameters | changes)


def _order(config: TransformerConfig, order: Sequence[int] | None) -> list[int]:
    if config.heads < 2:
        raise UsageError("expected at least 2 heads to permute, found 1; take a model with more")
    chosen = list(reversed(range(config.heads))) if order is None else list(order)
    if sorted(chosen) != list(range(config.heads)):
        raise UsageError(f"expected an order of the heads 0 to {config.heads - 1}, found {chosen}; name each once")
    return chosen


def neuron_axes(config: TransformerConfig) -> list[tuple[str, int]]:
    """Names of the parameters that belong to neurons, and the axis along which they do."""
    parts = (("in.weight", 2), ("in.bias", 1), ("out.weight", 1))
    return [(f"layers.{i}.feed_forward.{name}", axis) for i in range(config.layers) for name, axis in parts]
