"""Completions of prompts, greedy or sampled: cached where the model can, always independent of batch order and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.contract import LanguageModel
from lmtest.models.stack import StackedModel
from lmtest.seeds import generator

Decoding = Literal["greedy", "sampled"]


@dataclass(frozen=True)
class Completions:
    """What S models wrote after N prompts; `defined` is False where a model gives no law after the prompt.

    `tied`: whether greedy decoding had to choose among exactly equal outputs.
    """

    tokens: Tensor  # [S, N, M], PAD from EOS on
    lengths: Tensor  # [S, N], EOS not counted
    finished: Tensor  # [S, N] bool
    defined: Tensor  # [S, N] bool
    tied: Tensor  # [S, N] bool


def decode(
    model: LanguageModel,
    vocabulary: Vocabulary,
    rows: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    decoding: Decoding,
    seed: int,
    temperature: float = 1.0,
) -> Completions:
    """Continues each prompt by at most `max_new_tokens` tokens, EOS counted as one.

    Samples are drawn with the logits divided by `temperature`. Greedy takes the likeliest token, and an exact tie is
    broken at random (so the uniform law decodes to itself); where a model gives no law (NaN: the language after an
    impossible prompt) nothing is written. Random numbers belong to (`seed`, the model's seed, the prompt, its
    how-manieth occurrence), so no row depends on another.
    """
    tokens, lengths = vocabulary.pack(rows)
    if isinstance(model, StackedModel):
        log_probs, cache = model.prefill(tokens, lengths, max_new_tokens)
        seeds: Sequence[int] = model.seeds
    else:
        log_probs = model.next_log_probs(tokens)[:, torch.arange(len(rows)), lengths]
        seeds = getattr(model, "seeds", range(len(log_probs)))  # a variant of a stack has its seeds
    n_seeds, n_rows, n_outputs = log_probs.shape
    noise = _Noise(rows, seeds, max_new_tokens, n_outputs, seed)
    written = torch.full((n_seeds, n_rows, max_new_tokens), vocabulary.pad)
    defined = ~log_probs.isnan().any(-1)
    open_ = defined.clone()
    finished = torch.zeros(n_seeds, n_rows, dtype=torch.bool)
    tied = torch.zeros_like(finished)
    for step in range(max_new_tokens):
        if decoding == "sampled":
            chosen = (log_probs / temperature + noise[step]).argmax(-1)
        else:
            best = log_probs == log_probs.amax(-1, keepdim=True)
            chosen = best.int().argmax(-1)
            several = (best.sum(-1) > 1) & open_
            if bool(several.any()):
                tied |= several
                chosen = torch.where(best, noise[step], -math.inf).argmax(-1)
        finished |= open_ & (chosen == vocabulary.eos)
        open_ = open_ & (chosen != vocabulary.eos)
        written[..., step] = torch.where(open_, chosen, vocabulary.pad)
        if step + 1 == max_new_tokens or not bool(open_.any()):
            break
        fed = torch.where(open_, chosen, vocabulary.eos)
        if isinstance(model, StackedModel):
            log_probs = model.advance(cache, fed)
        else:
            log_probs = _recompute(model, tokens, lengths, written[..., : step + 1], open_, vocabulary)
    return Completions(written, (written != vocabulary.pad).sum(-1), finished, defined, tied)


def _recompute(
    model: LanguageModel, tokens: Tensor, lengths: Tensor, written: Tensor, open_: Tensor, vocabulary: Vocabulary
) -> Tensor:
    """Next-token laws [S, N, V] of a model without a cache, by reading prompts and completions anew."""
    n_seeds, n_rows, n_new = written.shape
    laws: list[Tensor] = []
    for s in range(n_seeds):
        longer = torch.nn.functional.pad(tokens, (0, n_new), value=vocabulary.pad)
        columns = lengths[:, None] + 1 + torch.arange(n_new)
        longer = longer.scatter(1, columns, written[s])
        alive = open_[s].nonzero().flatten()
        law = torch.zeros(n_rows, vocabulary.n_outputs, dtype=torch.float64)
        law[alive] = model.next_log_probs(longer[alive])[s, torch.arange(len(alive)), lengths[alive] + n_new]
        laws.append(law)
    return torch.stack(laws)


class _Noise:
    """Gumbel noise [S, N, V] by step, drawn when first asked for."""

    def __init__(
        self, rows: Sequence[tuple[int, ...]], seeds: Sequence[int], steps: int, n_outputs: int, seed: int
    ) -> None:
        self.rows, self.seeds, self.size, self.seed = rows, seeds, (steps, n_outputs), seed
        self.numbers: Tensor | None = None

    def __getitem__(self, step: int) -> Tensor:
        if self.numbers is None:
            occurrences: dict[tuple[int, ...], int] = {}
            blocks = []
            for row in self.rows:
                occurrences[row] = which = occurrences.get(row, -1) + 1
                name = ",".join(map(str, row))
                blocks.append(
                    np.stack(
                        [generator(self.seed, "decoding", s, name, which).gumbel(size=self.size) for s in self.seeds]
                    )
                )
            self.numbers = torch.from_numpy(np.stack(blocks, 1))  # [S, N, steps, V]
        return self.numbers[:, :, step]
