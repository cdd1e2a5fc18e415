"""Exams: strings with what should be said behind each symbol, and how well S models say it.

A language is examined by its exact law: over all of its strings where they are few, else over fresh draws, whose next-symbol
laws are exact all the same, so that the excess over the floor is a KL, position by position, and never negative.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmtest.evaluators.answers import mean, share
from lmtest.languages.base import Language, Row, Support
from lmtest.languages.vocabulary import Vocabulary
from lmtest.measurement import Interval
from lmtest.models.stack import StackedModel
from lmtest.training.batches import Batch, packed_batch, tree_batch, whole
from lmtest.training.draws import Draws

WHOLE_TOKENS = 2**15
"""Of all strings of a language: beyond, draws are examined."""
MOST_NODES = 2**11
"""Of a prefix tree: its mask grows with their square."""
FORCED = 1e-9
"""What else could come next has no more of the mass than so."""


@dataclass(frozen=True)
class Exam:
    """`batch`: what is asked for at each position, and how much that counts; no row is shared by two strings.

    `exact`: whether it is a whole law, of `count` strings; else every row is one of `count` draws, all alike.
    """

    batch: Batch
    count: int
    exact: bool

    def to(self, device: torch.device) -> Exam:
        return replace(self, batch=self.batch.to(device))


def language_exam(model: StackedModel, language: Language, draws: int, rng: np.random.Generator) -> Exam:
    """A language's exact law over all its strings, as a prefix tree where the model reads that for less, or over `draws`."""
    if (support := _small_support(language)) is None:
        rows = language.sample_ids(draws, rng)
        return Exam(_law_batch(language, rows, [1 / draws] * draws), draws, exact=False)
    rows_batch = _law_batch(language, support.rows, support.log_probs.exp().tolist())
    return Exam(_tree(model, language, support, rows_batch) or rows_batch, len(support.rows), exact=True)


def whole_batch(model: StackedModel, language: Language) -> Batch | None:
    """All strings of a language with their exact weights, in the form that costs the model least; None where they are many."""
    if (support := _small_support(language)) is None:
        return None
    strings = packed_batch(language.vocabulary, [whole(support.rows, support.log_probs.exp().tolist())])
    return _tree(model, language, support, strings) or strings


def _small_support(language: Language) -> Support | None:
    support = language.support()
    return support if support is not None and sum(len(row) + 1 for row in support.rows) <= WHOLE_TOKENS else None


def _tree(model: StackedModel, language: Language, support: Support, strings: Batch) -> Batch | None:
    """The prefix tree of a language, where reading it is cheaper than reading its `strings`."""
    nodes = len({row[:t] for row in support.rows for t in range(len(row) + 1)})
    saves = nodes <= MOST_NODES and model.tree_saves(nodes, strings.tokens.numel(), strings.tokens.shape[-1])
    return tree_batch(language, support) if saves else None


def string_batch(vocabulary: Vocabulary, rows: Sequence[Row]) -> Batch:
    """Strings, all alike, and the symbols that did come next: their mean loss in nats per string."""
    times = Counter(rows)  # small languages repeat their strings
    return packed_batch(vocabulary, [whole([*times], [n / len(rows) for n in times.values()])])


def label_batch(vocabulary: Vocabulary, rows: Sequence[Row], labels: Tensor, classes: int) -> Batch:
    """Strings, all alike, and the class [N] of each, asked for behind its last symbol."""
    tokens, lengths = vocabulary.pack(rows)
    weights = torch.zeros(*tokens.shape, classes)
    weights[torch.arange(len(rows)), lengths, labels] = 1 / len(rows)
    return Batch(tokens, weights)


def _law_batch(language: Language, rows: Sequence[Row], weights: Sequence[float]) -> Batch:
    tokens, _ = language.vocabulary.pack(rows)
    laws = torch.zeros(*tokens.shape, language.vocabulary.n_outputs)
    for i, (law, weight) in enumerate(zip(Draws(language).laws([*rows]), weights, strict=True)):
        laws[i, : len(law)] = torch.from_numpy(law) * weight
    return Batch(tokens, laws)


