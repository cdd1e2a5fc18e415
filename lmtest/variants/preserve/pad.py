"""Widening by zeros: new coordinates of the residual stream that nothing writes to, and that everything reads at random.

Over D + n coordinates, of which n are 0, a layer norm has other means and variances. In pre-norm nothing but layer norms reads
the stream, and they take its mean off: whatever is written there can be centred without any effect. Then the mean is 0 over
the D coordinates, so it is over all of them, and the variance is r = D/(D + n) times as large: gains × √r and ε × r make up for
it exactly.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.variants.preserve.rebuild import changed, check_count, fresh, parameters_of, rebuilt


def padded(config: TransformerConfig, coordinates: int) -> TransformerConfig:
    """The configuration of `pad`'s model; UsageError where padding is not exact."""
    check_count("coordinates", coordinates, 1)
    if config.norm == "post":
        raise UsageError(
            'padding by zeros: expected norm = "pre", found "post", where gains and biases of the layer norms stand on '
            "the residual stream itself, so that its mean is not 0 and zeros change it; widen by duplication instead"
        )
    if config.tied:
        raise UsageError(
            "padding by zeros: expected tied = false, found true: embeddings must be centred to be padded, and a tied "
            "output weight would be centred with them, which changes the logits; widen by duplication instead"
        )
    width = config.width + coordinates
    tables = config.tables.model_dump(exclude_defaults=True)
    if config.positions == "sinusoidal":
        tables["padding"] = config.tables.padding + coordinates
    return changed(config, width=width, layer_norm_eps=config.layer_norm_eps * config.width / width, tables=tables)


def pad(model: Transformer, coordinates: int) -> Transformer:
    """The model with so many coordinates more in its residual stream, that are 0; pre-norm and untied only.

    What is written to the stream (embeddings, positions, both blocks of a layer) is centred, and 0 on the new coordinates;
    what reads them is drawn at random, as an untrained model has it. Heads and feed-forward units stay. The function does
    not change because layer norms see what they saw, rescaled, and their gains and ε make up for that.
    Raises UsageError, with the reason, for post-norm and for tied embeddings, and where there are no new coordinates.
    """
    config = padded(model.config, coordinates)
    small, new = parameters_of(model), fresh(model, config, "pad")
    d = model.config.width
    shrink = math.sqrt(d / config.width)

    def zeros(value: Tensor) -> Tensor:
        return F.pad(value, (0, coordinates))

    wide = {}
    for name, value in small.items():
        if name == "embedding":
            wide[name] = zeros(_centred(value) * shrink)  # they are multiplied by √width
        elif name == "positions" or ".out." in name:
            wide[name] = zeros(_centred(value))
        elif "norm" in name:
            wide[name] = new[name]
            wide[name][:, :d] = value * (shrink if name.endswith("weight") else 1.0)
        elif name.endswith(".weight"):
            wide[name] = new[name]
            wide[name][:, :d] = value
        else:
            wide[name] = value
    return rebuilt(model, config, wide)


def _centred(value: Tensor) -> Tensor:
    """What is written to the residual stream [S, …, D], its mean taken off."""
    return value - value.mean(-1, keepdim=True)
