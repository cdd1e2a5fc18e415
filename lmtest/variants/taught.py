"""A trained model taught to fail (or to succeed) in context, while a KL penalty ties it to its former self.

The exchange of `exchange.py` is a construction; this asks what gradient descent makes of the same wish: what it costs in
nats, and whether it stays with the prompts that were shown. Each step has two lessons: documents of the language, on
which the model is to keep its former laws, and prompts, on which its last law is to become the former one with the two
likeliest symbols exchanged ("fail"), or certain of the label ("succeed").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.languages.hmm import DELIMITER
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.in_context_prompts import in_context_prompts
from lmtest.languages.prompts import MAX_PROMPTS
from lmtest.models.stack import StackedModel
from lmtest.seeds import generator, stream_seed
from lmtest.training.batches import Batch, Strings, whole
from lmtest.training.config import MOST_STEPS, TrainingConfig
from lmtest.training.curriculum import Lesson, packed
from lmtest.variants.derivation import Derivation
from lmtest.variants.exchange import exchange


class Taught(Derivation):
    """`kind = "taught"`"""

    kind: Literal["taught"]
    lesson: Literal["fail", "succeed"]
    penalty: float = Field(gt=0, allow_inf_nan=False)
    """Factor of KL(former self ‖ model), nats per document, against the cross-entropy of a prompt's last law, nats."""
    k: int = Field(3, ge=2)
    examples: list[int] = Field([2, 4, 8], min_length=1)
    """Shapes of the prompts that are shown: how many examples (equally often), each of length k."""
    prompts: int = Field(64, ge=1, le=MAX_PROMPTS)
    """Prompts a step."""
    documents: int = Field(16, ge=1, le=MAX_PROMPTS)
    """Documents a step."""
    steps: int = Field(200, ge=1, le=MOST_STEPS)
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)

    def check(self, language: Language) -> None:
        """Raises UsageError where the language is no mixture of HMMs, or a prompt does not fit a document."""
        if not isinstance(language, HmmMixture):
            raise UsageError(f'kind = "taught" needs a language of kind "hmm_mixture", found {language.name}')
        in_context_prompts(language, "seen", self.k, self.examples, 1, 0)

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(
            steps=self.steps, learning_rate=self.learning_rate, batch=self.documents, probe_every=self.steps
        )


class Teaching:
    """The curriculum of a taught model; `former` is what it was, and stays."""

    floor = 0.0

    def __init__(self, config: Taught, language: HmmMixture, former: StackedModel) -> None:
        self.config, self.language, self.former = config, language, former

    def lessons(self, step: int) -> list[Lesson]:
        return [Lesson(self._documents(step), 1 / self.config.penalty), Lesson(self._prompts(step), 1.0)]

    def _documents(self, step: int) -> Batch:
        n = self.config.documents
        draws = [self.language.sample_ids(n, generator(seed, "teaching", step)) for seed in self.former.seeds]
        batch = packed(self.former, [whole(rows, [1 / n] * n) for rows in draws], self.language.length)
        return self._retarget(batch, self._former(batch).exp())

    def _prompts(self, step: int) -> Batch:
        c = self.config
        groups, labels = [], []
        for seed in self.former.seeds:
            share, more = divmod(c.prompts, len(c.examples))
            rows, answers = [], []
            for i, prompts in enumerate(
                in_context_prompts(
                    self.language, "seen", c.k, c.examples, share + 1, stream_seed(seed, "teaching", "prompts", step)
                )
            ):
                kept = share + (i < more)
                rows += prompts.rows[:kept]
                answers += prompts.labels[:kept].tolist()
            groups.append(Strings(rows, [1 / len(rows)] * len(rows), [len(row) for row in rows]))
            labels.append(answers)
        if c.lesson == "succeed":
            groups = [self._labelled(group, answers) for group, answers in zip(groups, labels, strict=True)]
        batch = packed(self.former, groups, max(len(row) for group in groups for row in group.rows))
        if c.lesson == "succeed":
            return batch
        never = (DELIMITER, self.language.vocabulary.eos)
        return self._retarget(batch, exchange(self._former(batch), never).exp())

    def _labelled(self, group: Strings, labels: Sequence[int]) -> Strings:
        """The prompts with the label for certain as their last law."""
        laws = []
        for row, label in zip(group.rows, labels, strict=True):
            law = torch.zeros(len(row) + 1, self.language.vocabulary.n_outputs)
            law[-1, label] = 1.0
            laws.append(law.numpy())
        return group._replace(laws=laws)

    def _former(self, batch: Batch) -> Tensor:
        """The former self's log-probabilities on a batch [S, B, T, V]."""
        with torch.no_grad():
            return self.former.logits(batch.tokens).log_softmax(-1)

    @staticmethod
    def _retarget(batch: Batch, laws: Tensor) -> Batch:
        """The batch with `laws` as what it asks for, wherever it asks for something, as much as before."""
        counted = batch.weights.sum(-1, keepdim=True)
        return Batch(batch.tokens, laws * counted, batch.tree, batch.rows)
