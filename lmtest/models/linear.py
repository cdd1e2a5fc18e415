"""The full causal linear map over a stack of seeds (the "linear" model of Mészáros et al. 2024).

logits_t = bias_t + Σ_{s ≤ t} E[x_s] · W[s, t], with a W of its own for each pair of positions. Shapes: S seeds, C context,
D width (embedding), V outputs; N strings, the longest of L tokens (BOS included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lmtest import limits
from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.layers import embed, per_seed
from lmtest.models.stack import Dropout, Shape, StackedModel, Tree, check_context
from lmtest.validation import Table

BLOCK = 16
"""Positions that one matrix product predicts: the acausal corner it multiplies in vain is at most half of BLOCK² pairs."""


class LinearConfig(Table):
    """A causal linear map as a study's `[models.NAME]` table declares it; published: width 10, context 257."""

    architecture: Literal["linear"]
    width: int = Field(10, ge=1, le=limits.MOST_WIDTH)
    """Size of the embedding."""
    context: int = Field(257, ge=2, le=limits.MOST_LENGTH)
    """Positions, BOS included."""

    def check(self, longest: float) -> None:
        """Raises UsageError where strings of `longest` symbols do not fit the context."""
        check_context(longest, self.context)

    def build(self, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> LinearMap:
        return LinearMap(self, vocabulary, seeds, device)

    def n_parameters(self, vocabulary: Vocabulary) -> int:
        """Parameters of one seed by formula: embedding, one [D, V] for each s ≤ t, biases.

        The published count (3,303,785 = 257² · 10 · 5 + 257 · 5 + 50 with two symbols) stores the acausal half too, which
        nothing ever reads, and outputs for BOS and PAD: ours is 257 · 258 / 2 · 10 · 3 + 257 · 3 + 50 = 995,411.
        """
        c, v = self.context, vocabulary.n_outputs
        return vocabulary.n_inputs * self.width + c * (c + 1) // 2 * self.width * v + c * v


@dataclass
class Cache:
    """The tokens [S, N, room] that each row has read, and how many [N]."""

    tokens: Tensor
    read: Tensor


class LinearMap(StackedModel):
    """See the module's docstring.

    `weight` [S, C (C + 1) / 2, D · V] holds the pairs s ≤ t ordered by t, then s: those of neighbouring t lie together. It
    starts uniform within ± 1/√(D · (t + 1)), as a layer of that many inputs would in torch; biases at 0, embeddings normal.
    """

    def __init__(self, config: LinearConfig, vocabulary: Vocabulary, seeds: Sequence[int], device: str = "cpu") -> None:
        self.config = config
        c, d, v = config.context, config.width, vocabulary.n_outputs
        shapes = {
            "embedding": Shape((vocabulary.n_inputs, d), "normal", 1.0),
            "weight": Shape((_pairs(c), d * v), "uniform", 1.0),
            "bias": Shape((c, v), "zeros"),
        }
        super().__init__(vocabulary, seeds, shapes, device)
        inputs = torch.arange(1, c + 1, device=self.device)
        with torch.no_grad():
            self.parameters["weight"] /= (d * inputs).sqrt().repeat_interleave(inputs)[:, None]

    @property
    def drops_out(self) -> bool:
        return False

    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        """As the contract has it; where a PAD stands, and no symbol of its string behind it, the logits are 0.

        Raises UsageError where a string is longer than the context.
        """
        assert tree is None
        p, s, v = self.parameters, len(self.seeds), self.vocabulary.n_outputs
        strings = _regroup(tokens.reshape(-1, *tokens.shape[-2:]), self.vocabulary)
        longest = strings.grid.shape[-1]
        self._check(longest)
        x = embed(p, "embedding", per_seed(strings.grid, s)).flatten(2)  # [S, N, L · D]
        read = []
        ends = [*range(BLOCK, longest, BLOCK), longest]
        # Split once, so that the gradient is put together once.
        slabs = p["weight"].tensor_split([_pairs(end) for end in ends], 1)
        for start, end, reach, slab in zip([0, *ends], ends, strings.reach, slabs, strict=False):
            bias = p["bias"][:, start:end].flatten(1)
            rows = x[:, :reach, : end * self.config.width]
            read.append(torch.baddbmm(bias[:, None], rows, self._block(slab, start, end)).view(s, -1, v))
        found = torch.cat([*read, x.new_zeros(s, 1, v)], 1)
        place = strings.place.expand(s, -1)[..., None].expand(-1, -1, v)
        return found.gather(1, place).view(s, *tokens.shape[-2:], v)

    def _block(self, slab: Tensor, start: int, end: int) -> Tensor:
        """The pairs [S, …, D · V] of positions `start` to `end` as one matrix [S, end · D, (end − start) · V], 0 where s > t."""
        s, d, v = len(slab), self.config.width, self.vocabulary.n_outputs
        positions = torch.arange(end, device=slab.device)
        t, before = (positions <= positions[start:, None]).nonzero().unbind(1)
        dense = slab.new_zeros(s, end * (end - start), d * v).index_copy(1, before * (end - start) + t, slab)
        return dense.view(s, end, end - start, d, v).transpose(2, 3).reshape(s, end * d, (end - start) * v)

    def prefill(self, tokens: Tensor, lengths: Tensor, room: int) -> tuple[Tensor, Cache]:
        tokens, lengths = tokens.to(self.device), lengths.to(self.device)
        # What stands behind a row's end is overwritten as the row grows, and not read until then.
        memory = torch.nn.functional.pad(per_seed(tokens, len(self.seeds)), (0, room), value=self.vocabulary.pad)
        cache = Cache(memory, lengths + 1)
        return self._read(cache), cache

    def advance(self, cache: Cache, tokens: Tensor) -> Tensor:
        cache.tokens[:, torch.arange(len(cache.read), device=self.device), cache.read] = tokens.to(self.device)
        cache.read = cache.read + 1
        return self._read(cache)

    def select(self, cache: Cache, rows: Tensor) -> Cache:
        rows = rows.to(self.device)
        return Cache(cache.tokens[:, rows], cache.read[rows])

    def _read(self, cache: Cache) -> Tensor:
        """Log-probabilities [S, N, V] of the next token, by one product for all rows that have read equally much."""
        p, s, v = self.parameters, len(self.seeds), self.vocabulary.n_outputs
        logits = p["bias"].new_empty(s, len(cache.read), v)
        with torch.no_grad():
            for n in cache.read.unique().tolist():
                self._check(n)
                rows = (cache.read == n).nonzero().flatten()
                x = embed(p, "embedding", cache.tokens[:, rows, :n]).flatten(2)
                weight = p["weight"][:, _pairs(n - 1) : _pairs(n)].reshape(s, n * self.config.width, v)
                logits[:, rows] = torch.baddbmm(p["bias"][:, n - 1, None], x, weight)
        return logits.double().log_softmax(-1).cpu()

    def _check(self, positions: int) -> None:
        if positions > self.config.context:
            raise UsageError(
                f"a string of {positions - 1} symbols does not fit the model's context of {self.config.context} "
                "positions (BOS included); raise `context`"
            )


@dataclass(frozen=True)
class _Strings:
    """The strings of a batch, each in a row of its own, longest first; S' is 1 where all seeds share them."""

    grid: Tensor  # [S', N, L], PAD behind
    reach: list[int]
    """How many rows reach each block of positions."""
    place: Tensor
    """[S', B · T]: where the logits of each token stand, once those of all blocks are laid end to end; the end for a PAD."""


def _regroup(tokens: Tensor, vocabulary: Vocabulary) -> _Strings:
    """Rows of strings [S', B, T] → the strings."""
    starts = tokens == vocabulary.bos
    starts[..., 0] = True
    starts, tokens = starts.flatten(1), tokens.flatten(1)
    index = torch.arange(tokens.shape[1], device=tokens.device)
    position = index - torch.where(starts, index, 0).cummax(1).values
    string = starts.cumsum(1) - 1
    ends = torch.where(tokens == vocabulary.pad, 0, position + 1)
    lengths = ends.new_zeros(len(ends), int(string.max()) + 1).scatter_reduce(1, string, ends, "amax")  # [S', N]
    n, longest = lengths.shape[1], int(lengths.max())
    row = lengths.argsort(dim=1, descending=True, stable=True).argsort(1).gather(1, string)
    counted = position < lengths.gather(1, string)
    slot = torch.where(counted, row * longest + position, n * longest)  # one slot more takes the padding
    grid = tokens.new_full((len(tokens), n * longest + 1), vocabulary.pad).scatter(1, slot, tokens)[:, :-1]
    blocks = torch.arange(0, longest, BLOCK, device=tokens.device)
    widths = (longest - blocks).clamp(max=BLOCK)
    reach = (lengths[..., None] > blocks).sum(1).amax(0)
    first = torch.cat([blocks[:1], (reach * widths).cumsum(0)])
    block = position.clamp(max=longest - 1) // BLOCK
    place = torch.where(counted, first[block] + row * widths[block] + position - blocks[block], first[-1])
    return _Strings(grid.view(len(tokens), n, longest), reach.tolist(), place)


def _pairs(positions: int) -> int:
    """Pairs s ≤ t < positions."""
    return positions * (positions + 1) // 2
