"""Which Hugging Face architecture computes what a transformer of ours does, and its weights there.

OPT has our blocks, pre- or post-norm, ReLU and a table of positions, whose rows may hold learned vectors, sinusoids or zeros; what
it lacks is the output's bias. That is moved into the bias of the layer norm before it, β + δ with Wᵀδ = b, which is exact where
there are no more outputs than coordinates. Its layer norms have one ε: the residual stream is rescaled for it.
Phi has rotary positions (halves, base 10 000) and an output bias, but computes a layer's two blocks side by side on one layer norm:
each of our layers becomes two of Phi's, one with no feed-forward, one with no attention.
Their linear maps are [out, in], ours [in, out].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.positions import tiled_sinusoids
from lmtest.models.transformer import TransformerConfig

POSITIONS = 2048
"""Of an exported model, where the encoding itself has no limit."""
OPT_EPS = 1e-5
"""Of OPT's layer norms, which have no other."""
UNREAD = 2
"""Rows of OPT's table of positions that nothing reads."""
SOLVED = 1e-9
"""What may be left of the output's bias, relative to its largest entry."""

Parameters = Mapping[str, Tensor]
"""Of one seed, float64."""


@dataclass(frozen=True)
class Exported:
    """A Hugging Face configuration class with its arguments, and named weights, float64."""

    config: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]


def exported(config: TransformerConfig, parameters: Parameters, vocabulary: Vocabulary) -> Exported:
    """A transformer in an architecture of the same function; its tokens are ours without BOS and PAD.

    Nothing is ever read behind an EOS, so that one token can both end and start a string: its embedding is our BOS's, its output our
    EOS's, and probabilities are over the same outcomes. Raises UsageError, with the reason, where no architecture is exact.
    """
    if config.positions == "alibi":
        raise UsageError(
            "cannot export alibi positions: of the architectures that have them, MPT and BLOOM know no ReLU, and Falcon divides the "
            "slopes by √(head size)"
        )
    if config.positions == "rotary":
        return _phi(config, parameters, vocabulary)
    return _opt(config, parameters, vocabulary)


def _opt(config: TransformerConfig, parameters: Parameters, vocabulary: Vocabulary) -> Exported:
    if config.inner != config.width:
        raise UsageError(
            f"cannot export: {config.heads} heads of size {config.head} are {config.inner} together, and OPT's are the width, "
            f"{config.width}; models of rotary positions have no such limit"
        )
    if config.layer_norm_eps == 0:
        raise UsageError(f"cannot export layer norms with eps 0: OPT's have {OPT_EPS}")
    output, output_bias = _output(config, parameters, vocabulary), parameters["output.bias"]
    scale = math.sqrt(OPT_EPS / config.layer_norm_eps)
    parameters = _rescaled(config, parameters, scale)
    d, places = config.width, config.context if config.positions == "learned" else max(config.context, POSITIONS)
    table = torch.zeros(places, d, dtype=torch.float64)
    if config.positions == "learned":
        table = parameters["positions"]  # scaled already
    elif config.positions == "sinusoidal":
        table = tiled_sinusoids(torch.arange(places), d, config.tables, torch.float32).double() * scale
    weights = {
        "model.decoder.embed_tokens.weight": _embeddings(config, parameters, vocabulary),
        "model.decoder.embed_positions.weight": torch.cat([table.new_zeros(UNREAD, d), table]),
    }
    for i in range(config.layers):
        theirs, ours = f"model.decoder.layers.{i}", f"layers.{i}"
        for name, value in _attention(config, parameters, i).items():
            weights[f"{theirs}.self_attn.{name.replace('dense', 'out_proj')}"] = value
        weights |= _linear(parameters, f"{ours}.feed_forward.in", f"{theirs}.fc1")
        weights |= _linear(parameters, f"{ours}.feed_forward.out", f"{theirs}.fc2")
        weights |= _norm(parameters, f"{ours}.norm1", f"{theirs}.self_attn_layer_norm")
        weights |= _norm(parameters, f"{ours}.norm2", f"{theirs}.final_layer_norm")
    if config.norm == "pre":
        weights |= _norm(parameters, "norm", "model.decoder.final_layer_norm")
    # In post-norm nothing but the output reads the last layer's second norm.
    last = "model.decoder" if config.norm == "pre" else f"model.decoder.layers.{config.layers - 1}"
    bias = f"{last}.final_layer_norm.bias"
    weights[bias] = weights[bias] + _as_input(output, output_bias)
    arguments = {
        "hidden_size": d,
        "word_embed_proj_dim": d,
        "ffn_dim": config.feed_forward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": places,
        "do_layer_norm_before": config.norm == "pre",
        "activation_function": "relu",
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
    }
    return Exported("OPTConfig", arguments, weights | {"lm_head.weight": output})


