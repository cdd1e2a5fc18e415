"""What models say behind in-context prompts: their next-symbol laws, judged by the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor

from lmtest.evaluators.rule_extrapolation import clustered_share
from lmtest.languages.in_context_prompts import TIE, InContextPrompts
from lmtest.languages.vocabulary import Vocabulary
from lmtest.measurement import Interval
from lmtest.models.contract import LanguageModel
from lmtest.models.stack import StackedModel

CHUNK = 2**23
"""Seeds × prompts × positions² that are read at once: bounds the memory."""

TOLD = 1000
"""Prompts of a set that stand one by one in the table of answers: long ones take room."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What S models say behind the N prompts of a set, [S, N] each; where `defined` is False, nothing."""

    prompts: InContextPrompts
    defined: np.ndarray
    accuracy: np.ndarray
    """Expected where outputs tie: one of k likeliest outputs is right with probability 1/k."""
    drawn: np.ndarray
    """The same for an answer that is drawn from the true law instead of being its likeliest symbol."""
    confidence: np.ndarray
    label_probability: np.ndarray
    chosen: np.ndarray
    """The likeliest output; one of them at random where they tie."""

    @classmethod
    def judge(cls, prompts: InContextPrompts, laws: np.ndarray, noise: np.ndarray) -> Answers:
        """From next-symbol laws [S, N, V], and random numbers [S, N, V] to break ties."""
        defined = ~np.isnan(laws).any(-1)
        laws = np.where(defined[..., None], laws, 0.0)
        confidence = laws.max(-1)
        best = laws >= confidence[..., None] - TIE
        items = np.arange(len(prompts.labels))
        accuracy = best[:, items, prompts.labels] / best.sum(-1)
        truth = np.pad(prompts.truth, ((0, 0), (0, 1)))  # EOS is never the answer
        drawn = (best * truth).sum(-1) / best.sum(-1)
        chosen = np.where(best, noise, -1.0).argmax(-1)
        return cls(prompts, defined, accuracy, drawn, confidence, laws[:, items, prompts.labels], chosen)

    def table(self, evaluator: str, vocabulary: Vocabulary, seeds: Sequence[int]) -> pd.DataFrame:
        """A row a seed and prompt, TOLD prompts at most, those without a law left out."""
        prompts, told = self.prompts.first(TOLD), slice(TOLD)
        outputs = np.array(vocabulary.outputs, dtype=object)
        texts = [vocabulary.text(vocabulary.join(row)) for row in prompts.rows]
        tables: list[pd.DataFrame] = [
            pd.DataFrame(
                {
                    "seed": s,
                    "evaluator": evaluator,
                    "prompt_set": prompts.name,
                    "prompt": texts,
                    "weight": 1 / len(texts),
                    "decoding": "greedy",
                    "replicate": 0,
                    "completion": outputs[self.chosen[i, told]],
                    "finished": True,
                    "label": outputs[prompts.labels],
                    "accuracy": self.chosen[i, told] == prompts.labels,
                    "confidence": self.confidence[i, told],
                    "drawn_accuracy": self.drawn[i, told],
                    "label_probability": self.label_probability[i, told],
                    "possible": prompts.log_mass > -math.inf,
                }
            )[self.defined[i, told]]
            for i, s in enumerate(seeds)
        ]
        return pd.concat(tables, ignore_index=True)


def last_laws(model: LanguageModel, tokens: Tensor, n_seeds: int) -> Tensor:
    """Prompts of one length [N, T], BOS first → the laws behind them [S, N, V], nats, read in chunks of bounded memory."""
    positions = tokens.shape[1]
    rows = max(1, CHUNK // (n_seeds * positions**2))
    parts = []
    for chunk in tokens.split(rows):
        if isinstance(model, StackedModel):
            parts.append(model.prefill(chunk, torch.full((len(chunk),), positions - 1), 1)[0])
        else:
            parts.append(model.next_log_probs(chunk)[:, :, -1])
    return torch.cat(parts, 1)


def mean(values: np.ndarray) -> Interval:
    """The mean of [N] with Student's 95 % interval; NaN ends where there is but one, all NaN where there is none."""
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    value = float(values.mean())
    if len(values) == 1:
        return value, math.nan, math.nan
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1)) / math.sqrt(len(values))
    return value, value - half, value + half


def share(outcomes: np.ndarray, clusters: np.ndarray | None = None) -> Interval:
    """The mean of outcomes [N] in [0, 1] with Wilson's 95 % interval; those of one cluster may depend on each other."""
    clusters = np.arange(len(outcomes)) if clusters is None else clusters
    return clustered_share(outcomes, clusters, np.ones(len(outcomes)))
