"""The selective scan of a state-space model with its own backward (Gu & Dao 2023, arXiv 2312.00752, section 3.3).

Every token has N·E decays and states but only 2·E + 2·N inputs. So nothing of that size is kept: as in section 3.3.2 the
backward computes decays and states anew. And few rows are read at a time, so that they stay in the processor's cache.

Shapes: S seeds, B rows, T positions, E channels, N states a channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmtest.models.scan import run, run_back

GROUP = 2**19
"""So many states are read at a time on a CPU, in memory that is taken once (fresh memory costs more than all sums);
elsewhere all are, for there a call costs more than memory's way."""


def selective_scan(delta: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, place: Tensor | None) -> Tensor:
    """y_t = C_tᵀ h_t with h_t = exp(Δ_t A) ⊙ h_{t−1} + B_t Δ_t u_t; Δ, u [S, B, T, E], A [S, N, E], B, C [S, B, T, N] → [S, B, T, E].

    `place` [S, B, T], a token's place in its string: at 0 the states before are forgotten; None where rows are strings.
    """
    return _SelectiveScan.apply(delta, delta * u, a, b, c, place)  # type: ignore[no-any-return, no-untyped-call]


def decays(delta: Tensor, a: Tensor, out: Tensor | None = None) -> Tensor:
    """Δ [S, B, T, E] and A [S, N, E] → exp(Δ A) [S, B, T, N, E]; a power of 2 is several times faster than one of e."""
    return torch.mul(delta[..., None, :], (a / math.log(2))[:, None, None], out=out).exp2_()


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, entering: Tensor, a: Tensor, b: Tensor, c: Tensor, place: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(delta, entering, a, b, c, place)
        y = torch.empty_like(entering)
        for g, (decay, h) in _groups(delta, a, 2):
            _states(delta[:, g], entering[:, g], a, b[:, g], None if place is None else place[:, g], decay, h)
            y[:, g] = (c[:, g, :, None] @ h).squeeze(-2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        delta, entering, a, b, c, place = ctx.saved_tensors
        ddelta, dentering, db, dc = (torch.empty_like(z) for z in (delta, entering, b, c))
        da = torch.zeros_like(a)
        for g, (decay, h, gamma, product) in _groups(delta, a, 4):
            _states(delta[:, g], entering[:, g], a, b[:, g], None if place is None else place[:, g], decay, h)
            dc[:, g] = torch.mul(h, grad[:, g, :, None], out=product).sum(-1)
            torch.mul(
                c[:, g, :, :, None], grad[:, g, :, None], out=gamma
            )  # what the loss asks of h directly, then in all
            run_back(decay, gamma)
            db[:, g] = torch.mul(gamma, entering[:, g, :, None], out=product).sum(-1)
            dentering[:, g] = (b[:, g, :, None] @ gamma).squeeze(-2)
            # ∂(Δ A) = γ_t ⊙ h_{t−1} ⊙ decay_t; nothing stands before the first position.
            decay[:, :, 1:].mul_(gamma[:, :, 1:]).mul_(h[:, :, :-1])
            decay[:, :, 0] = 0.0
            ddelta[:, g] = torch.mul(decay, a[:, None, None], out=product).sum(-2)
            da += decay.mul_(delta[:, g, :, None]).sum((1, 2))
        return ddelta, dentering, da, db, dc, None


def _states(
    delta: Tensor, entering: Tensor, a: Tensor, b: Tensor, place: Tensor | None, decay: Tensor, h: Tensor
) -> None:
    """Writes decays and states [S, B, T, N, E]."""
    decays(delta, a, decay)
    if place is not None:
        decay.masked_fill_((place == 0)[..., None, None], 0.0)
    torch.mul(b[..., None], entering[..., None, :], out=h)
    run(decay, h)


def _groups(delta: Tensor, a: Tensor, n: int) -> Iterator[tuple[slice, Sequence[Tensor]]]:
    """Which rows to read at a time, and n tensors [S, rows, T, N, E] to do it in, the same memory every time."""
    s, rows, t, e = delta.shape
    fit = rows if delta.is_cuda else max(1, GROUP // (a.numel() * t))
    memory = delta.new_empty(n, s, min(fit, rows), t, a.shape[1], e)
    for i in range(0, rows, fit):
        yield slice(i, i + fit), memory[:, :, : rows - i].unbind(0)
