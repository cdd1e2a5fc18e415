"""Downstream tasks as what a model is fine-tuned on and judged by: another language, or the parse labels of the same one.

Which strings a seed is trained on, and in which order, is the same whatever model learns from them; fewer are the first of
more. All seeds are validated on the same strings, from which no result is taken. A continuation is judged by the exact law
of the language that it goes on to; each seed has draws of its own from it. Parse labels are judged by held-out strings: none is
in two of the parts to train on, to validate on and to test on, and each seed has an order of its own of those to train on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.evaluators.answers import share
from lmtest.evaluators.exams import (
    Exam,
    exact_match,
    excess,
    label_batch,
    label_scores,
    language_exam,
    string_batch,
    summed,
    whole_batch,
)
from lmtest.languages import load_language
from lmtest.languages.base import Language, Row
from lmtest.languages.continuations import check_continuation, split
from lmtest.languages.parse_labels import ParseTask, parse_labels
from lmtest.languages.pcfg import Pcfg
from lmtest.measurement import Interval
from lmtest.models.stack import StackedModel
from lmtest.seeds import generator, stream_seed
from lmtest.training.batches import Batch
from lmtest.validation import Table

NOTHING = -1
"""The target where nothing is asked for."""


Protocol = Literal["full", "last_layer", "probe"]
"""What is trained: every parameter; the last layer with all that follows it; or a new output layer alone, which reads the
hidden states of a model that stays as it is."""

Count = int | Literal["all"]
"""Of examples."""


class Sizes(NamedTuple):
    """Strings of a task: to train on at most, and to validate on (and to test on, where they are too many to sum over)."""

    strings: int
    held_out: int
    seed: int


@dataclass(frozen=True)
class Examples:
    """N strings of each of S seeds to train on: `inputs` [S, N, T] tokens, or what a model makes of them [S, N, T, D];
    `targets` [S, N, T]: what is asked for behind each token, one of so many `outputs`, or NOTHING; `same` [S, N]: the place
    of the first string that equals each."""

    inputs: Tensor
    targets: Tensor
    outputs: int
    same: Tensor

    def first(self, n: int) -> Examples:
        return Examples(self.inputs[:, :n], self.targets[:, :n], self.outputs, self.same[:, :n])

    def to(self, device: torch.device) -> Examples:
        return Examples(self.inputs.to(device), self.targets.to(device), self.outputs, self.same.to(device))

    def batch(self, picks: Tensor) -> Batch:
        """The strings [S, b] of each seed, all alike; each is read once, and no row is wider than the longest of them."""
        found = [same[pick].unique(return_counts=True) for same, pick in zip(self.same, picks, strict=True)]
        places = torch.nn.utils.rnn.pad_sequence([place for place, _ in found], batch_first=True)
        times = torch.nn.utils.rnn.pad_sequence([count for _, count in found], batch_first=True)  # 0 where none is left
        seeds = torch.arange(len(picks), device=picks.device)[:, None]
        targets = self.targets[seeds, places]
        width = int((targets != NOTHING).any(0).any(0).nonzero().max()) + 1
        targets = targets[..., :width]
        onehot = torch.nn.functional.one_hot(targets.clamp_min(0), self.outputs)
        shares = (targets != NOTHING) * times[..., None] / picks.shape[1]
        return Batch(self.inputs[seeds, places][:, :, :width], onehot * shares[..., None])


def first_equal(rows: Sequence[Row]) -> list[int]:
    """For each row the place of the first one that equals it."""
    places: dict[Row, int] = {}
    return [places.setdefault(row, i) for i, row in enumerate(rows)]


class Scores(NamedTuple):
    """What an exam says of each of S seeds: the loss in nats, and the share of right answers (NaN where there are none)."""

    loss: list[Interval]
    right: list[Interval]
    strings: int
    """The loss is of so many, …"""
    answers: int
    """… and the right answers of so many."""


class Task(ABC):
    """What a model of one language is fine-tuned on."""

    name: str
    longest: int
    """Symbols of the longest string."""
    loss: str
    """What the loss is called: an excess over an exact floor, or a cross-entropy."""
    right: str
    """What the share of right answers is called."""
    classes: list[str] | None
    """What a new output layer tells apart; None where a model says what comes next."""
    majority_rate: float
    """Accuracy in the exam of always giving its commonest answer; NaN without classes."""

    @abstractmethod
    def examples(self, seeds: Sequence[int]) -> Examples:
        """All strings of each seed to train on."""

    @abstractmethod
    def everything(self, model: StackedModel) -> Batch | None:
        """The whole law to train on, where it is small enough; None where all there is are `examples`."""

    @property
    @abstractmethod
    def validation(self) -> Batch:
        """Strings that learning rates are chosen by, all alike."""

    @abstractmethod
    def exam(self, model: StackedModel) -> Exam:
        """What results are taken from."""

    @abstractmethod
    def score(self, logits: Tensor, exam: Exam) -> Scores:
        """Logits [S, B, T, outputs] on an exam → how good they are."""


class Continuation(Task):
    """Another language: the excess over its exact floor, and the share of strings whose forced end is written rightly."""

    loss, right = "excess", "exact_match"
    classes = None
    majority_rate = math.nan

    def __init__(self, name: str, before: Language, language: Language, sizes: Sizes) -> None:
        """UsageError where the symbols are not those of `before`, and where strings may have any length."""
        try:
            check_continuation(before, language)
        except UsageError as error:
            raise UsageError(f"task {name!r}: {error}") from None
        if math.isinf(language.longest):
            raise UsageError(
                f"task {name!r}: expected strings of bounded length, found {language.name}: set max_length in its file"
            )
        self.name, self.language, self.sizes, self.longest = name, language, sizes, int(language.longest)

    def examples(self, seeds: Sequence[int]) -> Examples:
        n, vocabulary = self.sizes.strings, self.language.vocabulary
        rows = [self.language.sample_ids(n, self._stream("examples", s)) for s in seeds]
        tokens, lengths = vocabulary.pack([row for each in rows for row in each])
        targets = tokens.roll(-1, 1).scatter(1, lengths[:, None], vocabulary.eos)
        targets = targets.where(torch.arange(tokens.shape[1]) <= lengths[:, None], NOTHING)
        shape = (len(seeds), n, -1)
        same = torch.tensor([first_equal(each) for each in rows])
        return Examples(tokens.view(shape), targets.view(shape), vocabulary.n_outputs, same)

    def everything(self, model: StackedModel) -> Batch | None:
        return whole_batch(model, self.language)

    @cached_property
    def validation(self) -> Batch:
        rows = self.language.sample_ids(self.sizes.held_out, self._stream("validation"))
        return string_batch(self.language.vocabulary, rows)

    def exam(self, model: StackedModel) -> Exam:
        return language_exam(model, self.language, self.sizes.held_out, self._stream("test"))

    def score(self, logits: Tensor, exam: Exam) -> Scores:
        right, answers = exact_match(logits, exam)
        return Scores(excess(logits, exam), right, exam.count, answers)

    def _stream(self, *purpose: str | int) -> np.random.Generator:
        return generator(self.sizes.seed, "downstream", self.name, *purpose)


class Parse(Task):
    """Which nonterminal spans a string, or a part of it: told behind its last symbol by a new output layer."""

    loss, right = "cross_entropy", "accuracy"
    classes: list[str]

    def __init__(self, language: Language, task: ParseTask, sizes: Sizes) -> None:
        """UsageError where the language has no grammar, and where the task has one class or does not fit its strings."""
        if not isinstance(language, Pcfg):
            raise UsageError(
                f"task {task.name!r}: expected a language with a grammar (pcfg, layered_pcfg), found {language.name}: parse "
                "labels are its nonterminals; choose another language or a continuation"
            )
        shortest = 0 if task.span is None else task.span[1]
        stream = stream_seed(sizes.seed, "downstream", task.name)
        try:
            parts = split(language, sizes.strings, sizes.held_out, stream, shortest)
        except UsageError as error:
            raise UsageError(f"task {task.name!r}: {error}") from None
        found = parse_labels(language, task, [*parts.train, *parts.validation, *parts.test])
        train, validation, test = found.labels.split([sizes.strings, sizes.held_out, sizes.held_out])
        self.name, self.sizes, self.classes, self.vocabulary = task.name, sizes, found.classes, language.vocabulary
        self.longest = max(len(row) for part in (parts.train, parts.validation, parts.test) for row in part)
        self.majority_rate = float(test.bincount().max()) / len(test)
        self.train = parts.train, train
        self._validation = label_batch(self.vocabulary, parts.validation, validation, len(self.classes))
        self._test = label_batch(self.vocabulary, parts.test, test, len(self.classes))

    def examples(self, seeds: Sequence[int]) -> Examples:
        rows, labels = self.train
        tokens, lengths = self.vocabulary.pack(rows)
        targets = torch.full_like(tokens, NOTHING).scatter(1, lengths[:, None], labels[:, None])
        orders = [
            generator(self.sizes.seed, "downstream", self.name, "examples", s).permutation(len(rows)) for s in seeds
        ]
        picks = torch.from_numpy(np.stack(orders))
        same = torch.tensor([first_equal([rows[i] for i in order]) for order in orders])
        return Examples(tokens[picks], targets[picks], len(self.classes), same)

    def everything(self, model: StackedModel) -> None:
        return None

    @property
    def validation(self) -> Batch:
        return self._validation

    def exam(self, model: StackedModel) -> Exam:
        return Exam(self._test, self.sizes.held_out, exact=False)

    def score(self, logits: Tensor, exam: Exam) -> Scores:
        losses, right = label_scores(logits, exam.batch)
        return Scores(
            summed(losses / exam.count, exam), [share(each) for each in right.cpu().numpy()], exam.count, exam.count
        )


class _TaskTable(Table):
    name: str = Field(pattern=r"^\w+$")
    protocols: list[Protocol] | None = Field(None, min_length=1)
    """The evaluator's where not given; so it is with what follows."""
    examples: list[Count] | None = Field(None, min_length=1)
    learning_rates: list[float] | dict[Protocol, list[float]] | None = Field(None, min_length=1)
    """Or by protocol: what has fewer parameters may learn best at other rates."""
    steps: int | None = Field(None, ge=1)


class ContinuationTable(_TaskTable):
    """One of the `tasks` of `[evaluators.fine_tuning]`: on to another language."""

    kind: Literal["continuation"]
    language: str
    """A shipped name, or a path."""

    def task(self, language: Language, sizes: Sizes) -> Task:
        """UsageError where the other language does not fit."""
        return Continuation(self.name, language, load_language(self.language), sizes)


class ParseTable(_TaskTable):
    """One of the `tasks` of `[evaluators.fine_tuning]`: parse labels (see `parse_labels.ParseTask`)."""

    kind: Literal["parse"]
    span: list[int] | None = Field(None, min_length=2, max_length=2)
    """[i, j): the symbols i, …, j − 1; the whole string where absent."""
    estimate: Literal["ml", "map"] = "ml"
    candidates: list[str] | None = None

    def task(self, language: Language, sizes: Sizes) -> Task:
        """UsageError where the language has no such labels."""
        span = None if self.span is None else (self.span[0], self.span[1])
        candidates = None if self.candidates is None else tuple(self.candidates)
        return Parse(language, ParseTask(self.name, span, candidates, self.estimate), sizes)


TaskTable = Annotated[ContinuationTable | ParseTable, Field(discriminator="kind")]
