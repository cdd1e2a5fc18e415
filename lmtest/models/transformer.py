"""A causal transformer over a stack of seeds.

Shapes: S seeds, B strings, T positions, D width, H heads of size E, V outputs. Every weight carries a leading S.
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

from lmtest import limits
from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.layers import embed, layer_norm, linear, linear_shapes, norm_shapes, per_seed, string_positions
from lmtest.models.positions import PositionTables, alibi, causal, rotate_blocks, same_string, tiled_sinusoids
from lmtest.models.stack import Dropout, Shape, StackedModel, Tree, check_context, drop
from lmtest.validation import Table


class TransformerConfig(Table):
    """A transformer as a study's `[models.NAME]` table declares it."""

    architecture: Literal["transformer"] = "transformer"
    layers: int = Field(2, ge=1, le=limits.MOST_LAYERS)
    width: int = Field(64, ge=1, le=limits.MOST_WIDTH)
    heads: int = Field(4, ge=1, le=limits.MOST_WIDTH)
    head_size: int | None = Field(None, ge=1, le=limits.MOST_WIDTH)
    """Width / heads where it is not given."""
    feed_forward: int = Field(256, ge=1, le=limits.MOST_WIDTH)
    norm: Literal["pre", "post"] = "post"
    positions: Literal["none", "sinusoidal", "learned", "rotary", "alibi"] = "sinusoidal"
    context: int = Field(512, ge=2, le=limits.MOST_LENGTH)
    """Positions that a learned encoding has room for, BOS included; the other encodings have no limit."""
    dropout: float = Field(0.0, ge=0, lt=1)
    layer_norm_eps: float = Field(1e-5, ge=0)
    tied: bool = False
    """Whether the output weight is the embeddings of the symbols and EOS, transposed; its bias is its own."""
    tables: PositionTables = PositionTables()

    @model_validator(mode="after")
    def _sizes(self) -> TransformerConfig:
        if self.head_size is None and self.width % self.heads:
            raise ValueError(
                f"expected heads to divide width, found width = {self.width}, heads = {self.heads}; change one of them, "
                "or set head_size"
            )
        self.tables.check(self.positions, self.width, self.heads, self.head)
        return self

    @property
    def head(self) -> int:
        """Size of a head."""
        return self.width // self.heads if self.head_size is None else self.head_size

    @property
    def inner(self) -> int:
        """Size of all heads together."""
        return self.heads * self.head

    def check(self, longest: float) -> None:
        """Raises UsageError where strings of `longest` symbols do not fit the context."""
        if self.positions == "learned":
            check_context(longest, self.context)

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> Transformer:
        return Transformer(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embeddings, layers, output."""
        d, f, a = self.width, self.feed_forward, self.inner
        layer = 4 * d * a + 3 * a + d + 2 * d * f + f + d + 4 * d
        ends = vocabulary.n_inputs * d + (1 if self.tied else d + 1) * vocabulary.n_outputs
        extra = (2 * d if self.norm == "pre" else 0) + (self.context * d if self.positions == "learned" else 0)
        return self.layers * layer + ends + extra


@dataclass
class Cache:
    """Keys and values of every layer [layers, 2, S, N, H, room, E], and how many tokens each row [N] has read."""

    memory: Tensor
    read: Tensor


class Transformer(StackedModel):
    """See the module's docstring; initialised like torch's own layers, embeddings to unit variance.

    Tied embeddings are read by the output as well: they start at variance 1/D, so that × √D and logits have unit variance.
    """

    def __init__(
        self, config: TransformerConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu"
    ) -> None:
        self.config = config
        d, f, a = config.width, config.feed_forward, config.inner
        shapes = {"embedding": Shape((vocabulary.n_inputs, d), "normal", d**-0.5 if config.tied else 1.0)}
        if config.positions == "learned":
            shapes["positions"] = Shape((config.context, d), "normal", 1.0)
        for i in range(config.layers):
            shapes |= {
                f"layers.{i}.attention.in.weight": Shape((d, 3 * a), "uniform", math.sqrt(6 / (d + 3 * a))),
                f"layers.{i}.attention.in.bias": Shape((3 * a,), "zeros"),
                f"layers.{i}.attention.out.weight": Shape((a, d), "uniform", a**-0.5),
                f"layers.{i}.attention.out.bias": Shape((d,), "zeros"),
                **norm_shapes(f"layers.{i}.norm1", d),
                **linear_shapes(f"layers.{i}.feed_forward.in", d, f),
                **linear_shapes(f"layers.{i}.feed_forward.out", f, d),
                **norm_shapes(f"layers.{i}.norm2", d),
            }
        if config.norm == "pre":
            shapes |= norm_shapes("norm", d)
        shapes |= linear_shapes("output", d, vocabulary.n_outputs)
        if config.tied:
            del shapes["output.weight"]
        super().__init__(vocabulary, seeds, shapes, device)

    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        return self._head(self._body(tokens, dropout, tree))

    def hidden(self, tokens: Tensor, tree: Tree | None = None) -> Tensor:
        """Tokens and tree as of `logits` → what the output layer reads, the last layer norm included, [S, B, T, D]."""
        return self._last(self._body(tokens, None, tree))

    def _body(self, tokens: Tensor, dropout: Dropout | None, tree: Tree | None) -> Tensor:
        visible: Tensor | None
        if tree is not None:
            positions, visible = tree.depth[None, None], tree.ancestors[None, None]
        elif bool((tokens[..., 1:] == self.vocabulary.bos).any()):
            strings, positions = string_positions(tokens.reshape(-1, *tokens.shape[-2:]), self.vocabulary.bos)
            visible = same_string(strings)
        else:
            positions = torch.arange(tokens.shape[-1], device=tokens.device)[None, None]
            # The fused kernel knows plain causal attention by itself, but neither biases nor dropout of our own streams.
            fused = self.config.positions != "alibi" and (dropout is None or not self.drops_out)
            visible = None if fused else causal(positions, tokens.shape[-1])
        mask = None if visible is None else self._mask(positions, positions, visible)
        x = self._embed(tokens, positions, dropout)  # [S, B, T, D]
        for i in range(self.config.layers):
            x = self._layer(i, x, positions, mask, None, dropout)
        return x

    @property
    def drops_out(self) -> bool:
        return self.config.dropout > 0

    def tree_saves(self, nodes: int, tokens: int, positions: int) -> bool:
        c = self.config
        if self.drops_out:
            return False  # nodes that strings share would share their noise
        per_token = c.layers * (4 * c.width * c.inner + 2 * c.width * c.feed_forward)
        tree = nodes * (per_token + 2 * c.layers * nodes * c.inner)
        return tree < tokens * (per_token + 2 * c.layers * positions * c.inner)

    def prefill(self, tokens: Tensor, lengths: Tensor, room: int) -> tuple[Tensor, Cache]:
        tokens, lengths = tokens.to(self.device), lengths.to(self.device)
        n, t = tokens.shape
        c = self.config
        size = (c.layers, 2, len(self.seeds), n, c.heads, t + room, c.head)
        # What stands behind a row's end is overwritten as the row grows, and masked until then.
        cache = Cache(self.parameters["embedding"].new_zeros(size), lengths + 1)
        positions = torch.arange(t, device=self.device)[None, None]
        mask = self._mask(positions, positions, causal(positions, t))
        with torch.no_grad():
            x = self._embed(tokens, positions, None)
            for i in range(c.layers):
                x = self._layer(i, x, positions, mask, cache.memory[i, ..., :t, :], None)
            last = x[:, torch.arange(n, device=self.device), lengths]  # [S, N, D]
            return self._head(last[:, :, None])[:, :, 0].double().log_softmax(-1).cpu(), cache

    def advance(self, cache: Cache, tokens: Tensor) -> Tensor:
        positions = cache.read[None, :, None]  # [1, N, 1]
        longest = int(cache.read.max()) + 1
        keys = torch.arange(longest, device=self.device)
        mask = self._mask(positions, keys, causal(positions, longest))
        with torch.no_grad():
            x = self._embed(tokens.to(self.device)[..., None], positions, None)
            for i in range(self.config.layers):
                x = self._layer(i, x, positions, mask, cache.memory[i, ..., :longest, :], None)
            cache.read = cache.read + 1
            return self._head(x)[:, :, 0].double().log_softmax(-1).cpu()

    def select(self, cache: Cache, rows: Tensor) -> Cache:
        rows = rows.to(self.device)
        return Cache(cache.memory[:, :, :, rows], cache.read[rows])

    # The pieces. x is [S, B, T, D]; positions [S or 1, B or 1, T]; mask, what is added to the scores, broadcasts to
    # [S, B, H, T, keys], and None stands for plain causal attention.

    def _mask(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        c = self.config
        zero = self.parameters["embedding"].new_zeros(())
        bias = alibi(queries, keys, c.heads, c.tables.slopes).to(zero) if c.positions == "alibi" else zero
        return torch.where(visible[..., None, :, :], bias, -math.inf)

    def _embed(self, tokens: Tensor, positions: Tensor, dropout: Dropout | None) -> Tensor:
        c, seeds = self.config, len(self.seeds)
        x = embed(self.parameters, "embedding", per_seed(tokens, seeds)) * math.sqrt(c.width)
        if c.positions == "sinusoidal":
            x = x + tiled_sinusoids(positions, c.width, c.tables, x.dtype)
        elif c.positions == "learned":
            if int(positions.max()) >= c.context:
                positions = positions.masked_fill(tokens == self.vocabulary.pad, 0)  # padding needs no place
                if (longest := int(positions.max())) >= c.context:
                    raise UsageError(
                        f"a string of {longest} symbols does not fit the model's context of {c.context} "
                        "positions (BOS included); raise `context`"
                    )
            x = x + embed(self.parameters, "positions", per_seed(positions, seeds))
        return drop(x, c.dropout, dropout)

    def _layer(
        self,
        i: int,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        memory: Tensor | None,
        dropout: Dropout | None,
    ) -> Tensor:
        rate = self.config.dropout

        def attend(x: Tensor) -> Tensor:
            return drop(self._attend(i, x, positions, mask, memory, dropout), rate, dropout)

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
        mask: Tensor | None,
        memory: Tensor | None,
        dropout: Dropout | None,
    ) -> Tensor:
        s, b, t, _ = x.shape
        c = self.config
        qkv = linear(self.parameters, f"layers.{i}.attention.in", x).view(s, b, t, 3, c.heads, c.head)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each [S, B, H, T, E]
        if c.positions == "rotary":
            q, k = (rotate_blocks(z, positions, c.tables.head_copies) for z in (q, k))
        if memory is not None:  # [2, S, B, H, keys, E]
            rows = torch.arange(b, device=x.device)[:, None]
            # Advanced indices come first: [B, T, S, H, E].
            memory[0][:, rows, :, positions[0]] = k.permute(1, 3, 0, 2, 4)
            memory[1][:, rows, :, positions[0]] = v.permute(1, 3, 0, 2, 4)
            k, v = memory
        if dropout is not None and self.drops_out:
            assert mask is not None
            scores = q @ k.transpose(-1, -2) / math.sqrt(c.head) + mask
            mixed = drop(scores.softmax(-1), c.dropout, dropout) @ v
        else:
            # The fused kernel wants one batch dimension.
            if mask is not None:
                mask = mask[0] if mask.shape[:2] == (1, 1) else mask.expand(s, b, -1, t, -1).flatten(0, 1)
            q, k, v = (z.flatten(0, 1) for z in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None).unflatten(0, (s, b))
        return linear(self.parameters, f"layers.{i}.attention.out", mixed.transpose(2, 3).reshape(s, b, t, c.inner))

    def _feed_forward(self, i: int, x: Tensor, dropout: Dropout | None) -> Tensor:
        hidden = drop(linear(self.parameters, f"layers.{i}.feed_forward.in", x).relu(), self.config.dropout, dropout)
        return linear(self.parameters, f"layers.{i}.feed_forward.out", hidden)

    def _head(self, x: Tensor) -> Tensor:
        if not self.config.tied:
            return linear(self.parameters, "output", self._last(x))
        weight = self.parameters["embedding"][:, : self.vocabulary.n_outputs].mT  # symbols and EOS come first
        output = {"output.weight": weight, "output.bias": self.parameters["output.bias"]}
        return linear(output, "output", self._last(x))

    def _last(self, x: Tensor) -> Tensor:
        return self._norm("norm", x) if self.config.norm == "pre" else x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(self.parameters, name, x, self.config.layer_norm_eps)
