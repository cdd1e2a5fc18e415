"""The one definition of the loss: nats per string, summed over symbols and EOS; PAD never enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtest.languages.base import Language, Support
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.stack import Tree


@dataclass(frozen=True)
class Batch:
    """Tokens with BOS [B, T] (or [S, B, T] where seeds differ), and how much each next symbol or EOS counts [..., T, V]."""

    tokens: Tensor
    weights: Tensor
    tree: Tree | None = None

    def to(self, device: torch.device) -> Batch:
        tree = None if self.tree is None else Tree(self.tree.depth.to(device), self.tree.ancestors.to(device))
        return Batch(self.tokens.to(device), self.weights.to(device), tree)

    def rows(self, index: Tensor, trim: bool) -> Batch:
        """The strings at `index` [S, B'], all targets weighted equally; `trim` drops columns that all of them leave empty."""
        weights = self.weights[index]
        width = int((weights.sum(-1) > 0).any(0).any(0).nonzero().max()) + 1 if trim else weights.shape[-2]
        weights = weights[..., :width, :] / weights.sum((-1, -2, -3), keepdim=True)
        return Batch(self.tokens[index][..., :width], weights)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Logits [S, B, T, V] → [S]: Σ weight · −log probability; nats per string where the weights are a law's masses."""
    return -(logits.log_softmax(-1) * batch.weights).sum((-1, -2, -3))


def string_batch(vocabulary: Vocabulary, rows: Sequence[tuple[int, ...]], probs: Tensor) -> Batch:
    """Whole strings, each weighted by its probability [B]."""
    tokens, lengths = vocabulary.pack(rows)
    return _batch(vocabulary, tokens, lengths, torch.zeros_like(lengths), probs)


def completion_batch(
    vocabulary: Vocabulary, prompts: Sequence[tuple[int, ...]], completions: Sequence[tuple[int, ...]]
) -> Batch:
    """Prompts with completions; only the completion's symbols (from the very first) and its EOS count, each as 1."""
    whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    tokens, lengths = vocabulary.pack(whole)
    starts = torch.tensor([len(prompt) for prompt in prompts])
    return _batch(vocabulary, tokens, lengths, starts, torch.ones(len(whole)))


def tree_batch(language: Language, support: Support) -> Batch:
    """The whole support with every distinct prefix once, weighted by the exact mass of what follows it.

    The same loss as `string_batch` on the support: Σ over prefixes of P(prefix, v) · −log q(v | prefix).
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


def _batch(vocabulary: Vocabulary, tokens: Tensor, lengths: Tensor, starts: Tensor, probs: Tensor) -> Batch:
    position = torch.arange(tokens.shape[1])
    targets = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], vocabulary.pad)], 1)
    targets[torch.arange(len(tokens)), lengths] = vocabulary.eos
    counted = (position >= starts[:, None]) & (position <= lengths[:, None])
    onehot = targets[..., None] == torch.arange(vocabulary.n_outputs)
    return Batch(tokens, (onehot & counted[..., None]) * probs.float()[:, None, None])
