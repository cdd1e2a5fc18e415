"""Long short-term memory over a stack of seeds (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

Shapes: S seeds, B rows, T positions, E inputs of a layer, D width, V outputs. Every weight carries a leading S.
With the gates o, i, f and the candidate u, all affine in (x_t, h_{t−1}): c_t = σ(f)·c_{t−1} + σ(i)·tanh(u) and
h_t = σ(o)·tanh(c_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmtest import limits
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.layers import embed, linear, linear_shapes, per_seed
from lmtest.models.recurrent import Recurrent, State
from lmtest.models.stack import Dropout, Shape, Tree, drop
from lmtest.validation import Table


class LstmConfig(Table):
    """An LSTM as a study's `[models.NAME]` table declares it; published: embedding 16, 5 layers of width 64, dropout 0.4."""

    architecture: Literal["lstm"]
    layers: int = Field(2, ge=1, le=limits.MOST_LAYERS)
    width: int = Field(64, ge=1, le=limits.MOST_WIDTH)
    """Hidden size of every layer."""
    embedding: int = Field(16, ge=1, le=limits.MOST_WIDTH)
    dropout: float = Field(0.0, ge=0, lt=1)
    """On the outputs of every layer but the last."""

    def check(self, longest: float) -> None:
        """Strings of any length will do."""

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> Lstm:
        return Lstm(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embedding, layers, output.

        The published count (Mészáros et al. 2024: 152,951 with embedding 10 and two symbols) has a second bias of every
        gate, redundant with the first (4 · 64 · 5 = 1,280), and outputs for BOS and PAD (2 · 65 = 130): ours is 151,541.
        """
        d = self.width
        inputs = self.embedding + (self.layers - 1) * d
        return (
            self.embedding * vocabulary.n_inputs
            + 4 * d * (inputs + self.layers * (d + 1))
            + (d + 1) * vocabulary.n_outputs
        )


class Lstm(Recurrent):
    """See the module's docstring; initialised like torch's own: everything uniform within ± 1/√D, embeddings normal."""

    def __init__(self, config: LstmConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> None:
        self.config = config
        d = config.width
        shapes = {"embedding": Shape((vocabulary.n_inputs, config.embedding), "normal", 1.0)}
        for i in range(config.layers):
            shapes |= {
                f"layers.{i}.in.weight": Shape((d if i else config.embedding, 4 * d), "uniform", d**-0.5),
                f"layers.{i}.in.bias": Shape((4 * d,), "uniform", d**-0.5),
                f"layers.{i}.recurrent.weight": Shape((d, 4 * d), "uniform", d**-0.5),
            }
        super().__init__(vocabulary, seeds, shapes | linear_shapes("output", d, vocabulary.n_outputs), device)

    @property
    def drops_out(self) -> bool:
        return self.config.dropout > 0 and self.config.layers > 1

    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        assert tree is None
        tokens = per_seed(tokens, len(self.seeds)).transpose(1, 2)  # [S, T, B]: time goes first here
        x = embed(self.parameters, "embedding", tokens)
        starts = tokens == self.vocabulary.bos
        keep = (~starts[..., None]).to(x.dtype) if bool(starts[:, 1:].any()) else None
        for i in range(self.config.layers):
            x = _layer(x, *self._weights(i), keep)
            if i + 1 < self.config.layers:
                x = drop(x, self.config.dropout, dropout)
        return linear(self.parameters, "output", x).transpose(1, 2)

    def initial(self, rows: int) -> State:
        zeros = self.parameters["embedding"].new_zeros(len(self.seeds), rows, self.config.layers, self.config.width)
        return {"hidden": zeros, "cell": zeros}

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        x = embed(self.parameters, "embedding", tokens)  # [S, N, E]
        hidden, cell = [], []
        for i in range(self.config.layers):
            into, bias, recurrent = self._weights(i)
            gates = torch.baddbmm(torch.baddbmm(bias[:, None], x, into), state["hidden"][:, :, i], recurrent)
            o, i_, f, u = gates.chunk(4, -1)
            cell.append(f.sigmoid() * state["cell"][:, :, i] + i_.sigmoid() * u.tanh())
            x = o.sigmoid() * cell[-1].tanh()
            hidden.append(x)
        return linear(self.parameters, "output", x), {"hidden": torch.stack(hidden, 2), "cell": torch.stack(cell, 2)}

    def _weights(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of layer i: inputs [S, E, 4D], bias [S, 4D], recurrent [S, D, 4D]; gates in the order o, i, f, u."""
        p = self.parameters
        return p[f"layers.{i}.in.weight"], p[f"layers.{i}.in.bias"], p[f"layers.{i}.recurrent.weight"]


def _layer(x: Tensor, into: Tensor, bias: Tensor, recurrent: Tensor, keep: Tensor | None) -> Tensor:
    """x [S, T, B, E]; keep [S, T, B, 1], 0 where the state is forgotten before the token is read → h [S, T, B, D]."""
    return _Layer.apply(x, into, bias, recurrent, keep)  # type: ignore[no-any-return, no-untyped-call]


class _Layer(torch.autograd.Function):
    """One layer over all positions, its backward written out: what costs time is the memory that a graph of small steps moves.

    tanh(z) = 2σ(2z) − 1 everywhere, with the 2 inside the weights of u: one sigmoid serves all four gates (and torch's tanh
    takes several times as long as its sigmoid on a CPU).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, into: Tensor, bias: Tensor, recurrent: Tensor, keep: Tensor | None) -> Tensor:
        s, t, b, _ = x.shape
        d = recurrent.shape[1]
        into, bias, recurrent = _double(into), _double(bias), _double(recurrent)
        gates = torch.baddbmm(bias[:, None], x.flatten(1, 2), into).view(s, t, b, 4 * d)
        cells, tanhs, hidden = (x.new_empty(s, t, b, d) for _ in range(3))
        for now in range(t):
            gate, cell, tanh = gates[:, now], cells[:, now], tanhs[:, now]
            if now:
                gate.baddbmm_(_kept(hidden, now, keep), recurrent)
            o, i, f, u = gate.sigmoid_().chunk(4, -1)
            torch.mul(i, u, out=cell).mul_(2).sub_(i)
            if now:
                cell.addcmul_(f, _kept(cells, now, keep))
            torch.mul(cell, 2, out=tanh).sigmoid_().mul_(2).sub_(1)
            torch.mul(o, tanh, out=hidden[:, now])
        ctx.save_for_backward(x, into, recurrent, keep, gates, cells, tanhs, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, into, recurrent, keep, gates, cells, tanhs, hidden = ctx.saved_tensors
        d_recurrent = torch.zeros_like(recurrent)
        d_hidden = d_cell = torch.zeros_like(hidden[:, 0])
        slope, other = torch.empty_like(gates[:, 0]), torch.empty_like(d_cell)
        for now in reversed(range(x.shape[1])):
            gate, tanh = gates[:, now], tanhs[:, now]
            o, i, f, u = gate.chunk(4, -1)
            torch.addcmul(gate, gate, gate, value=-1, out=slope)  # σ' = σ − σ²
            d_hidden = d_hidden + grad[:, now]
            torch.mul(tanh, tanh, out=other).neg_().add_(1).mul_(o)
            d_cell = torch.addcmul(d_cell, d_hidden, other)
            d_before = d_cell * f
            # From here the gates' own memory takes their gradients, which spares a tensor of that size.
            torch.mul(u, 2, out=other).sub_(1)
            torch.mul(i, d_cell, out=u).mul_(2)
            torch.mul(other, d_cell, out=i)
            torch.mul(tanh, d_hidden, out=o)
            torch.mul(d_cell, _kept(cells, now, keep), out=f) if now else f.zero_()
            gate.mul_(slope)
            if now:
                d_recurrent.baddbmm_(_kept(hidden, now, keep).transpose(1, 2), gate)
                d_hidden, d_cell = gate @ recurrent.transpose(1, 2), d_before
                if keep is not None:
                    d_hidden, d_cell = d_hidden.mul_(keep[:, now]), d_cell.mul_(keep[:, now])
        d_gates = gates.flatten(1, 2)
        d_into = x.flatten(1, 2).transpose(1, 2) @ d_gates
        d_x = (d_gates @ into.transpose(1, 2)).view_as(x)
        return d_x, _double(d_into), _double(d_gates.sum(1)), _double(d_recurrent), None


def _double(weights: Tensor) -> Tensor:
    """Weights [..., 4D] with those of u doubled."""
    doubled = weights.clone()
    doubled[..., -(weights.shape[-1] // 4) :] *= 2
    return doubled


def _kept(states: Tensor, now: int, keep: Tensor | None) -> Tensor:
    """The state [S, B, D] that position `now` > 0 starts from, of states [S, T, B, D]."""
    before = states[:, now - 1]
    return before if keep is None else before * keep[:, now]
