"""Gated linear attention over a stack of seeds (Yang et al. 2024, arXiv 2312.06635, section 4).

Shapes: S seeds, B rows, T positions, D width, H heads, K = D/2H key and J = D/H value channels a head, V outputs.
A head's state S_t = diag(α_t) S_{t−1} + k_tᵀ v_t is [K, J] and is read by o_t = q_t S_t; the decays α_t of its key channels
depend on the token. A layer is x + out(RMSNorm(o) ⊙ SiLU(gate)) of RMSNorm(x), then a SwiGLU feed-forward in the same way.

Whole strings are read in chunks of C ≤ 16 positions (section 4.3): inside one, with c_t = Σ log α, o is
((q ⊙ exp(c)) (k ⊙ exp(−c))ᵀ, masked) v, a product of matrices; the chunks hand their states on by a linear scan of T/C steps.
So time and memory grow with T, not with T².
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
from lmtest.models.layers import linear, linear_shapes, norm_shapes, own_string, rms_norm
from lmtest.models.recurrent import Blocks, State
from lmtest.models.scan import linear_scan
from lmtest.models.stack import Shape
from lmtest.validation import Table

CHUNK = 16
RANK = 16
"""Of the map from a token to its decays, as in the paper."""
TEMPERATURE = 16
"""α = sigmoid(·)^(1/τ): decays start near 1, so that memory lasts."""
SHORTEST_MEMORY = -5.0
"""Least log α (reached at sigmoid(−80)): half a chunk of it is e^±40, so that neither factor of a decay can overflow."""


class GlaConfig(Table):
    """A gated linear attention as a study's `[models.NAME]` table declares it."""

    architecture: Literal["gated_linear_attention"]
    layers: int = Field(2, ge=1, le=limits.MOST_LAYERS)
    width: int = Field(64, ge=1, le=limits.MOST_WIDTH)
    heads: int = Field(4, ge=1, le=limits.MOST_WIDTH)
    feed_forward: int = Field(128, ge=1, le=limits.MOST_WIDTH)

    @model_validator(mode="after")
    def _head_size(self) -> GlaConfig:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"keys have half the width: expected 2 × heads to divide width, found width = {self.width}, "
                f"heads = {self.heads}"
            )
        return self

    def check(self, longest: float) -> None:
        """No string is too long."""

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> GatedLinearAttention:
        return GatedLinearAttention(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embedding, layers, last norm, output."""
        d, f, k = self.width, self.feed_forward, self.width // 2
        mixer = d * (2 * k + d) + (d + 1) * d + RANK * d + (RANK + 1) * k + d + d * d
        layer = mixer + 3 * d * f + 2 * d
        return vocabulary.n_inputs * d + self.layers * layer + d + (d + 1) * vocabulary.n_outputs


class GatedLinearAttention(Blocks):
    """See the module's docstring; initialised like torch's own layers, embeddings to unit variance."""

    def __init__(self, config: GlaConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> None:
        self.config, self.n_blocks = config, config.layers
        d, f, k = config.width, config.feed_forward, config.width // 2
        shapes = {"embedding": Shape((vocabulary.n_inputs, d), "normal", 1.0)}
        for i in range(config.layers):
            name = f"layers.{i}"
            shapes |= norm_shapes(f"{name}.norm1", d, bias=False)
            shapes |= linear_shapes(f"{name}.in", d, 2 * k + d, bias=False)
            shapes |= linear_shapes(f"{name}.gate", d, d)
            shapes |= linear_shapes(f"{name}.decay.low", d, RANK, bias=False)
            shapes |= linear_shapes(f"{name}.decay", RANK, k)
            shapes |= norm_shapes(f"{name}.head_norm", d, bias=False)
            shapes |= linear_shapes(f"{name}.out", d, d, bias=False)
            shapes |= norm_shapes(f"{name}.norm2", d, bias=False)
            shapes |= linear_shapes(f"{name}.feed_forward.in", d, 2 * f, bias=False)
            shapes |= linear_shapes(f"{name}.feed_forward.out", f, d, bias=False)
        shapes |= norm_shapes("norm", d, bias=False) | linear_shapes("output", d, vocabulary.n_outputs)
        super().__init__(vocabulary, seeds, shapes, device)

    def initial(self, rows: int) -> State:
        c = self.config
        size = (len(self.seeds), rows, c.heads, c.width // 2 // c.heads, c.width // c.heads)
        return {str(i): self.parameters["embedding"].new_zeros(size) for i in range(c.layers)}

    def block(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        q, k, v, log_decay, gate = self._inputs(i, x)
        if state is None:
            return self._outputs(i, x, attend(q, k, v, log_decay, place), gate)
        state[str(i)] = log_decay.exp().mT * state[str(i)] + k.mT @ v  # [S, N, H, K, J]
        return self._outputs(i, x, q @ state[str(i)], gate)

    def _inputs(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x [S, B, T, D] → q, k [S, B, H, T, K], v [S, B, H, T, J], log α [S, B, H, T, K], and the output gate [S, B, T, D]."""
        p, name, d = self.parameters, f"layers.{i}", self.config.width
        x = rms_norm(p, f"{name}.norm1", x)
        q, k, v = linear(p, f"{name}.in", x).split([d // 2, d // 2, d], -1)
        decay = F.logsigmoid(linear(p, f"{name}.decay", linear(p, f"{name}.decay.low", x))) / TEMPERATURE
        q, k, v, decay = (z.unflatten(-1, (self.config.heads, -1)).transpose(2, 3) for z in (q, k, v, decay))
        return q, k, v, decay.clamp_min(SHORTEST_MEMORY), F.silu(linear(p, f"{name}.gate", x))

    def _outputs(self, i: int, x: Tensor, o: Tensor, gate: Tensor) -> Tensor:
        """x [S, B, T, D] and what its heads read, [S, B, H, T, J] → the next layer's x."""
        p, name = self.parameters, f"layers.{i}"
        normal = F.rms_norm(o, o.shape[-1:], eps=1e-5).transpose(2, 3).flatten(-2)
        x = x + linear(p, f"{name}.out", normal * p[f"{name}.head_norm.weight"][:, None, None] * gate)
        gate, value = linear(p, f"{name}.feed_forward.in", rms_norm(p, f"{name}.norm2", x)).chunk(2, -1)
        return x + linear(p, f"{name}.feed_forward.out", F.silu(gate) * value)

    def normalise(self, x: Tensor) -> Tensor:
        return rms_norm(self.parameters, "norm", x)


def attend(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, place: Tensor | None) -> Tensor:
    """q, k, log α [S, B, H, T, K], v [S, B, H, T, J] → o [S, B, H, T, J]; `place` [S, B, T] keeps strings apart.

    `log_decay` between SHORTEST_MEMORY and 0. A position reads its own key too, undecayed.
    """
    t = q.shape[-2]
    n = math.ceil(t / CHUNK)
    size = math.ceil(t / n)
    # Fewer than n positions are added; they stand behind everything and are cut off again.
    q, k, v, log_decay = (_chunked(z, n, size) for z in (q, k, v, log_decay))  # [S, B, H, n, C, …]
    total = log_decay.cumsum(-2)
    middle = total[..., size // 2, None, :]
    if place is not None:
        place = F.pad(place, (0, n * size - t)).unflatten(-1, (n, size))[:, :, None]  # [S, B, 1, n, C]
    visible = own_string(size, place, q.device)
    scores = (q * (total - middle).exp()) @ (k * (middle - total).exp()).mT
    o = scores.masked_fill(~visible, 0.0) @ v
    if n > 1:
        o = o + _from_earlier_chunks(q, k, v, total, place)
    return o.flatten(3, 4)[..., :t, :]


def _from_earlier_chunks(q: Tensor, k: Tensor, v: Tensor, total: Tensor, place: Tensor | None) -> Tensor:
    """What positions read of the states that the chunks before theirs left, [S, B, H, n, C, J]."""
    end = total[..., -1:, :]  # [S, B, H, n, 1, K]
    reading, leaving, decay = total.exp(), (end - total).exp(), end.exp()
    if place is not None:
        index = torch.arange(q.shape[-2], device=q.device)
        first = index - place  # where a position's string begins, counted in this chunk; negative: before it
        reading = reading * (first < 0)[..., None]
        leaving = leaving * (index >= first[..., -1:])[..., None]
        decay = decay * (first[..., -1:] < 0)[..., None]
    left = linear_scan(decay.mT, (k * leaving).mT @ v)  # [S, B, H, n, K, J]
    before = F.pad(left, (0, 0, 0, 0, 1, 0))[..., :-1, :, :]
    return (q * reading) @ before


def _chunked(z: Tensor, n: int, size: int) -> Tensor:
    padded = F.pad(z, (0, 0, 0, n * size - z.shape[-2]))
    return padded.view(*z.shape[:-2], n, size, z.shape[-1])
