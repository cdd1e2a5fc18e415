"""The one contract of every model: next-symbol laws from tokens."""

from __future__ import annotations

from typing import Protocol

import torch


class LanguageModel(Protocol):
    """Anything that says what comes next; a language does so too."""

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T] with BOS first → [S, N, T, V] log-probabilities (nats): row t predicts what follows token t.

        S seeds; V = the symbols and EOS. Causal: row t depends on the tokens up to t alone.
        """
        ...
