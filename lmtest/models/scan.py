"""The linear recurrence h_t = a_t ⊙ h_{t−1} + b_t, the core of state-space models, with its own backward.

The gradient is the same recurrence read backwards: with g_t what the loss asks of h_t directly,
γ_t = g_t + a_{t+1} ⊙ γ_{t+1}; then ∂b_t = γ_t and ∂a_t = γ_t ⊙ h_{t−1}. So a and h are all that has to be kept, where
automatic differentiation would keep, copy and add up every step.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNKED_FROM = 64
"""A loop over positions does the least work. From so many on, √T chunks side by side (2√T calls, thrice the work) …"""
CHUNKED_BELOW = {"cpu": 2**11, "cuda": 2**18}
"""… are faster where a position holds fewer numbers than this, all seeds and rows: then a call costs more than its work.
Measured on a CPU; on a GPU, what memory moves in the time of a call."""


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """Decays a [..., T, K, V or 1] and inputs b [..., T, K, V] → states h [..., T, K, V], with h_{−1} = 0.

    A decay of 0 forgets exactly. Nothing is divided by a decay and no logarithm is taken, so any size is fine.
    """
    return _Scan.apply(a, b)  # type: ignore[no-any-return, no-untyped-call]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = b.clone(memory_format=torch.contiguous_format)
        run(a, h)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        a, h = ctx.saved_tensors
        gamma = grad.clone(memory_format=torch.contiguous_format)
        run_back(a, gamma)
        if not ctx.needs_input_grad[0]:
            return None, gamma
        t = h.shape[-3]
        later = gamma.narrow(-3, 1, t - 1) * h.narrow(-3, 0, t - 1)
        da = torch.zeros_like(a, memory_format=torch.contiguous_format)
        da.narrow(-3, 1, t - 1).copy_(later if a.shape[-1] == h.shape[-1] else later.sum(-1, keepdim=True))
        return da, gamma


def run(a: Tensor, h: Tensor) -> None:
    """Inputs h [..., T, K, V] become states, in place."""
    t = h.shape[-3]
    if not _chunked(h):
        _loop(a, h)
        return
    size = math.isqrt(t)
    n = t // size
    state = h.narrow(-3, 0, n * size).unflatten(-3, (n, size))  # [..., n, size, K, V]
    decay = a.narrow(-3, 0, n * size).unflatten(-3, (n, size)).clone(memory_format=torch.contiguous_format)
    _loop(decay, state)  # every chunk as if nothing stood before it, …
    for before, now in pairwise(decay.unbind(-3)):
        now.mul_(before)  # … and what it leaves of that
    ends = state.narrow(-3, size - 1, 1).unbind(-4)
    for end, left, now in zip(ends, decay.unbind(-4)[1:], state.unbind(-4)[1:], strict=False):
        now.addcmul_(left, end)
    rest = n * size - 1
    _loop(a.narrow(-3, rest, t - rest), h.narrow(-3, rest, t - rest))


def _loop(a: Tensor, h: Tensor) -> None:
    for (before, now), decay in zip(pairwise(h.unbind(-3)), a.unbind(-3)[1:], strict=True):
        now.addcmul_(decay, before)


def _chunked(h: Tensor) -> bool:
    t = h.shape[-3]
    return t >= CHUNKED_FROM and h.numel() < t * CHUNKED_BELOW.get(h.device.type, 0)


def run_back(a: Tensor, gamma: Tensor) -> None:
    """The mirrored recurrence, in place: a position is reached from the one after it, through that one's decay."""
    if not _chunked(gamma):
        for (later, now), decay in zip(pairwise(gamma.unbind(-3)[::-1]), a.unbind(-3)[:0:-1], strict=True):
            now.addcmul_(decay, later)
        return
    mirrored = gamma.flip(-3)
    run(a.flip(-3).roll(1, -3), mirrored)
    gamma.copy_(mirrored.flip(-3))
