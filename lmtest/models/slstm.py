"""The sLSTM recurrence (Beck et al. 2024, arXiv 2405.04517, section 2.2) with its own backward: the one loop over time that
cannot be unrolled into matrix products, because its gates read the last hidden state.

With z = tanh(z̃), o = σ(õ), i = exp(ĩ), f = σ(f̃) the paper has c_t = f c_{t−1} + i z, n_t = f n_{t−1} + i, h_t = o c_t / n_t,
and keeps exp from overflowing by a running maximum m. Here the state is r = c / n and ℓ = log n instead, which is the
same h without any m: r_t = r_{t−1} + w (z − r_{t−1}) and ℓ_t = log(exp(u) + exp(ĩ)) with u = log f + ℓ_{t−1} and
w = i / n_t = σ(ĩ − u). Before a string ℓ = −∞, so its first w is 1. A constant on ĩ cancels: the input gate's bias is a
parameter that the loss cannot feel.

Shapes: T positions, G = seeds × heads, B rows, K channels a head; gates stand in the order ĩ, f̃, z̃, õ.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def slstm(gates: Tensor, recurrent: Tensor, first: Tensor | None) -> Tensor:
    """Gates [T, G, B, 4·K] before the recurrence, its weights [G, K, 4·K] → hidden states [T, G, B, K].

    `first` [T, G, B, 1] is True where a string begins (BOS); None where every row is one string.
    """
    return _Slstm.apply(gates, recurrent, first)  # type: ignore[no-any-return, no-untyped-call]


def slstm_step(
    gates: Tensor, recurrent: Tensor, hidden: Tensor, mean: Tensor, log_n: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One position: gates [G, B, 4·K] and the state h, r, ℓ, each [G, B, K] → the next h, r, ℓ."""
    i, f, z, o = torch.baddbmm(gates, hidden, recurrent).chunk(4, -1)
    u = F.logsigmoid(f) + log_n
    mean = torch.lerp(mean, z.tanh(), (i - u).sigmoid())
    return o.sigmoid() * mean, mean, torch.logaddexp(u, i)


class _Slstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, recurrent: Tensor, first: Tensor | None) -> Tensor:
        t, size = gates.shape[0], recurrent.shape[1]
        acts = torch.empty_like(gates)  # w, σ(−f̃), z, o of every position: what the backward needs of the gates
        hidden = gates.new_empty((*gates.shape[:-1], size))
        mean = torch.empty_like(hidden)
        h, r = torch.zeros_like(hidden[0]), torch.zeros_like(hidden[0])
        log_n = torch.full_like(h, -math.inf)
        for j in range(t):
            if first is not None and j:
                h, log_n = h.masked_fill(first[j], 0.0), log_n.masked_fill(first[j], -math.inf)
            torch.baddbmm(gates[j], h, recurrent, out=acts[j])
            i, f, z, o = acts[j].chunk(4, -1)
            u = F.logsigmoid(f) + log_n
            log_n = torch.logaddexp(u, i)
            torch.sub(i, u, out=i).sigmoid_()
            f.neg_().sigmoid_()
            r = torch.lerp(r, z.tanh_(), i, out=mean[j])
            h = torch.mul(o.sigmoid_(), r, out=hidden[j])
        ctx.save_for_backward(acts, hidden, mean, recurrent, first)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        acts, hidden, mean, recurrent, first = ctx.saved_tensors
        t = len(acts)
        dgates = torch.empty_like(acts)
        back = recurrent.mT.contiguous()
        dh, dr, dlog = torch.zeros_like(hidden[0]), torch.zeros_like(hidden[0]), torch.zeros_like(hidden[0])
        start = torch.zeros_like(hidden[0])
        for j in range(t - 1, -1, -1):
            w, not_f, z, o = acts[j].chunk(4, -1)
            di, df, dz, do = dgates[j].chunk(4, -1)
            before = mean[j - 1] if j else start
            dh = dh + grad[j]
            dr = torch.addcmul(dr, dh, o)
            torch.mul(dh * mean[j], o * (1 - o), out=do)
            torch.mul(dr * w, 1 - z * z, out=dz)
            kept = 1 - w
            # ĩ and u pull at w with opposite signs, and share ℓ as w : 1 − w.
            pull = dr * (z - before) * w * kept
            torch.addcmul(pull, dlog, w, out=di)
            dlog = torch.addcmul(pull.neg_(), dlog, kept)
            torch.mul(dlog, not_f, out=df)
            dr = dr * kept
            dh = dgates[j] @ back
            if first is not None:
                dh = dh.masked_fill(first[j], 0.0)
        earlier = torch.cat([start[None], hidden[:-1]])
        if first is not None:
            earlier = earlier.masked_fill(first, 0.0)
        g, k = recurrent.shape[:2]
        rows = earlier.transpose(0, 1).reshape(g, -1, k)
        return dgates, rows.mT @ dgates.transpose(0, 1).reshape(g, -1, 4 * k), None
