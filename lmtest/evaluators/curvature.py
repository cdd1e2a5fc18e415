"""Curvature of the exact loss L(θ) = Σ_c P(c) Σ_v −p(v|c) ln q(v|c), nats per string; c runs over the live prefixes.

With z the logits, J_c = ∂z_c/∂θ and q = softmax z, the Hessian is the Gauss–Newton matrix and a residual:
H = G + R,  G = Σ_c P(c) J_cᵀ (diag q_c − q_c q_cᵀ) J_c,  R = Σ_c P(c) Σ_v (q_cv − p_cv) ∇² z_cv  (Schraudolph 2002).
G is the Fisher matrix under the model's own law, Tr G = Σ_c P(c) Σ_v q_cv |∇ ln q_cv|², and R goes to 0 with the excess loss.

Seeds share nothing, so each matrix has a block for each seed, and every pass serves all of them. Vectors are [S, P], P the
parameters of one seed. Neither a matrix nor a gradient for each token is ever kept whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Support
from lmtest.models.layers import per_seed
from lmtest.models.recurrent import Recurrent
from lmtest.models.stack import StackedModel, Tree
from lmtest.seeds import torch_generator
from lmtest.training.batches import Batch, cross_entropy, tree_batch

GRADIENTS = 2**24
"""Numbers of all gradients that are held at once: 64 MiB in single precision."""
TOKENS = 2**16
"""Seeds × tokens that are read at once for them."""
SCORES = 2**22
"""Seeds × rows × positions² of one graph: bounds what attention keeps for the second derivative."""
ITERATIONS = 200
TOLERANCE = 1e-3
"""Of a top eigenvalue: how large |Cu − λu| may be against λ. The error of λ is of second order in it."""

Matrix = Literal["hessian", "gauss_newton", "residual"]
Law = Literal["rademacher", "gaussian"]
Product = Callable[[Tensor], Tensor]
"""A symmetric matrix of each seed as what it does to vectors [S, P]."""


def listed(language: Language) -> Support:
    """All strings of a language; UsageError where there are too many to list."""
    if (support := language.support()) is None:
        raise UsageError(
            f"flatness: expected a language whose strings can be listed, for its loss is summed exactly; {language.name} has "
            "too many: set max_length in its file, choose a smaller language, or leave the table [evaluators.flatness] out"
        )
    return support


@dataclass(frozen=True)
class Prefixes:
    """The M live prefixes, shortest first: tokens [M, T] with BOS, their symbols [M], and P(prefix, then v) [M, V] float64."""

    tokens: Tensor
    lengths: Tensor
    joint: Tensor


def live_prefixes(language: Language) -> Prefixes:
    """Every distinct prefix of the language's strings; UsageError where they cannot be listed."""
    rows = sorted(
        {row[:t] for row in listed(language).rows for t in range(len(row) + 1)}, key=lambda row: (len(row), row)
    )
    tokens, lengths = language.vocabulary.pack(rows)
    return Prefixes(tokens, lengths, language.joint_next(tokens)[torch.arange(len(rows)), lengths].exp())


