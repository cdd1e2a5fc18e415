"""Where a token stands: position encodings of the transformer, and which keys a query sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def causal(positions: Tensor, keys: int) -> Tensor:
    """Positions [..., T] → bool [..., T, keys]: which of the keys 0, 1, … a query at each position sees."""
    return torch.arange(keys, device=positions.device) <= positions[..., None]


def same_string(strings: Tensor) -> Tensor:
    """The string of its row that each token belongs to [..., T] → bool [..., T, T]: keys of the same string, none later."""
    t = strings.shape[-1]
    earlier = torch.ones(t, t, dtype=torch.bool, device=strings.device).tril()
    return (strings[..., :, None] == strings[..., None, :]) & earlier


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions [...] → encodings [..., width]: sines and cosines of geometric frequencies (Vaswani et al. 2017)."""
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) on x [S, B, H, T, E] with positions [S or 1, B or 1, T]."""
    half = x.shape[-1] // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=x.device) / half)
    angles = (positions[..., None] * frequencies)[:, :, None]  # [S or 1, B or 1, 1, T, E/2]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


def alibi(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Positions of queries [..., T] and keys [..., K] → what is added to their scores, [..., H, T, K].

    Head h of H takes 2^(−8h/H) off a score for each step between the two (Press et al. 2022).
    """
    slopes = 2.0 ** (-8 / heads * torch.arange(1, heads + 1, device=queries.device))
    return slopes[:, None, None] * (keys[..., None, None, :] - queries[..., None, :, None])
