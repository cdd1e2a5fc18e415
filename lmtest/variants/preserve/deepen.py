"""Deepening by layers that do nothing yet: they write zeros to the residual stream.

In pre-norm x + 0 = x. In post-norm LN(x + 0) is x only where ε = 0 and x has been normalised without gain and bias; so
the last layer norm's gain and bias move behind the new layers, and ε > 0 is refused: n/√(1 + ε) is not n.
"""

from __future__ import annotations

from typing import Literal

import torch

from lmtest.errors import UsageError
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.variants.preserve.rebuild import changed, check_count, fresh, parameters_of, rebuilt

Reads = Literal["random", "zero"]


def deepened(config: TransformerConfig, layers: int) -> TransformerConfig:
    """The configuration of `deepen`'s model; UsageError where it is not exact."""
    check_count("layers", layers, 1)
    if config.norm == "post" and config.layer_norm_eps > 0:
        raise UsageError(
            'identity blocks: expected norm = "pre", or layer_norm_eps = 0, found "post" with '
            f"{config.layer_norm_eps:g}: a layer norm of what is normalised already divides it by √(1 + ε) once more; "
            "train one of these instead"
        )
    return changed(config, layers=config.layers + layers)


def deepen(model: Transformer, layers: int, reads: Reads = "random") -> Transformer:
    """The model with so many layers more behind its own, that write nothing.

    They read at random, as an untrained model's, or ("zero") not at all: then everything in them is 0 (in post-norm all but
    the layer norms, which are the identity). The function does not change because they add 0 to the residual stream.
    Of layers that do not read, no matrix ever gets a gradient, but what they add to every position (their
    `held_biases`) does. So they are `held`: trained on, the model stays the
    small one. Raises UsageError, with the reason, in post-norm with ε > 0, and where there are no new layers.
    """
    config, last = deepened(model.config, layers), model.config.layers - 1
    small, deep = parameters_of(model), fresh(model, config, "deepen")
    for name, value in deep.items():
        if name in small:
            deep[name] = small[name]
        elif ".out." in name or (reads == "zero" and not (config.norm == "post" and "norm" in name)):
            deep[name] = torch.zeros_like(value)
    if config.norm == "post":
        for part in ("weight", "bias"):
            first, end = f"layers.{last}.norm2.{part}", f"layers.{config.layers - 1}.norm2.{part}"
            deep[first], deep[end] = deep[end], deep[first]
    made = rebuilt(model, config, deep)
    if reads == "zero":
        moved = {f"layers.{at}.norm2.{part}" for at in (last, config.layers - 1) for part in ("weight", "bias")}
        new = {name for name in deep if name not in small}
        # In post-norm the last layer norm has changed places with an identity.
        made.held |= new ^ moved if config.norm == "post" else new
    return made


def held_biases(before: TransformerConfig, after: TransformerConfig) -> list[str]:
    """What of all-zero layers does train in pre-norm, so must be held for the deep model to stay the small one in training.

    A bias that is written to the residual stream has the gradient of the last layer's, which all of them together only
    let move faster.
    """
    new = range(before.layers, after.layers)
    return [f"layers.{i}.{part}.out.bias" for i in new for part in ("attention", "feed_forward")]
