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


def embed(parameters: Parameters, name: str, tokens: Tensor) -> Tensor:
    """Token ids [S, …] → their rows of NAME [S, vocabulary, D], as [S, …, D]."""
    seed = torch.arange(len(tokens), device=tokens.device).view(-1, *[1] * (tokens.dim() - 1))
    return parameters[name][seed, tokens]


def per_seed(tokens: Tensor, n_seeds: int) -> Tensor:
    """Tokens [B, T] (shared) or [S, B, T] → [S, B, T]."""
    return tokens.expand(n_seeds, *tokens.shape[-2:])


def string_positions(tokens: Tensor, bos: int) -> tuple[Tensor, Tensor]:
    """Tokens [..., T] → for each token, which string of its row it belongs to and its place in it (BOS is 0), both [..., T]."""
    starts = tokens == bos
    index = torch.arange(tokens.shape[-1], device=tokens.device)
    return starts.cumsum(-1), index - torch.where(starts, index, 0).cummax(-1).values


def _over(vector: Tensor, x: Tensor) -> Tensor:
    """A vector of each seed [S, D] against x [S, …, D]."""
    return vector.view(len(vector), *[1] * (x.dim() - 2), vector.shape[-1])
