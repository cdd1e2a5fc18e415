"""xLSTM over a stack of seeds: mLSTM and sLSTM blocks (Beck et al. 2024, arXiv 2405.04517), from the paper's equations.

Shapes: S seeds, B rows, T positions, D width, E = 2·D inner channels of an mLSTM, H heads, K channels a head, V outputs.
mLSTM (section 2.3, figure 11): C_t = f C_{t−1} + i v kᵀ, n_t = f n_{t−1} + i k, h = C q / max(|nᵀq|, 1), with f = σ(·) and
i = exp(·); pre-up-projection. sLSTM (section 2.2, figure 10): c = f c + i z, n = f n + i, h = o c / n, with gates that read
the head's last h; a gated feed-forward follows. Every block stands in a residual stream behind a layer norm.

Exponential gates overflow, so the paper divides C, c and n by exp(m), which cancels in h. mLSTMs here do the same with an
m ≥ 0, which also bounds the exp(−m) that 1 turns into; sLSTMs are in `slstm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from lmtest import limits
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.layers import (
    causal_convolution,
    convolution_shapes,
    layer_norm,
    linear,
    linear_shapes,
    norm_shapes,
    own_string,
)
from lmtest.models.recurrent import Blocks, State
from lmtest.models.slstm import slstm, slstm_step
from lmtest.models.stack import Shape
from lmtest.validation import Table

EXPAND = 2
"""Inner channels of an mLSTM per unit of width."""
BLOCK = 4
"""Channels that a block of an mLSTM's q, k and v maps mixes."""


