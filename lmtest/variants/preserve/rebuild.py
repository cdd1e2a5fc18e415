"""What all of them are made with: another configuration, and parameters computed in double precision."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lmtest.errors import UsageError
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.seeds import stream_seed
from lmtest.validation import validate

Parameters = dict[str, Tensor]
"""Named tensors [S, …], float64."""


def parameters_of(model: Transformer) -> Parameters:
    """The model's parameters in double precision, without gradients."""
    return {name: value.detach().double() for name, value in model.parameters.items()}


def rebuilt(model: Transformer, config: TransformerConfig, parameters: Parameters) -> Transformer:
    """A model of another configuration with these parameters; vocabulary, seeds, device, precision and `held` are `model`'s."""
    made = config.build(model.vocabulary, model.seeds, str(model.device))
    dtype = model.parameters["embedding"].dtype
    expected = {name: value.shape for name, value in made.parameters.items()}
    assert expected == {name: value.shape for name, value in parameters.items()}
    # Copies, so that the two can be trained apart.
    made.parameters = {
        name: parameters[name].to(dtype, copy=True).contiguous().requires_grad_() for name in made.parameters
    }
    made.held = model.held & made.parameters.keys()
    return made


def fresh(model: Transformer, config: TransformerConfig, *name: str) -> Parameters:
    """Parameters of an untrained model of that configuration, drawn for each seed from its own stream called `name`."""
    seeds = [stream_seed(seed, "preserve", *name) for seed in model.seeds]
    return parameters_of(config.build(model.vocabulary, seeds, str(model.device)))


def changed(config: TransformerConfig, **changes: Any) -> TransformerConfig:
    """The configuration with some entries replaced, the head size kept unless it is among them; UsageError where they do not fit."""
    table = config.model_dump() | {"head_size": config.head} | changes
    if table["heads"] * table["head_size"] == table["width"]:
        table["head_size"] = None
    return validate(TransformerConfig, table, "the variant's transformer")


def check_count(name: str, value: int, least: int) -> None:
    """Raises UsageError on what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"expected {name} to be a whole number ≥ {least}, found {value!r}; raise it")


def check_factor(name: str, value: float) -> None:
    """Raises UsageError on what is no finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"expected {name} to be a finite number > 0, found {value!r}; choose one")
