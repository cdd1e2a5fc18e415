"""Widening by duplication: t copies of every coordinate, so that activations become [x; …; x].

The published construction embeds a small transformer in a larger one so (Liu et al., ICML 2023, arXiv 2210.14199). Mean and
variance over the width stay what they are, so layer norms do, in post-norm as in pre-norm; a matrix that reads t
copies is divided by t. What else this model needs: embeddings are divided by √t, for they are multiplied by √width; tied ones
would then give √t times the logits, which the last layer norm takes back; position tables remain the small model's; and where
the heads become b times larger instead of more, queries and keys are divided by b^¼, for b copies add up to b times
the score, which is divided by √(head size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.models.positions import alibi_slopes
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.seeds import torch_generator
from lmtest.variants.preserve.rebuild import Parameters, changed, check_count, parameters_of, rebuilt


@dataclass(frozen=True)
class Duplication:
    """How a parameter of the wide model comes from the small one's [S, …]: multiplied by `scale`, then indexed along its axes.

    An axis without an index stays. `scale` broadcasts to the small parameter.
    """

    axes: tuple[Tensor | None, ...]
    scale: Tensor

    @property
    def reads(self) -> Tensor | None:
        """The index of the axis that is summed over, where the parameter is a matrix that reads copies."""
        return self.axes[0] if len(self.axes) == 2 else None


def widened(config: TransformerConfig, ratio: int, heads: int | None = None) -> TransformerConfig:
    """The configuration of `widen`'s model; UsageError where the ratio is below 2 or such heads allow no embedding."""
    more, larger = _head_ratios(config, ratio, heads)
    tables = {
        "sinusoidal": {"copies": ratio * config.tables.copies, "padding": ratio * config.tables.padding},
        "rotary": {"head_copies": larger * config.tables.head_copies},
        "alibi": {"slopes": more * (config.tables.slopes or alibi_slopes(config.heads))},
    }
    return changed(
        config,
        width=ratio * config.width,
        heads=more * config.heads,
        head_size=larger * config.head,
        feed_forward=ratio * config.feed_forward,
        tables=tables.get(config.positions, {}),
    )


