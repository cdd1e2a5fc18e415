"""Layers over a stack of seeds: pure functions on x [S, …, D] and named parameters, each with a leading S."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lmtest.models.stack import Shape

Parameters = Mapping[str, Tensor]


def linear_shapes(name: str, d_in: int, d_out: int, bias: bool = True) -> dict[str, Shape]:
    """NAME.weight [d_in, d_out] and NAME.bias [d_out], both uniform within ± 1/√d_in, as torch's own layers start."""
    bound = d_in**-0.5
    weight = {f"{name}.weight": Shape((d_in, d_out), "uniform", bound)}
    return weight | {f"{name}.bias": Shape((d_out,), "uniform", bound)} if bias else weight


def linear(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    """x [S, …, D] → [S, …, F], with NAME.bias where there is one."""
    weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    out = rows @ weight if bias is None else torch.baddbmm(bias[:, None], rows, weight)
    return out.view(*x.shape[:-1], weight.shape[-1])


def norm_shapes(name: str, size: int, bias: bool = True) -> dict[str, Shape]:
    """NAME.weight [size], ones, and NAME.bias [size], zeros."""
    weight = {f"{name}.weight": Shape((size,), "ones")}
    return weight | {f"{name}.bias": Shape((size,), "zeros")} if bias else weight


def layer_norm(parameters: Parameters, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm over the last axis of x [S, …, D] (Ba et al. 2016)."""
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    normal = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(_over(bias, x), normal, _over(weight, x))


def rms_norm(parameters: Parameters, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Root-mean-square norm over the last axis of x [S, …, D] (Zhang & Sennrich 2019); no bias."""
    return F.rms_norm(x, x.shape[-1:], eps=eps) * _over(parameters[f"{name}.weight"], x)


def convolution_shapes(name: str, channels: int, width: int) -> dict[str, Shape]:
    """NAME.weight [width, channels], the last row for the newest token, and NAME.bias [channels]; ± 1/√width."""
    bound = width**-0.5
    return {
        f"{name}.weight": Shape((width, channels), "uniform", bound),
        f"{name}.bias": Shape((channels,), "uniform", bound),
    }


def causal_convolution(
    parameters: Parameters, name: str, x: Tensor, place: Tensor | None, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution of x [S, B, T, D] over its last `width` tokens → [S, B, T, D], and its next `past`.

    `past` [S, B, width − 1, D] is what stood before x (zeros without it). `place` [S, B, T], a token's place in its
    string, keeps the window within the string; None where every row is one string.
    """
    weight, t = parameters[f"{name}.weight"], x.shape[2]
    behind = weight.shape[1] - 1
    longer = F.pad(x, (0, 0, behind, 0)) if past is None else torch.cat([past, x], 2)
    out = torch.addcmul(_over(parameters[f"{name}.bias"], x), x, _over(weight[:, behind], x))
    for back in range(1, min(behind, t - 1 if past is None else behind) + 1):
        earlier = longer[:, :, behind - back : behind - back + t]
        if place is not None:
            earlier = torch.where((place >= back)[..., None], earlier, 0.0)
        out = torch.addcmul(out, earlier, _over(weight[:, behind - back], x))
    return out, longer[:, :, t:]


def embed(parameters: Parameters, name: str, tokens: Tensor) -> Tensor:
    """Token ids [S, …] → their rows of NAME [S, vocabulary, D], as [S, …, D]."""
    table = parameters[name]
    first = torch.arange(0, len(table) * table.shape[1], table.shape[1], device=tokens.device)
    return F.embedding(tokens + first.view(-1, *[1] * (tokens.dim() - 1)), table.flatten(0, 1))


def per_seed(tokens: Tensor, n_seeds: int) -> Tensor:
    """Tokens [B, T] (shared) or [S, B, T] → [S, B, T]."""
    return tokens.expand(n_seeds, *tokens.shape[-2:])


def string_positions(tokens: Tensor, bos: int) -> tuple[Tensor, Tensor]:
    """Tokens [..., T] → for each token, which string of its row it belongs to and its place in it (BOS is 0), both [..., T]."""
    starts = tokens == bos
    index = torch.arange(tokens.shape[-1], device=tokens.device)
    return starts.cumsum(-1), index - torch.where(starts, index, 0).cummax(-1).values


def places(tokens: Tensor, bos: int) -> Tensor | None:
    """Tokens [..., T] → each one's place in its string [..., T]; None where every row is one string, so that none is needed."""
    return string_positions(tokens, bos)[1] if bool((tokens[..., 1:] == bos).any()) else None


def own_string(size: int, place: Tensor | None, device: torch.device) -> Tensor:
    """bool [..., T, T], T = `size`: the positions of its own string that each one sees, none of them later than itself.

    `place` [..., T] as of `places` (what stands before the T positions does not matter).
    """
    index = torch.arange(size, device=device)
    earlier = index <= index[:, None]
    return earlier if place is None else earlier & (index >= (index - place)[..., None])


def _over(vector: Tensor, x: Tensor) -> Tensor:
    """A vector of each seed [S, D] against x [S, …, D]."""
    return vector.view(len(vector), *[1] * (x.dim() - 2), vector.shape[-1])
