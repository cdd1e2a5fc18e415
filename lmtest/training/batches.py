"""The one definition of the loss: nats per string, summed over symbols and EOS; PAD never enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtest.languages.vocabulary import Vocabulary


@dataclass(frozen=True)
class Batch:
    """Tokens with BOS, what follows each, and how much each target counts: all [B, T], or [S, B, T] where seeds differ."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.tokens.to(device), self.targets.to(device), self.weights.to(device))

    def rows(self, index: Tensor) -> Batch:
        """The strings at `index` [S, B'], weighted equally, without columns that all of them leave empty."""
        weights = self.weights[index]
        width = int((weights > 0).any(0).any(0).nonzero().max()) + 1
        weights = weights[..., :width] / weights.sum((-1, -2), keepdim=True)
        return Batch(self.tokens[index][..., :width], self.targets[index][..., :width], weights)


def nll_per_string(logits: Tensor, batch: Batch) -> Tensor:
    """Logits [S, B, T, V] → [S, B]: Σ over a string's targets of weight · −log probability (nats)."""
    log_probs = logits.log_softmax(-1)
    targets = batch.targets.expand(logits.shape[:-1])
    nll = -log_probs.gather(-1, targets[..., None])[..., 0]
    return (nll * batch.weights).sum(-1)


def string_batch(vocabulary: Vocabulary, rows: Sequence[tuple[int, ...]], probs: Tensor | None = None) -> Batch:
    """Whole strings, each weighted by its probability (default: equally): Σ weight · nll is nats per string."""
    tokens, lengths = vocabulary.pack(rows)
    probs = torch.full((len(rows),), 1 / len(rows)) if probs is None else probs.float()
    return _batch(vocabulary, tokens, lengths, torch.zeros_like(lengths), probs)


def completion_batch(
    vocabulary: Vocabulary, prompts: Sequence[tuple[int, ...]], completions: Sequence[tuple[int, ...]]
) -> Batch:
    """Prompts with completions; only the completion's symbols (from the very first) and its EOS count, each as 1."""
    whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    tokens, lengths = vocabulary.pack(whole)
    starts = torch.tensor([len(prompt) for prompt in prompts])
    return _batch(vocabulary, tokens, lengths, starts, torch.ones(len(whole)))


def _batch(vocabulary: Vocabulary, tokens: Tensor, lengths: Tensor, starts: Tensor, weights: Tensor) -> Batch:
    position = torch.arange(tokens.shape[1])
    # PAD has no logit: behind EOS any target will do, for its weight is 0.
    targets = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], vocabulary.pad)], 1).clamp(max=vocabulary.eos)
    counted = (position >= starts[:, None]) & (position <= lengths[:, None])
    return Batch(tokens, targets, counted * weights[:, None])
