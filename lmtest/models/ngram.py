"""The n-gram model fitted to the exact law: the nearest to the language, in KL, of all that see the last symbols only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lmtest.languages.base import Language, Row
from lmtest.languages.vocabulary import Vocabulary

ORDER = 3
"""A token is predicted from the ORDER − 1 before it, BOS among them."""


class NGram:
    """q(v | last ORDER − 1 tokens) = expected count of v after them / expected count of them.

    That ratio minimises KL(language ‖ q) context by context. What never follows a context has probability 0 there. A context
    that never occurs (on impossible prompts) is shortened from its far end until it does; the empty one always occurs.
    """

    def __init__(self, vocabulary: Vocabulary, counts: Mapping[Row, torch.Tensor]) -> None:
        """Expected counts [V] of what follows each context of ORDER − 1 tokens, fewer at the start, where BOS is first."""
        self.vocabulary = vocabulary
        totals: dict[Row, torch.Tensor] = {}
        for context, count in counts.items():
            for suffix in (context[i:] for i in range(len(context) + 1)):
                totals[suffix] = totals[suffix] + count if suffix in totals else count.double()
        seen = [context for context, count in totals.items() if count.sum() > 0]
        self._laws = torch.stack([totals[context] / totals[context].sum() for context in seen]).log()  # [contexts, V]
        # Row of the law by the last ORDER − 1 tokens, one dimension each; `_none` stands before BOS.
        self._none = vocabulary.n_inputs
        self._rows = torch.empty((self._none + 1,) * (ORDER - 1), dtype=torch.int64)
        for row in sorted(range(len(seen)), key=lambda i: len(seen[i])):
            place: tuple[Any, ...] = (..., *seen[row])
            self._rows[place] = row  # longer contexts come later, and overwrite

    @classmethod
    def fit(cls, language: Language) -> NGram | None:
        """The model nearest to a language, or None where its counts are not known exactly."""
        counts = language.ngram_counts(ORDER)
        return None if counts is None else cls(language.vocabulary, counts)

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T], BOS first → [1, N, T, V] float64, nats."""
        padded = torch.nn.functional.pad(tokens.long(), (ORDER - 2, 0), value=self._none)
        context = tuple(padded[:, back : back + tokens.shape[1]] for back in range(ORDER - 1))
        return self._laws.to(tokens.device)[self._rows.to(tokens.device)[context]][None]
