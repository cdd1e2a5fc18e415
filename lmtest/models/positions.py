"""Where a token stands: position encodings of the transformer, and which keys a query sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lmtest import limits
from lmtest.validation import Table


class PositionTables(Table):
    """How the position encodings of a model that was made from a smaller one remain the smaller one's.

    Each entry belongs to one encoding. A model that was not made so has the defaults.
    """

    copies: int = Field(1, ge=1, le=limits.MOST_WIDTH)
    """Sinusoidal: equal tables that stand side by side in the residual stream, …"""
    padding: int = Field(0, ge=0, le=limits.MOST_WIDTH)
    """… and the coordinates behind them that have none; where there are such, each table's mean is taken off it."""
    head_copies: int = Field(1, ge=1, le=limits.MOST_WIDTH)
    """Rotary: equal blocks that a head consists of, each rotated like a head of its own size."""
    slopes: list[float] | None = Field(None)
    """Alibi: what each head takes off a score per step; 2^(−8h/H) where none are given."""

    def check(self, encoding: str, width: int, heads: int, head_size: int) -> None:
        """Raises ValueError where the entries do not fit sizes or encoding (one without use for an entry is refused it)."""
        own = {"sinusoidal": ("copies", "padding"), "rotary": ("head_copies",), "alibi": ("slopes",)}.get(encoding, ())
        for name in self.model_dump(exclude_defaults=True):
            if name not in own:
                raise ValueError(f"tables.{name} means nothing with positions = {encoding!r}; leave it out")
        if (rest := width - self.padding) < 1 or rest % self.copies:
            raise ValueError(f"expected tables.copies to divide width − tables.padding, found {self.copies} and {rest}")
        if head_size % self.head_copies:
            raise ValueError(f"expected tables.head_copies to divide {head_size}, found {self.head_copies}")
        if encoding == "rotary" and head_size // self.head_copies % 2:
            raise ValueError(f"rotary positions need an even head size, found {head_size // self.head_copies}")
        if self.slopes is not None and len(self.slopes) != heads:
            raise ValueError(f"expected {heads} tables.slopes, one for each head, found {len(self.slopes)}")


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


def tiled_sinusoids(positions: Tensor, width: int, tables: PositionTables, dtype: torch.dtype) -> Tensor:
    """Positions [...] → [..., width]: the sinusoids of `tables`, of the precision `dtype`."""
    table = sinusoids(positions, (width - tables.padding) // tables.copies)
    if tables.padding:
        table = table.double()  # centred in single precision, a model in double would see what is left of the mean
        table = table - table.mean(-1, keepdim=True)
    if tables.copies > 1 or tables.padding:
        table = F.pad(torch.cat([table] * tables.copies, -1), (0, tables.padding))
    return table.to(dtype)


def rotate_blocks(x: Tensor, positions: Tensor, blocks: int) -> Tensor:
    """Rotary positions on each of the equal `blocks` of x [S, B, H, T, E] by itself, as on a head of size E / `blocks`."""
    return torch.cat([rotate(block, positions) for block in x.chunk(blocks, -1)], -1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) on x [S, B, H, T, E] with positions [S or 1, B or 1, T]."""
    half = x.shape[-1] // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=x.device) / half)
    angles = (positions[..., None] * frequencies)[:, :, None]  # [S or 1, B or 1, 1, T, E/2]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


def alibi_slopes(heads: int) -> list[float]:
    """What each of H heads takes off a score per step between query and key: head h 2^(−8h/H) (Press et al. 2022)."""
    slopes: list[float] = (2.0 ** (-8 / heads * torch.arange(1, heads + 1))).tolist()
    return slopes


def alibi(queries: Tensor, keys: Tensor, heads: int, slopes: Sequence[float] | None = None) -> Tensor:
    """Positions of queries [..., T] and keys [..., K] → what is added to their scores, [..., H, T, K].

    `slopes`, one for each head, are `alibi_slopes` where none are given.
    """
    per_step = torch.tensor(alibi_slopes(heads) if slopes is None else slopes, device=queries.device)
    return per_step[:, None, None] * (keys[..., None, None, :] - queries[..., None, :, None])
