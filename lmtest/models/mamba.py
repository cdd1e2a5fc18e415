"""Mamba: a selective state-space model over a stack of seeds (Gu & Dao 2023, arXiv 2312.00752, section 3).

Shapes: S seeds, B rows, T positions, D width, E = 2·D inner channels, N states a channel, R the rank of Δ, V outputs.
A layer is x + out(y ⊙ SiLU(z)) with (u, z) = in(RMSNorm(x)), u = SiLU(convolution(u)), and for every channel
h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t B_t u_t, y_t = C_tᵀ h_t + D u_t, where Δ, B and C are functions of u_t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lmtest import limits
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.layers import (
    causal_convolution,
    convolution_shapes,
    linear,
    linear_shapes,
    norm_shapes,
    rms_norm,
)
from lmtest.models.recurrent import Blocks, State
from lmtest.models.selective_scan import decays, selective_scan
from lmtest.models.stack import Shape
from lmtest.validation import Table

EXPAND = 2
"""Inner channels per unit of width."""


class MambaConfig(Table):
    """A Mamba as a study's `[models.NAME]` table declares it."""

    architecture: Literal["mamba"]
    layers: int = Field(2, ge=1, le=limits.MOST_LAYERS)
    width: int = Field(32, ge=1, le=limits.MOST_WIDTH)
    state: int = Field(16, ge=1, le=limits.MOST_WIDTH)
    conv: int = Field(4, ge=1, le=limits.MOST_WIDTH)

    @property
    def inner(self) -> int:
        return EXPAND * self.width

    @property
    def rank(self) -> int:
        """Of the map from a token to its step sizes Δ."""
        return math.ceil(self.width / 16)

    def check(self, longest: float) -> None:
        """No string is too long."""

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> Mamba:
        return Mamba(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embedding, layers, last norm, output."""
        d, e, n, r = self.width, self.inner, self.state, self.rank
        layer = d + 2 * d * e + (self.conv + 1) * e + e * (r + 2 * n) + (r + 1) * e + n * e + e + e * d
        return vocabulary.n_inputs * d + self.layers * layer + d + (d + 1) * vocabulary.n_outputs


class Mamba(Blocks):
    """See the module's docstring; A starts at −1, −2, … −N and softplus(bias of Δ) log-uniform in [1e-3, 1e-1]."""

    def __init__(self, config: MambaConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> None:
        self.config, self.n_blocks = config, config.layers
        d, e, n, r = config.width, config.inner, config.state, config.rank
        shapes = {"embedding": Shape((vocabulary.n_inputs, d), "normal", 1.0)}
        for i in range(config.layers):
            shapes |= norm_shapes(f"layers.{i}.norm", d, bias=False)
            shapes |= linear_shapes(f"layers.{i}.in", d, 2 * e, bias=False)
            shapes |= convolution_shapes(f"layers.{i}.convolution", e, config.conv)
            shapes |= linear_shapes(f"layers.{i}.select", e, r + 2 * n, bias=False)
            shapes |= linear_shapes(f"layers.{i}.delta", r, e) | {f"layers.{i}.delta.bias": Shape((e,), "steps")}
            shapes[f"layers.{i}.log_a"] = Shape((e, n), "logarithms")
            shapes[f"layers.{i}.skip"] = Shape((e,), "ones")
            shapes |= linear_shapes(f"layers.{i}.out", e, d, bias=False)
        shapes |= norm_shapes("norm", d, bias=False) | linear_shapes("output", d, vocabulary.n_outputs)
        super().__init__(vocabulary, seeds, shapes, device)

    def initial(self, rows: int) -> State:
        c, zeros = self.config, self.parameters["embedding"].new_zeros
        past, h = (len(self.seeds), rows, c.conv - 1, c.inner), (len(self.seeds), rows, c.state, c.inner)
        return {f"{i}.{name}": zeros(size) for i in range(c.layers) for name, size in {"past": past, "h": h}.items()}

    def block(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        p, name = self.parameters, f"layers.{i}"
        u, z = linear(p, f"{name}.in", rms_norm(p, f"{name}.norm", x)).chunk(2, -1)  # [S, B, T, E] each
        u, past = causal_convolution(p, f"{name}.convolution", u, place, None if state is None else state[f"{i}.past"])
        u = F.silu(u)
        rank, n = self.config.rank, self.config.state
        low, b, c = linear(p, f"{name}.select", u).split([rank, n, n], -1)
        delta = F.softplus(linear(p, f"{name}.delta", low))  # [S, B, T, E]
        a = -p[f"{name}.log_a"].exp().mT  # [S, N, E]
        if state is None:
            y = selective_scan(delta, u, a, b, c, place)
        else:
            h = decays(delta, a)[:, :, 0] * state[f"{i}.h"] + b.mT * (delta * u)
            state[f"{i}.past"], state[f"{i}.h"] = past, h
            y = c @ h
        y = torch.addcmul(y, u, p[f"{name}.skip"][:, None, None])
        return x + linear(p, f"{name}.out", y * F.silu(z))

    def normalise(self, x: Tensor) -> Tensor:
        return rms_norm(self.parameters, "norm", x)