def row_excess(logits: Tensor, exam: Exam) -> Tensor:
    """Logits [S, B, T, V] → KL(law ‖ model) [S, B] float64, nats per string where summed over rows."""
    joint = exam.batch.weights.double()
    mass = joint.sum(-1, keepdim=True)
    law = joint / mass.where(mass > 0, 1.0)
    guess = logits.double().log_softmax(-1)
    terms = torch.where(law > 0, law * (law.log() - guess), 0.0).sum(-1)
    # Rounding may take a KL of equal laws below 0; what has diverged is NaN and stays so.
    return (terms.clamp_min(0.0) * mass[..., 0]).sum(-1)


def excess(logits: Tensor, exam: Exam) -> list[Interval]:
    """The same by seed: exact, or with a 95 % interval over draws."""
    return summed(row_excess(logits, exam), exam)


def summed(rows: Tensor, exam: Exam) -> list[Interval]:
    """Parts of a sum [S, B] → the sums of S seeds, with 95 % intervals where the rows are draws."""
    if exam.exact:
        return [(value, value, value) for value in rows.sum(-1).tolist()]
    return [mean(row) for row in (rows * exam.count).cpu().numpy()]


def exact_match(logits: Tensor, exam: Exam) -> tuple[list[Interval], int]:
    """Share of the strings whose forced end is written rightly, by mass, and the number of strings that have one.

    The end of a string, EOS included, is forced behind the first prefix from which one string alone is left. It is written
    rightly where each of its symbols is likelier than every other behind the true ones before it, which is where greedy
    decoding from that prefix writes it. Equal for a tree and for rows; no string has such an end → NaN and 0.
    """
    batch = exam.batch
    mass = batch.weights.double().sum(-1)  # [B, T]
    behind = _behind(batch)  # [T, T]
    free = (mass > 0) & ((batch.weights > FORCED * mass[..., None]).sum(-1) > 1)
    forced = (mass > 0) & (_count(free, behind) == 0)
    first = forced & (_count(forced, behind.T) == 1)
    target = batch.weights.argmax(-1).expand(logits.shape[:-1])[..., None]
    others = logits.scatter(-1, target, -math.inf).amax(-1)
    wrong = (mass > 0) & ~(logits.gather(-1, target)[..., 0] > others)  # [S, B, T]
    right = (_count(wrong, behind) == 0)[:, first].double()  # [S, strings]
    n = right.shape[1]
    if not exam.exact or n == 0:
        return [share(each) if n else (math.nan, math.nan, math.nan) for each in right.cpu().numpy()], n
    shares = (right @ mass[first] / mass[first].sum()).tolist()
    return [(value, value, value) for value in shares], n


def _behind(batch: Batch) -> Tensor:
    """bool [T, T]: row j marks position j and what stands behind it in its strings."""
    if batch.tree is not None:
        return batch.tree.ancestors.T
    size = batch.weights.shape[-2]
    return torch.ones(size, size, dtype=torch.bool, device=batch.weights.device).triu()


def _count(marked: Tensor, among: Tensor) -> Tensor:
    """Positions [..., T] bool → for each position j how many are marked among those in row j of `among`."""
    return marked.float() @ among.float().T


def label_scores(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [S, N, T, C] on a label batch → −ln p(label) and being right about it, each [S, N] float64.

    Of k likeliest classes that tie one is right with probability 1/k: a new output layer, all zeros, is at chance.
    """
    asked = (batch.weights > 0).double()
    losses = -(logits.double().log_softmax(-1) * asked).sum((-1, -2))
    best = logits == logits.amax(-1, keepdim=True)
    right = (best * asked).sum(-1) / best.sum(-1).clamp_min(1)
    return losses, right.sum(-1)