def _rescaled(config: TransformerConfig, parameters: Parameters, scale: float) -> Parameters:
    """The parameters with the residual stream `scale` times as large: layer norms of eps × scale² then give what they gave.

    What is written to it is multiplied; in post-norm the layer norms write as well, and what reads it is divided. The output reads
    what it read.
    """
    post, last = config.norm == "post", f"layers.{config.layers - 1}.norm2"
    found = {}
    for name, value in parameters.items():
        writes = name in ("embedding", "positions") or ".out." in name
        writes |= post and ".norm" in name and not name.startswith(last)
        reads = post and name.endswith(".in.weight")
        found[name] = value * scale if writes else value / scale if reads else value
    return found


def _phi(config: TransformerConfig, parameters: Parameters, vocabulary: Vocabulary) -> Exported:
    if config.norm == "post":
        raise UsageError(
            "cannot export rotary positions with post-norm: no architecture has both; pre-norm can be exported"
        )
    if config.tables.head_copies != 1:
        raise UsageError(
            f"cannot export rotary positions on {config.tables.head_copies} blocks of a head, which no architecture has: export the "
            "model that this variant was made from"
        )
    weights = {"model.embed_tokens.weight": _embeddings(config, parameters, vocabulary)}
    for i in range(config.layers):
        attention = _attention(config, parameters, i)
        forward = _linear(parameters, f"layers.{i}.feed_forward.in", "fc1")
        forward |= _linear(parameters, f"layers.{i}.feed_forward.out", "fc2")
        for half in range(2):
            theirs = f"model.layers.{2 * i + half}"
            for name, value in attention.items():
                weights[f"{theirs}.self_attn.{name}"] = value if half == 0 else torch.zeros_like(value)
            for name, value in forward.items():
                weights[f"{theirs}.mlp.{name}"] = value if half == 1 else torch.zeros_like(value)
            weights |= _norm(parameters, f"layers.{i}.norm{1 + half}", f"{theirs}.input_layernorm")
    weights |= _norm(parameters, "norm", "model.final_layernorm")
    weights |= {"lm_head.weight": _output(config, parameters, vocabulary), "lm_head.bias": parameters["output.bias"]}
    arguments = {
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": 2 * config.layers,
        "num_attention_heads": config.heads,
        "head_dim": config.head,
        "max_position_embeddings": max(config.context, POSITIONS),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "relu",
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attention_dropout": config.dropout,
    }
    return Exported("PhiConfig", arguments, weights)


def _embeddings(config: TransformerConfig, parameters: Parameters, vocabulary: Vocabulary) -> Tensor:
    """[V, D]: the symbols, then BOS in the place of EOS; ours are multiplied by √D when they are read."""
    rows = [*range(len(vocabulary.symbols)), vocabulary.bos]
    return parameters["embedding"][rows] * math.sqrt(config.width)


def _output(config: TransformerConfig, parameters: Parameters, vocabulary: Vocabulary) -> Tensor:
    """[V, D]"""
    return parameters["embedding"][: vocabulary.n_outputs] if config.tied else parameters["output.weight"].T


def _attention(config: TransformerConfig, parameters: Parameters, layer: int) -> dict[str, Tensor]:
    """Queries, keys and values lie side by side in one map of ours, heads within each."""
    name = f"layers.{layer}.attention"
    found = _linear(parameters, f"{name}.out", "dense")
    weights, biases = parameters[f"{name}.in.weight"].chunk(3, -1), parameters[f"{name}.in.bias"].chunk(3)
    for key, weight, bias in zip("qkv", weights, biases, strict=True):
        found |= {f"{key}_proj.weight": weight.T, f"{key}_proj.bias": bias}
    return found


def _linear(parameters: Parameters, ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.weight": parameters[f"{ours}.weight"].T, f"{theirs}.bias": parameters[f"{ours}.bias"]}


def _norm(parameters: Parameters, ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.{part}": parameters[f"{ours}.{part}"] for part in ("weight", "bias")}


def _as_input(output: Tensor, bias: Tensor) -> Tensor:
    """δ [D], the shortest, with output [V, D] · δ = bias [V]; UsageError where there is none."""
    delta: Tensor = torch.linalg.pinv(output) @ bias
    left, largest = float((output @ delta - bias).abs().max()), float(bias.abs().max())
    if left > SOLVED * max(largest, 1.0):
        raise UsageError(
            f"cannot export: OPT's output has no bias, and this one's, of {len(bias)} outputs, is none of a width of "
            f"{output.shape[1]} (it would be off by {left:.2g}); models of rotary positions, and wider ones, can be exported"
        )
    return delta
