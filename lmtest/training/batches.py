"""The one definition of the loss: nats per string, summed over symbols and EOS; PAD never enters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmtest.languages.base import Language, Row, Support
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.stack import Tree
from lmtest.training.packing import pack


@dataclass(frozen=True)
class Batch:
    """Tokens with BOS [B, T] (or [S, B, T] where seeds differ), and how much each next symbol or EOS counts [..., T, V]."""

    tokens: Tensor
    weights: Tensor
    tree: Tree | None = None
    rows: tuple[int, ...] | None = None
    """Rows that each seed fills, where seeds differ; None: all of them."""

    def rows_of(self, n_seeds: int) -> tuple[int, ...]:
        """Rows that each of so many seeds fills."""
        return self.rows or (self.tokens.shape[-2],) * n_seeds

    def to(self, device: torch.device) -> Batch:
        tree = None if self.tree is None else Tree(self.tree.depth.to(device), self.tree.ancestors.to(device))
        return Batch(self.tokens.to(device), self.weights.to(device), tree, self.rows)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Logits [S, B, T, V] → [S]: Σ weight · −log probability; nats per string where the weights are a law's masses."""
    return -(logits.log_softmax(-1) * batch.weights).sum((-1, -2, -3))


class Strings(NamedTuple):
    """Strings of one seed (or of all), how much each counts, and from which position on: 0 for all of it.

    `laws`: for each string its next-symbol laws [length + 1, V] instead of the symbols that did come next.
    """

    rows: Sequence[Row]
    weights: Sequence[float]
    starts: Sequence[int]
    laws: Sequence[np.ndarray] | None = None


def whole(rows: Sequence[Row], weights: Sequence[float], laws: Sequence[np.ndarray] | None = None) -> Strings:
    """Whole strings, each weighted by its probability."""
    return Strings(rows, weights, [0] * len(rows), laws)


def completions(prompts: Sequence[Row], endings: Sequence[Row]) -> Strings:
    """Prompts with completions; only the completion's tokens (from the very first) and its EOS count, all the same."""
    rows = [prompt + ending for prompt, ending in zip(prompts, endings, strict=True)]
    tokens = sum(len(ending) + 1 for ending in endings)
    return Strings(rows, [1 / tokens] * len(rows), [len(prompt) for prompt in prompts])


def packed_batch(vocabulary: Vocabulary, groups: Sequence[Strings], capacity: int | None = None) -> Batch:
    """Strings packed into rows (see `packing.pack`): one group → tokens [B, T], S groups → [S, B, T]."""
    places, n_rows, n_columns = pack([[len(row) + 1 for row in group.rows] for group in groups], capacity)
    shape = (len(groups), n_rows, n_columns)
    tokens = np.full(shape, vocabulary.pad)
    weights = np.zeros((*shape, vocabulary.n_outputs), dtype=np.float32)
    onehot = np.eye(vocabulary.n_outputs, dtype=np.float32)
    for s, (group, placed) in enumerate(zip(groups, places, strict=True)):
        lengths = np.array([len(row) + 1 for row in group.rows])
        within = np.concatenate([np.arange(n) for n in lengths])
        row, column = np.repeat(np.array(placed), lengths, axis=0).T
        at = (s, row, column + within)
        symbols = np.fromiter(itertools.chain.from_iterable((vocabulary.bos, *r) for r in group.rows), np.int64)
        tokens[at] = symbols
        following = np.roll(symbols, -1)
        following[np.cumsum(lengths) - 1] = vocabulary.eos
        counted = np.repeat(np.array(group.weights), lengths) * (within >= np.repeat(np.array(group.starts), lengths))
        targets = onehot[following] if group.laws is None else np.concatenate(group.laws)
        weights[at] = targets * counted[:, None]
    if len(groups) == 1:
        return Batch(torch.from_numpy(tokens[0]), torch.from_numpy(weights[0]))
    filled = tuple(max(row for row, _ in placed) + 1 for placed in places)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(weights), rows=filled)


def tree_batch(language: Language, support: Support) -> Batch:
    """The whole support with every distinct prefix once, weighted by the exact mass of what follows it.

    The same loss as a `packed_batch` of the support: Σ over prefixes of P(prefix, v) · −log q(v | prefix).
    """
    prefixes = sorted({row[:t] for row in support.rows for t in range(len(row) + 1)}, key=lambda p: (len(p), p))
    index = {prefix: i for i, prefix in enumerate(prefixes)}
    ancestors = torch.zeros(len(prefixes), len(prefixes), dtype=torch.bool)
    for i, prefix in enumerate(prefixes):
        if prefix:
            ancestors[i] = ancestors[index[prefix[:-1]]]
        ancestors[i, i] = True
    packed, lengths = language.vocabulary.pack(prefixes)
    weights = language.joint_next(packed)[torch.arange(len(prefixes)), lengths].exp()
    tokens = packed[torch.arange(len(prefixes)), lengths]
    return Batch(tokens[None], weights[None].float(), Tree(lengths, ancestors))
