"""A causal transformer over a stack of seeds.

Shapes: S seeds, B strings, T positions, D width, H heads, V outputs. Every weight carries a leading S.
Post-norm: x = LN(x + f(x)) (Vaswani et al. 2017). Pre-norm: x = x + f(LN(x)), and a last LN before the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.stack import Dropout, Shape, StackedModel, Tree, drop
from lmtest.validation import Table


class TransformerConfig(Table):
    """A transformer as a study's `[models.NAME]` table declares it."""

    architecture: Literal["transformer"] = "transformer"
    layers: int = Field(2, ge=1)
    width: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(256, ge=1)
    norm: Literal["pre", "post"] = "post"
    positions: Literal["none", "sinusoidal", "learned", "rotary"] = "sinusoidal"
    context: int = Field(512, ge=2)
    """Positions that a learned encoding has room for, BOS included; the other encodings have no limit."""
    dropout: float = Field(0.0, ge=0, lt=1)
    layer_norm_eps: float = Field(1e-5, ge=0)

    @model_validator(mode="after")
    def _head_size(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"expected heads to divide width, found width = {self.width}, heads = {self.heads}")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"rotary positions need an even head size, found {self.width // self.heads}")
        return self

    def check(self, longest: int) -> None:
        """Raises UsageError where strings of `longest` symbols do not fit the context."""
        if self.positions == "learned" and longest >= self.context:
            raise UsageError(
                f"strings (and prompts with their completions) of up to {longest} symbols do not fit a context of "
                f"{self.context} positions (BOS included); raise `context`, or shorten the completions"
            )

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> Transformer:
        return Transformer(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embeddings, layers, output."""
        d, f = self.width, self.feed_forward
        layer = 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d
        ends = vocabulary.n_inputs * d + (d + 1) * vocabulary.n_outputs
        extra = (2 * d if self.norm == "pre" else 0) + (self.context * d if self.positions == "learned" else 0)
        return self.layers * layer + ends + extra


@dataclass
class Cache:
    """Keys and values of every layer [layers, 2, S, N, H, room, D/H], and how many tokens each row [N] has read."""

    memory: Tensor
    read: Tensor


class Transformer(StackedModel):
    """See the module's docstring; initialised like torch's own layers, embeddings to unit variance after × √D."""

    def __init__(
        self, config: TransformerConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu"
    ) -> None:
        self.config = config
        d, f = config.width, config.feed_forward
        shapes = {"embedding": Shape((vocabulary.n_inputs, d), "normal", 1.0)}
        if config.positions == "learned":
            shapes["positions"] = Shape((config.context, d), "normal", 1.0)
        for i in range(config.layers):
            shapes |= {
                f"layers.{i}.attention.in.weight": Shape((d, 3 * d), "uniform", math.sqrt(6 / (4 * d))),
                f"layers.{i}.attention.in.bias": Shape((3 * d,), "zeros"),
                f"layers.{i}.attention.out.weight": Shape((d, d), "uniform", d**-0.5),
                f"layers.{i}.attention.out.bias": Shape((d,), "zeros"),
                f"layers.{i}.norm1.weight": Shape((d,), "ones"),
                f"layers.{i}.norm1.bias": Shape((d,), "zeros"),
                f"layers.{i}.feed_forward.in.weight": Shape((d, f), "uniform", d**-0.5),
                f"layers.{i}.feed_forward.in.bias": Shape((f,), "uniform", d**-0.5),
                f"layers.{i}.feed_forward.out.weight": Shape((f, d), "uniform", f**-0.5),
                f"layers.{i}.feed_forward.out.bias": Shape((d,), "uniform", f**-0.5),
                f"layers.{i}.norm2.weight": Shape((d,), "ones"),
                f"layers.{i}.norm2.bias": Shape((d,), "zeros"),
            }
        if config.norm == "pre":
            shapes |= {"norm.weight": Shape((d,), "ones"), "norm.bias": Shape((d,), "zeros")}
        shapes["output.weight"] = Shape((d, vocabulary.n_outputs), "uniform", d**-0.5)
        shapes["output.bias"] = Shape((vocabulary.n_outputs,), "uniform", d**-0.5)
        super().__init__(vocabulary, seeds, shapes, device)

    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        if tree is None:
            positions = torch.arange(tokens.shape[-1], device=tokens.device).expand(tokens.shape[-2:])
            visible = None
        else:
            positions, visible = tree.depth[None], tree.ancestors[None, None]
        x = self._embed(tokens, positions, dropout)  # [S, B, T, D]
        for i in range(self.config.layers):
            x = self._layer(i, x, positions, visible, None, dropout)
        return self._head(x)

    @property
    def drops_out(self) -> bool:
        return self.config.dropout > 0

    def tree_saves(self, nodes: int, tokens: int, positions: int) -> bool:
        c = self.config
        if self.drops_out:
            return False  # nodes that strings share would share their noise
        per_token = c.layers * (4 * c.width**2 + 2 * c.width * c.feed_forward)
        tree = nodes * (per_token + 2 * c.layers * nodes * c.width)
        return tree < tokens * (per_token + 2 * c.layers * positions * c.width)

    def prefill(self, tokens: Tensor, lengths: Tensor, room: int) -> tuple[Tensor, Cache]:
        tokens, lengths = tokens.to(self.device), lengths.to(self.device)
        n, t = tokens.shape
        c = self.config
        size = (c.layers, 2, len(self.seeds), n, c.heads, t + room, c.width // c.heads)
        # What stands behind a row's end is overwritten as the row grows, and masked until then.
        cache = Cache(torch.zeros(size, device=self.device), lengths + 1)
        positions = torch.arange(t, device=self.device).expand(n, t)
        visible = causal(positions, t)
        with torch.no_grad():
            x = self._embed(tokens, positions, None)
            for i in range(c.layers):
                x = self._layer(i, x, positions, visible, cache.memory[i, ..., :t, :], None)
            last = x[:, torch.arange(n, device=self.device), lengths]  # [S, N, D]
            return self._head(last[:, :, None])[:, :, 0].double().log_softmax(-1).cpu(), cache

    def advance(self, cache: Cache, tokens: Tensor) -> Tensor:
        positions = cache.read[:, None]  # [N, 1]
        longest = int(cache.read.max()) + 1
        visible = causal(positions, longest)
        with torch.no_grad():
            x = self._embed(tokens.to(self.device)[..., None], positions, None)
            for i in range(self.config.layers):
                x = self._layer(i, x, positions, visible, cache.memory[i, ..., :longest, :], None)
            cache.read = cache.read + 1
            return self._head(x)[:, :, 0].double().log_softmax(-1).cpu()

    def select(self, cache: Cache, rows: Tensor) -> Cache:
        rows = rows.to(self.device)
        return Cache(cache.memory[:, :, :, rows], cache.read[rows])

    # The pieces. x is [S, B, T, D]; positions [B, T]; visible [B, 1, T, keys], or None for plain causal attention.

    def _embed(self, tokens: Tensor, positions: Tensor, dropout: Dropout | None) -> Tensor:
        p, c = self.parameters, self.config
        tokens = tokens.expand(len(self.seeds), *tokens.shape[-2:])  # [S, B, T]
        seed = torch.arange(len(self.seeds), device=tokens.device)[:, None, None]
        x = p["embedding"][seed, tokens] * math.sqrt(c.width)
        if c.positions == "sinusoidal":
            x = x + sinusoids(positions, c.width)
        elif c.positions == "learned":
            if int(positions.max()) >= c.context:
                raise UsageError(
                    f"a string of {int(positions.max())} symbols does not fit the model's context of {c.context} "
                    "positions (BOS included); raise `context`"
                )
            x = x + p["positions"][:, positions]
        return drop(x, c.dropout, dropout)

    def _layer(
        self,
        i: int,
        x: Tensor,
        positions: Tensor,
        visible: Tensor | None,
        memory: Tensor | None,
        dropout: Dropout | None,
    ) -> Tensor:
        rate = self.config.dropout

        def attend(x: Tensor) -> Tensor:
            return drop(self._attend(i, x, positions, visible, memory, dropout), rate, dropout)

        def feed_forward(x: Tensor) -> Tensor:
            return drop(self._feed_forward(i, x, dropout), rate, dropout)

        if self.config.norm == "pre":
            x = x + attend(self._norm(f"layers.{i}.norm1", x))
            return x + feed_forward(self._norm(f"layers.{i}.norm2", x))
        x = self._norm(f"layers.{i}.norm1", x + attend(x))
        return self._norm(f"layers.{i}.norm2", x + feed_forward(x))

    def _attend(
        self,
        i: int,
        x: Tensor,
        positions: Tensor,
        visible: Tensor | None,
        memory: Tensor | None,
        dropout: Dropout | None,
    ) -> Tensor:
        s, b, t, d = x.shape
        h = self.config.heads
        qkv = self._linear(f"layers.{i}.attention.in", x).view(s, b, t, 3, h, d // h)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each [S, B, H, T, D/H]
        if self.config.positions == "rotary":
            q, k = rotate(q, positions), rotate(k, positions)
        if memory is not None:  # [2, S, B, H, keys, D/H]
            rows = torch.arange(b, device=x.device)[:, None]
            memory[0][:, rows, :, positions] = k.permute(
                1, 3, 0, 2, 4
            )  # advanced indices come first: [B, T, S, H, D/H]
            memory[1][:, rows, :, positions] = v.permute(1, 3, 0, 2, 4)
            k, v = memory
        if dropout is not None and self.config.dropout > 0:
            visible = causal(positions, t) if visible is None else visible
            scores = (q @ k.transpose(-1, -2) / math.sqrt(d // h)).masked_fill(~visible, -math.inf)
            mixed = drop(scores.softmax(-1), self.config.dropout, dropout) @ v
        else:
            # The fused kernel wants one batch dimension.
            mask = None if visible is None else visible.expand(s, b, 1, t, -1).flatten(0, 1)
            q, k, v = (z.flatten(0, 1) for z in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None).unflatten(0, (s, b))
        return self._linear(f"layers.{i}.attention.out", mixed.transpose(2, 3).reshape(s, b, t, d))

    def _feed_forward(self, i: int, x: Tensor, dropout: Dropout | None) -> Tensor:
        hidden = drop(self._linear(f"layers.{i}.feed_forward.in", x).relu(), self.config.dropout, dropout)
        return self._linear(f"layers.{i}.feed_forward.out", hidden)

    def _head(self, x: Tensor) -> Tensor:
        return self._linear("output", self._norm("norm", x) if self.config.norm == "pre" else x)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
        return torch.baddbmm(bias[:, None], rows, weight).view(*x.shape[:-1], weight.shape[-1])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        normal = F.layer_norm(x, x.shape[-1:], eps=self.config.layer_norm_eps)
        return torch.addcmul(bias[:, None, None], normal, weight[:, None, None])


def causal(positions: Tensor, keys: int) -> Tensor:
    """Positions [B, T] → bool [B, 1, T, keys]: which keys a query at each position sees."""
    return (torch.arange(keys, device=positions.device) <= positions[..., None])[:, None]


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions [...] → encodings [..., width]: sines and cosines of geometric frequencies (Vaswani et al. 2017)."""
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) on x [S, B, H, T, E] with positions [B, T]."""
    half = x.shape[-1] // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=x.device) / half)
    angles = (positions[..., None] * frequencies)[None, :, None]  # [1, B, 1, T, E/2]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)