class XlstmConfig(Table):
    """An xLSTM as a study's `[models.NAME]` table declares it."""

    architecture: Literal["xlstm"]
    layers: int = Field(2, ge=1, le=limits.MOST_LAYERS)
    width: int = Field(64, ge=1, le=limits.MOST_WIDTH)
    heads: int = Field(4, ge=1, le=limits.MOST_WIDTH)
    slstm_at: list[int] = [1]
    """Which blocks, counted from 0, are sLSTMs; the others are mLSTMs."""
    conv: int = Field(4, ge=1, le=limits.MOST_WIDTH)

    @model_validator(mode="after")
    def _sizes(self) -> XlstmConfig:
        if self.width % self.heads:
            raise ValueError(f"expected heads to divide width, found width = {self.width}, heads = {self.heads}")
        if self.inner % BLOCK:
            raise ValueError(f"expected width to be even, found {self.width}: an mLSTM has blocks of {BLOCK} channels")
        if wrong := [i for i in self.slstm_at if not 0 <= i < self.layers]:
            raise ValueError(f"slstm_at names blocks 0 to {self.layers - 1}, found {wrong[0]}")
        if len(set(self.slstm_at)) < len(self.slstm_at):
            raise ValueError(f"slstm_at names every block at most once, found {self.slstm_at}")
        return self

    @property
    def inner(self) -> int:
        return EXPAND * self.width

    @property
    def feed_forward(self) -> int:
        """Hidden channels behind an sLSTM: 4/3 of the width, rounded up."""
        return math.ceil(4 * self.width / 3)

    def check(self, longest: float) -> None:
        """No string is too long."""

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> Xlstm:
        return Xlstm(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embedding, blocks, last norm, output."""
        d, e, h, f = self.width, self.inner, self.heads, self.feed_forward
        mlstm = 2 * d + 2 * d * e + (self.conv + 1) * e + 3 * e * BLOCK + 2 * (e + 1) * h + 2 * e + e * d
        slstm = 2 * d + (self.conv + 1) * d + 8 * d * d // h + 4 * d + d + 2 * d + 3 * d * f
        blocks = len(self.slstm_at) * slstm + (self.layers - len(self.slstm_at)) * mlstm
        return vocabulary.n_inputs * d + blocks + 2 * d + (d + 1) * vocabulary.n_outputs


class Xlstm(Blocks):
    """See the module's docstring; forget gates start with biases from 3 to 6, so that memory lasts, input gates near 1."""

    def __init__(self, config: XlstmConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> None:
        self.config, self.n_blocks = config, config.layers
        d = config.width
        shapes = {"embedding": Shape((vocabulary.n_inputs, d), "normal", 1.0)}
        for i in range(config.layers):
            shapes |= norm_shapes(f"blocks.{i}.norm", d)
            shapes |= (_slstm_shapes if i in config.slstm_at else _mlstm_shapes)(f"blocks.{i}", config)
        shapes |= norm_shapes("norm", d) | linear_shapes("output", d, vocabulary.n_outputs)
        super().__init__(vocabulary, seeds, shapes, device)

    def initial(self, rows: int) -> State:
        c, s, zeros = self.config, len(self.seeds), self.parameters["embedding"].new_zeros
        state: State = {}
        for i in range(c.layers):
            width = c.width if i in c.slstm_at else c.inner
            cell = (s, rows, c.heads, width // c.heads)
            if i in c.slstm_at:
                start = {"hidden": zeros(cell), "mean": zeros(cell), "log_n": zeros(cell).fill_(-math.inf)}
            else:
                start = {"c": zeros(*cell, cell[-1]), "n": zeros(*cell, 1), "m": zeros(*cell[:3], 1, 1)}
            start["past"] = zeros(s, rows, c.conv - 1, width)
            state |= {f"{i}.{name}": value for name, value in start.items()}
        return state

    def block(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        p, name = self.parameters, f"blocks.{i}"
        y = layer_norm(p, f"{name}.norm", x)
        if i not in self.config.slstm_at:
            return x + self._mlstm(i, y, place, state)
        x = x + self._slstm(i, y, place, state)
        gate, value = linear(p, f"{name}.feed_forward.in", layer_norm(p, f"{name}.norm2", x)).chunk(2, -1)
        return x + linear(p, f"{name}.feed_forward.out", F.gelu(gate) * value)

    def _convolution(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        past = None if state is None else state[f"{i}.past"]
        seen, past = causal_convolution(self.parameters, f"blocks.{i}.convolution", x, place, past)
        if state is not None:
            state[f"{i}.past"] = past
        return F.silu(seen)

    def _mlstm(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        p, name, h = self.parameters, f"blocks.{i}", self.config.heads
        u, z = linear(p, f"{name}.up", x).chunk(2, -1)  # [S, B, T, E] each
        seen = self._convolution(i, u, place, state)
        inputs = {"q": seen, "k": seen, "v": u}
        q, k, v = (_blockwise(y, p[f"{name}.{kind}.weight"]) for kind, y in inputs.items())
        q, k, v = (y.unflatten(-1, (h, -1)).transpose(2, 3) for y in (q, k, v))  # [S, B, H, T, K]
        k = k / math.sqrt(k.shape[-1])
        bias = torch.cat([p[f"{name}.input.bias"], p[f"{name}.forget.bias"]], -1)
        enter, forget = (linear(p, f"{name}.gates", seen) + bias[:, None, None]).mT.chunk(2, 2)  # ĩ, f̃ [S, B, H, T]
        if state is None:
            out = read_whole(q, k, v, enter, F.logsigmoid(forget), place)
        else:
            old = (state[f"{i}.c"], state[f"{i}.n"], state[f"{i}.m"])
            out, new = read_next(q, k, v, enter[..., None], F.logsigmoid(forget)[..., None], *old)
            state[f"{i}.c"], state[f"{i}.n"], state[f"{i}.m"] = new
        mixed = _head_norm(p[f"{name}.head_norm.weight"], out.transpose(2, 3))
        mixed = torch.addcmul(mixed, seen, p[f"{name}.skip"][:, None, None])
        return linear(p, f"{name}.down", mixed * F.silu(z))

    def _slstm(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        p, name, (s, b, t, _), h = self.parameters, f"blocks.{i}", x.shape, self.config.heads
        seen = self._convolution(i, x, place, state)

        def per_head(y: Tensor, weight: Tensor) -> Tensor:  # [S, B, T, H·K] → [S·H, T·B, 2·K]
            return y.view(s, b, t, h, -1).permute(0, 3, 2, 1, 4).reshape(s * h, t * b, -1) @ weight.flatten(0, 1)

        inputs = per_head(seen, p[f"{name}.input_forget.weight"]), per_head(x, p[f"{name}.cell_output.weight"])
        bias = torch.cat([p[f"{name}.{gate}.bias"] for gate in ("input", "forget", "cell", "output")], -1)
        gates = torch.cat(inputs, -1) + bias.flatten(0, 1)[:, None]
        gates = gates.unflatten(1, (t, b)).transpose(0, 1).contiguous()  # [T, S·H, B, 4·K]
        recurrent = p[f"{name}.recurrent.weight"].flatten(0, 1)
        if state is None:
            first = None if place is None else (place == 0).permute(2, 0, 1).repeat_interleave(h, 1)[..., None]
            hidden = slstm(gates, recurrent, first)
        else:
            keys = [f"{i}.{key}" for key in ("hidden", "mean", "log_n")]
            new = slstm_step(gates[0], recurrent, *(state[key].transpose(1, 2).flatten(0, 1) for key in keys))
            state |= {key: y.unflatten(0, (s, h)).transpose(1, 2) for key, y in zip(keys, new, strict=True)}
            hidden = new[0][None]
        return _head_norm(p[f"{name}.head_norm.weight"], hidden.unflatten(1, (s, h)).permute(1, 3, 0, 2, 4))

    def normalise(self, x: Tensor) -> Tensor:
        return layer_norm(self.parameters, "norm", x)


def read_whole(q: Tensor, k: Tensor, v: Tensor, enter: Tensor, keep: Tensor, place: Tensor | None) -> Tensor:
    """The mLSTM at all positions at once (appendix A.3): q, k, v [S, B, H, T, K], ĩ and log f [S, B, H, T] → h [S, B, H, T, K].

    `place` [S, B, T] keeps the strings of a row apart.
    """
    total = keep.cumsum(-1)
    if place is not None:
        # Only differences within a string matter: without the strings before it the sum stays small, and exact enough.
        starts = (torch.arange(place.shape[-1], device=place.device) - place)[:, :, None].expand_as(keep)
        exact = keep.double().cumsum(-1)
        total = (exact - exact.gather(-1, starts)).to(keep.dtype)
    visible = own_string(q.shape[-2], place if place is None else place[:, :, None], q.device)
    logs = (total[..., :, None] + (enter - total)[..., None, :]).masked_fill(~visible, -math.inf)  # [S, B, H, T, T]
    m = logs.detach().amax(-1, keepdim=True).clamp_min(0.0)  # it cancels, so it needs no gradient
    weights = (q @ k.mT) * (logs - m).exp()
    return (weights @ v) / torch.maximum(weights.sum(-1, keepdim=True).abs(), (-m).exp())


def read_next(
    q: Tensor, k: Tensor, v: Tensor, enter: Tensor, keep: Tensor, c: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The mLSTM at the next position: q, k, v [S, B, H, 1, K], ĩ, log f and m [S, B, H, 1, 1], C [S, B, H, K, K], n [S, B, H, K, 1]
    → h [S, B, H, 1, K], and the next C, n, m."""
    old, m = keep + m, torch.maximum(keep + m, enter).clamp_min(0.0)
    forget, enter = (old - m).exp(), (enter - m).exp()
    c, n = forget * c + enter * (k.mT @ v), forget * n + enter * k.mT
    return (q @ c) / torch.maximum((q @ n).abs(), (-m).exp()), (c, n, m)


def _head_norm(weight: Tensor, x: Tensor) -> Tensor:
    """Layer norm of every head of x [S, B, T, H, K], times a weight [S, H·K] → [S, B, T, H·K]."""
    return F.layer_norm(x, x.shape[-1:]).flatten(-2) * weight[:, None, None]


def _blockwise(x: Tensor, blocks: Tensor) -> Tensor:
    """x [S, B, T, E] times the block-diagonal matrix of blocks [S, E/4, 4, 4]: on so few channels the full matrix is faster."""
    s, n, size, _ = blocks.shape
    full = blocks[:, :, :, None] * torch.eye(n, dtype=x.dtype, device=x.device)[:, None, :, None]
    return (x.flatten(1, 2) @ full.reshape(s, n * size, n * size)).view_as(x)


def _mlstm_shapes(name: str, config: XlstmConfig) -> dict[str, Shape]:
    d, e, h = config.width, config.inner, config.heads
    shapes = linear_shapes(f"{name}.up", d, 2 * e, bias=False)
    shapes |= convolution_shapes(f"{name}.convolution", e, config.conv)
    for kind in "qkv":
        shapes[f"{name}.{kind}.weight"] = Shape((e // BLOCK, BLOCK, BLOCK), "uniform", BLOCK**-0.5)
    shapes |= linear_shapes(f"{name}.gates", e, 2 * h, bias=False)
    shapes[f"{name}.input.bias"] = Shape((h,), "normal", 0.1)
    shapes[f"{name}.forget.bias"] = Shape((h,), "lasting")
    shapes |= norm_shapes(f"{name}.head_norm", e, bias=False)
    shapes[f"{name}.skip"] = Shape((e,), "ones")
    return shapes | linear_shapes(f"{name}.down", e, d, bias=False)


def _slstm_shapes(name: str, config: XlstmConfig) -> dict[str, Shape]:
    d, h, f = config.width, config.heads, config.feed_forward
    k = d // h
    shapes = convolution_shapes(f"{name}.convolution", d, config.conv)
    for gates, size in (("input_forget", 2 * k), ("cell_output", 2 * k), ("recurrent", 4 * k)):
        shapes[f"{name}.{gates}.weight"] = Shape((h, k, size), "uniform", k**-0.5)
    shapes[f"{name}.input.bias"] = Shape((h, k), "normal", 0.1)
    shapes[f"{name}.forget.bias"] = Shape((h, k), "lasting")
    shapes |= {f"{name}.{gate}.bias": Shape((h, k), "zeros") for gate in ("cell", "output")}
    shapes |= norm_shapes(f"{name}.head_norm", d, bias=False) | norm_shapes(f"{name}.norm2", d)
    shapes |= linear_shapes(f"{name}.feed_forward.in", d, 2 * f, bias=False)
    return shapes | linear_shapes(f"{name}.feed_forward.out", f, d, bias=False)
