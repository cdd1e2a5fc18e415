"""Contexts of n-grams, and how often each is followed by what in a list of strings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary

Context = tuple[int, ...]
"""The last order − 1 tokens before a position, fewer near the start, where BOS is the first."""


def first_context(vocabulary: Vocabulary, order: int) -> Context:
    """The context of a string's first symbol; UsageError where the order is no whole number ≥ 1."""
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise UsageError(f"expected the order of an n-gram, a whole number ≥ 1, found {order!r}")
    return (vocabulary.bos,) if order > 1 else ()


def next_context(context: Context, token: int, order: int) -> Context:
    """The context one token later."""
    return (*context, token)[1 - order :] if order > 1 else ()


class Tally:
    """Expected counts as they add up: context → float64 [V]."""

    def __init__(self, n_outputs: int) -> None:
        self._rows: defaultdict[Context, np.ndarray] = defaultdict(lambda: np.zeros(n_outputs))

    def add(self, context: Context, output: int, count: float) -> None:
        """Counts `output` after `context`."""
        self._rows[context][output] += count

    def tensors(self) -> dict[Context, torch.Tensor]:
        """Every context that occurs, sorted."""
        return {context: torch.from_numpy(row) for context, row in sorted(self._rows.items()) if row.any()}


def count_strings(
    vocabulary: Vocabulary, rows: Sequence[Sequence[int]], probs: torch.Tensor, order: int
) -> dict[Context, torch.Tensor]:
    """Rows of symbol ids with their probabilities [N] → for each context the expected number of each output, [V]."""
    first_context(vocabulary, order)
    tokens, lengths = vocabulary.pack(rows)
    outputs = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], vocabulary.pad)], 1)
    outputs[torch.arange(len(tokens)), lengths] = vocabulary.eos
    valid = torch.arange(tokens.shape[1]) <= lengths[:, None]
    # The window of tokens up to each place as one number, renumbered as it widens; what stands before BOS is PAD.
    windows = torch.zeros(int(valid.sum()), dtype=torch.int64)
    for back in range(min(order - 1, tokens.shape[1])):
        shifted = torch.nn.functional.pad(tokens, (back, 0), value=vocabulary.pad)[:, : tokens.shape[1]]
        windows = (windows * vocabulary.n_inputs + shifted[valid]).unique(return_inverse=True)[1]
    counts = torch.zeros(int(windows.max()) + 1, vocabulary.n_outputs, dtype=torch.float64)
    counts.index_put_((windows, outputs[valid]), probs[:, None].expand(tokens.shape)[valid], accumulate=True)
    places = torch.zeros(len(counts), 2, dtype=torch.int64)
    places[windows] = valid.nonzero()  # any place of each window will do
    contexts = (tuple(tokens[i, max(0, t + 2 - order) : t + 1].tolist()) for i, t in places.tolist())
    return dict(sorted(zip(contexts, counts, strict=True)))