def gauss_newton(model: StackedModel, prefixes: Prefixes) -> tuple[Tensor, Tensor]:
    """Exact traces of G and of DGD, D = diag θ, each [S] float64; first derivatives alone.

    diag q − qqᵀ has rank V − 1, so V − 1 gradients of a prefix are all that is needed: one forward and V − 1 backward
    passes over Σ_c (|c| + 1) tokens. A prefix is read by a copy of the model, "a seed of its own", whose gradient is its own.
    """
    s = len(model.seeds)
    trace, relative = torch.zeros(2, s, dtype=torch.float64)
    mass = prefixes.joint.sum(-1)
    size = max(1, min(GRADIENTS // (s * model.n_parameters), TOKENS // (s * prefixes.tokens.shape[1])))
    for start in range(0, len(mass), size):
        lengths = prefixes.lengths[start : start + size]
        n = len(lengths)
        tokens = prefixes.tokens[start : start + n, : int(lengths.max()) + 1].to(model.device)
        copies = {k: v.detach().repeat_interleave(n, 0).requires_grad_() for k, v in model.parameters.items()}
        each = _reading(model, copies, [seed for seed in model.seeds for _ in range(n)])
        logits = _logits(each, tokens.repeat(s, 1)[:, None])[torch.arange(s * n), 0, lengths.repeat(s)]  # [S·N, V]
        for direction in square_root(logits.detach().double().softmax(-1)).to(logits).unbind(-1):
            gradients = torch.autograd.grad(logits, list(copies.values()), direction, retain_graph=True)
            scaled = [g * w.detach() for g, w in zip(gradients, copies.values(), strict=True)]
            trace += _square_norms(gradients).view(s, n) @ mass[start : start + n]
            relative += _square_norms(scaled).view(s, n) @ mass[start : start + n]
    return trace, relative


def _square_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Tensors [N, …] → Σ of their squares [N] float64."""
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).double().cpu()


def square_root(q: Tensor) -> Tensor:
    """Laws [N, V] → B [N, V, V − 1] with B Bᵀ = diag q − q qᵀ.

    The columns b_v = √q_v (e_v − q) do it with one too many, and Σ_v √q_v b_v = 0; the reflection that takes √q to the last
    axis empties the last column.
    """
    root = q.sqrt()
    columns = torch.diag_embed(root) - q[:, :, None] * root[:, None]
    return columns[..., :-1] - columns[..., -1:] * (root[:, :-1] / (1 + root[:, -1:]))[:, None]


def support_batches(model: StackedModel, language: Language) -> list[Batch]:
    """The exact loss as a sum over batches: the tree of prefixes where the model reads it for less, else a string a row."""
    support = listed(language)
    longest = max(map(len, support.rows)) + 1
    nodes = len({row[:t] for row in support.rows for t in range(len(row) + 1)})
    if model.tree_saves(nodes, len(support.rows) * longest, longest) and len(model.seeds) * nodes**2 <= SCORES:
        return [tree_batch(language, support).to(model.device)]
    return string_batches(model, language)


def string_batches(model: StackedModel, language: Language) -> list[Batch]:
    """The exact loss as a sum over batches, a string a row."""
    support = listed(language)
    longest = max(map(len, support.rows)) + 1
    order = sorted(range(len(support.rows)), key=lambda i: len(support.rows[i]))
    size = max(1, SCORES // (len(model.seeds) * longest**2))
    return [_strings(language, support, order[i : i + size]).to(model.device) for i in range(0, len(order), size)]


def _strings(language: Language, support: Support, which: Sequence[int]) -> Batch:
    tokens, lengths = language.vocabulary.pack([support.rows[i] for i in which])
    following = tokens.roll(-1, 1).scatter(1, lengths[:, None], language.vocabulary.eos)
    following = following.clamp(max=language.vocabulary.eos)  # behind the end nothing counts
    counted = support.log_probs[list(which)].exp()[:, None] * (torch.arange(tokens.shape[1]) <= lengths[:, None])
    onehot = torch.eye(language.vocabulary.n_outputs, dtype=torch.float64)[following]
    return Batch(tokens, onehot * counted[..., None])


def product(model: StackedModel, batches: Sequence[Batch], matrix: Matrix) -> Product:
    """Vectors [S, P] → C times them [S, P], C one of H, G and R of each seed, by differentiating twice.

    All three are Hessians of a cross-entropy with targets that are held fixed: the language's for H, the model's own law for
    G (where the loss has no slope, R is 0), the difference of the two for R. One graph is kept where one batch is all.
    """
    parameters = {name: value.detach().requires_grad_() for name, value in model.parameters.items()}
    view, values = _reading(model, parameters, model.seeds), list(parameters.values())
    sizes = [value[0].numel() for value in values]

    def gradient(batch: Batch) -> tuple[Tensor, ...]:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            logits = _logits(view, batch.tokens, batch.tree)
        weights = batch.weights
        if matrix != "hessian":
            own = logits.detach().double().softmax(-1) * weights.sum(-1, keepdim=True)
            weights = (own if matrix == "gauss_newton" else weights - own).to(logits.dtype)
        loss = cross_entropy(logits, replace(batch, weights=weights)).sum()
        return torch.autograd.grad(loss, values, create_graph=True)

    kept = [gradient(batches[0])] if len(batches) == 1 else None

    def times(vectors: Tensor) -> Tensor:
        parts = [part.view_as(value) for part, value in zip(vectors.split(sizes, 1), values, strict=True)]
        total = torch.zeros_like(vectors)
        for gradients in kept or map(gradient, batches):
            found = torch.autograd.grad(gradients, values, parts, retain_graph=True)
            total += torch.cat([f.flatten(1) for f in found], 1)
        return total

    return times


def _logits(model: StackedModel, tokens: Tensor, tree: Tree | None = None) -> Tensor:
    """Tokens, a string a row or a tree → logits [S, B, T, V], of which more than one gradient can be taken.

    The kernels of recurrent models reuse their memory, so a state goes from token to token instead.
    """
    if not isinstance(model, Recurrent):
        return model.logits(tokens, tree=tree)
    tokens, logits = per_seed(tokens, len(model.seeds)), []
    like = next(iter(model.parameters.values()))
    # Beside 1, e⁻⁴⁰ is as little as e^−∞, whose second derivative is no number.
    state = {name: value.to(like).clamp_min(-40.0) for name, value in model.initial(tokens.shape[1]).items()}
    for column in tokens.unbind(-1):
        following, state = model.step(column, state)
        logits.append(following)
    return torch.stack(logits, 2)


def hutchinson(times: Product, model: StackedModel, probes: int, seed: int, law: Law) -> Tensor:
    """Probes u of mean 0 and covariance I → uᵀCu [S, probes] float64, each of mean Tr C (Hutchinson 1990).

    A seed of the model has a stream of its own, the same for every matrix. The variance is 2‖C‖² with Gaussian probes, and
    twice that of the off-diagonal part with Rademacher ones.
    """
    generators = [torch_generator(seed, "probes", s) for s in model.seeds]
    found = []
    for _ in range(probes):
        u = _noise(model, generators)
        if law == "rademacher":
            u = torch.where(u < 0, -1.0, 1.0).to(u)
        found.append((u.double() * times(u).double()).sum(1).cpu())
    return torch.stack(found, 1)


def top_eigenvalue(times: Product, model: StackedModel, seed: int) -> tuple[Tensor, Tensor, int]:
    """The largest eigenvalue λ [S] by power iteration, |Cu − λu| [S] at the end (an eigenvalue lies so near), and products.

    A dominant eigenvalue that is negative is shifted away, so that the largest is found, not the largest in size.
    """
    u = _noise(model, [torch_generator(seed, "power", s) for s in model.seeds])
    shift = u.new_zeros(len(u))
    products = 0
    while True:
        u = u / u.norm(dim=1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
        image = times(u)
        value = (u * image).sum(1)
        residual = (image - value[:, None] * u).norm(dim=1)
        products += 1
        if products == ITERATIONS or bool((residual <= TOLERANCE * value).all()):
            return value.double().cpu(), residual.double().cpu(), products
        shift = torch.maximum(shift, -value)
        u = image + shift[:, None] * u


def _reading(model: StackedModel, parameters: dict[str, Tensor], seeds: Sequence[int]) -> StackedModel:
    """The same architecture with other parameters, those of so many seeds."""
    view = copy.copy(model)
    view.parameters, view.seeds = parameters, tuple(seeds)
    return view


def _noise(model: StackedModel, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal vectors [S, P], drawn on the CPU so that every device has the same."""
    like = next(iter(model.parameters.values()))
    return torch.stack([torch.randn(model.n_parameters, generator=g) for g in generators]).to(like.detach())