def widen(model: Transformer, ratio: int, heads: int | None = None, sigma: float = 0.0) -> Transformer:
    """The model `ratio` times as wide: its residual stream, its attention, its feed-forward units.

    `heads` of the wide model: `ratio` times as many where None (their size stays), or the small model's times any
    divisor of `ratio` (their size grows by the rest). With `sigma` the copies do not count the same: each entry w that reads
    t copies becomes w·(1/t + σ·noise), normal noise that adds up to 0 over the copies, drawn for each seed. The function does
    not change because copies hold the same value and their shares add up to w. Tied embeddings keep equal shares.
    Raises UsageError where the ratio is below 2, where such heads allow no embedding, and on σ < 0.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise UsageError(f"expected sigma to be a finite number ≥ 0, found {sigma!r}; 0 duplicates plainly")
    config, small = widened(model.config, ratio, heads), parameters_of(model)
    wide: Parameters = {}
    for name, copied in duplications(model.config, ratio, heads).items():
        value = small[name] * copied.scale.to(model.device)
        for axis, index in enumerate(copied.axes, 1):
            if index is not None:
                value = value.index_select(axis, index.to(model.device))
        if sigma > 0 and copied.reads is not None:
            value = value * _shares(model, name, value.shape, copied.reads, ratio, sigma).to(model.device)
        wide[name] = value
    return rebuilt(model, config, wide)


def duplication_rates(config: TransformerConfig, ratio: int, heads: int | None = None) -> dict[str, Tensor]:
    """Factors of the learning rate with which plain SGD on the *small* model is plain SGD on the plainly widened one.

    Copies stay equal for ever, for their gradients are. An entry w with n copies of s·w each moves by 1/(n·s²) times what
    it would: matrices and embeddings ×1 (they are multiplied by √width), the output weight ×t, learned positions, layer norms
    and hidden biases ×1/t, the output bias ×1; where heads become b times larger, queries and keys × √b more; where
    embeddings are tied, the last layer norm ×1. Each broadcasts to its parameter [S, …]. Clipping by the global norm, weight
    decay and Adam break the equality.
    """
    rates = {}
    for name, copied in duplications(config, ratio, heads).items():
        copies = ratio ** sum(index is not None for index in copied.axes)
        rates[name] = 1 / (copies * copied.scale**2)
    return rates


def duplications(config: TransformerConfig, ratio: int, heads: int | None = None) -> dict[str, Duplication]:
    """Every parameter of the small model by name → how it is duplicated."""
    more, larger = _head_ratios(config, ratio, heads)
    d, a, layers = config.width, config.inner, config.layers
    # Coordinates without sinusoids stay behind those that have some: see `PositionTables`.
    encoded = d - config.tables.padding
    stream = torch.cat([torch.arange(encoded).repeat(ratio), torch.arange(encoded, d).repeat(ratio)])
    inner = torch.arange(a).view(1, config.heads, 1, config.head).expand(more, -1, larger, -1).flatten()
    qkv = torch.cat([inner, inner + a, inner + 2 * a])
    units = torch.arange(config.feed_forward).repeat(ratio)
    one, share = torch.ones((), dtype=torch.float64), torch.tensor(1 / ratio, dtype=torch.float64)
    score = torch.ones(3, a, dtype=torch.float64)
    score[:2] = larger**-0.25
    score = score.flatten()
    last = "norm" if config.norm == "pre" else f"layers.{layers - 1}.norm2"

    def norm(name: str) -> dict[str, Duplication]:
        scale = share.sqrt() if config.tied and name == last else one
        return {f"{name}.{part}": Duplication((stream,), scale) for part in ("weight", "bias")}

    found = {"embedding": Duplication((None, stream), share.sqrt())}
    if config.positions == "learned":
        found["positions"] = Duplication((None, stream), one)
    for i in range(layers):
        found |= {
            f"layers.{i}.attention.in.weight": Duplication((stream, qkv), share * score),
            f"layers.{i}.attention.in.bias": Duplication((qkv,), score),
            f"layers.{i}.attention.out.weight": Duplication((inner, stream), share),
            f"layers.{i}.attention.out.bias": Duplication((stream,), one),
            **norm(f"layers.{i}.norm1"),
            f"layers.{i}.feed_forward.in.weight": Duplication((stream, units), share),
            f"layers.{i}.feed_forward.in.bias": Duplication((units,), one),
            f"layers.{i}.feed_forward.out.weight": Duplication((units, stream), share),
            f"layers.{i}.feed_forward.out.bias": Duplication((stream,), one),
            **norm(f"layers.{i}.norm2"),
        }
    if config.norm == "pre":
        found |= norm("norm")
    if not config.tied:
        found["output.weight"] = Duplication((stream, None), share)
    return found | {"output.bias": Duplication((None,), one)}


def _head_ratios(config: TransformerConfig, ratio: int, heads: int | None) -> tuple[int, int]:
    """How many times as many heads there are, and how many times as large."""
    check_count("ratio", ratio, 2)
    possible = [config.heads * more for more in range(1, ratio + 1) if ratio % more == 0]
    wanted = possible[-1] if heads is None else heads
    if wanted not in possible:
        raise UsageError(
            f"head sizes: {config.heads} heads of size {config.head} are embedded in a model {ratio} times as wide with "
            f"heads = {' or '.join(map(str, possible))}, found {heads}; choose one of these"
        )
    return wanted // config.heads, ratio * config.heads // wanted


def _shares(model: Transformer, name: str, size: torch.Size, reads: Tensor, ratio: int, sigma: float) -> Tensor:
    """What each copy counts for, times t: 1 + t·σ·noise [S, rows, columns]; `reads` [rows] says what they are copies of."""
    shares = torch.ones(size, dtype=torch.float64)
    for s, seed in enumerate(model.seeds):
        noise = torch.empty(size[1:], dtype=torch.float64)
        noise.normal_(generator=torch_generator(seed, "preserve", "shares", name))
        mean = noise.new_zeros(len(reads) // ratio, size[2]).index_add(0, reads, noise) / ratio
        shares[s] += ratio * sigma * (noise - mean[reads])
    return shares
