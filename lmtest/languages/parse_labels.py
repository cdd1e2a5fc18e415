"""Parse labels: which nonterminal spans a string, or a part of it, by exact inside and outside weights (arXiv 2210.14199).

inside   β(A) = P(A ⇒* the symbols of the span), over all derivations
outside  α(A) = P(start ⇒* the string with an A in the span's place)

So α·β / P(string) is how often A is expected over the span in a derivation of the string: the probability that it spans,
where no chain of unit rules leads from A back to A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from lmtest.errors import UsageError, nearest
from lmtest.languages import chart
from lmtest.languages.base import Row
from lmtest.languages.pcfg import Pcfg
from lmtest.languages.semiring import Log, Plain

NONE = "<none>"
"""The class of strings where no candidate can span; no nonterminal of nltk's is written so."""
TIE = 1e-9
"""Candidates within so many nats of the best tie with it."""

Span = tuple[int, int]
"""[i, j): the symbols i, …, j − 1 of a string."""


@dataclass(frozen=True)
class ParseTask:
    """The likeliest of the `candidates` over a span, or over the whole string (`span = None`).

    "ml" goes by inside weights alone, as published, and reads nothing but the span; "map" by the posterior given the whole
    string, which over the whole string is inside × prior. `candidates = None`: of the whole string, the nonterminals that
    the start is rewritten to alone; of a span, all. Ties (within TIE nats) go to the first candidate.
    """

    name: str
    span: Span | None = None
    candidates: tuple[str, ...] | None = None
    estimate: Literal["ml", "map"] = "ml"


@dataclass(frozen=True)
class ParseLabels:
    """Classes of N strings: `labels` [N] int64 are places in `classes`, those that occur, in the candidates' order, NONE last.

    `posterior` [N]: the label's share of all candidates' weights, so its posterior among them, under equal priors for
    "ml". `margin` [N]: nats to the next best candidate, inf where there is none. Both are NaN for NONE.
    """

    labels: torch.Tensor
    classes: list[str]
    posterior: torch.Tensor
    margin: torch.Tensor

    @property
    def counts(self) -> torch.Tensor:
        """[C] int64: strings of each class."""
        return self.labels.bincount(minlength=len(self.classes))

    @property
    def majority_rate(self) -> float:
        """The accuracy of always answering the commonest class: what stands beside every accuracy."""
        return float(self.counts.max()) / len(self.labels)


@dataclass(frozen=True)
class SpanWeights:
    """Log weights (nats) of N strings over one span: `inside` and `outside` [N, K] of the grammar's nonterminals, `total` [N].

    A nonterminal whose only string is the empty one spans nothing: both its weights are −inf.
    """

    inside: torch.Tensor
    outside: torch.Tensor
    total: torch.Tensor


def parse_labels(language: Pcfg, task: ParseTask, rows: Sequence[Row]) -> ParseLabels:
    """Rows of symbol ids → their classes; label all strings of a study at once and split them then, so that classes agree.

    Raises UsageError on unknown candidates or fewer than two, on strings that are too short for the span, or not in the
    language (where the task reads the whole of them), where no candidate ever spans, and where only one class occurs.
    """
    candidates = _candidates(language, task)
    _check_rows(language, task, rows)
    index = [language.grammar.names.index(name) for name in candidates]
    read = [tuple(row) for row in rows] if _reads_all(task) else [tuple(row[slice(*task.span or ())]) for row in rows]
    distinct = sorted(set(read), key=lambda row: (len(row), row))
    place = {row: i for i, row in enumerate(distinct)}
    scores = _scores(language, task, distinct)[[place[row] for row in read]][:, index]
    best = scores.amax(-1, keepdim=True)
    spanned = best[:, 0] > -math.inf
    if not spanned.any():
        raise UsageError(
            f"task {task.name!r}: none of the candidates {', '.join(candidates)} ever spans {_text(task.span)} in "
            f"{len(rows)} strings of {language.name}: choose other candidates or another span"
        )
    chosen = (scores >= best - TIE).int().argmax(-1)  # the first of the best
    others = scores.scatter(-1, chosen[:, None], -math.inf).amax(-1)
    posterior = scores.softmax(-1).gather(-1, chosen[:, None])[:, 0]  # NaN where all are −inf
    margin = torch.where(spanned, (best[:, 0] - others).clamp(min=0.0), math.nan)
    return _numbered(task, chosen.where(spanned, len(candidates)), [*candidates, NONE], posterior, margin)


def span_weights(language: Pcfg, rows: Sequence[Row], span: Span) -> SpanWeights:
    """Rows of symbol ids, all of one length → exact log weights over a span [i, j) of all nonterminals, in the grammar's order.

    Raises UsageError where the lengths differ, or the span does not lie within the strings.
    """
    if len(lengths := {len(row) for row in rows}) != 1:
        raise UsageError(f"expected strings of one length, found the lengths {sorted(lengths)}")
    if not 0 <= span[0] < span[1] <= len(rows[0]):
        raise UsageError(f"expected a span within {len(rows[0])} symbols, found {_text(span)}")
    return _Charts(language).weights(torch.tensor(rows), span)


class _Charts:
    """The charts of one grammar: in plain numbers where these are exact, else in logarithms.

    Without the language's limit on length, which scales what whole strings weigh and nothing else.
    """

    def __init__(self, language: Pcfg) -> None:
        self.form, self.size = language.form, language.grammar.size
        self.plain = chart.weights(self.form, None, Plain)

    @cached_property
    def log(self) -> chart.Weights:
        return chart.weights(self.form, None, Log)

    def weights(self, symbols: torch.Tensor, span: Span) -> SpanWeights:
        """Symbols [N, n] → the weights over a span."""
        found = self._weights(self.plain, symbols, span)
        if found is None:
            found = self._weights(self.log, symbols, span)
        assert found is not None  # logarithms cannot underflow
        return found

    def _weights(self, w: chart.Weights, symbols: torch.Tensor, span: Span) -> SpanWeights | None:
        """The same in one number system, None where it may have underflowed."""
        ring, n, (i, j) = w.ring, symbols.shape[1], span
        cells = chart.inside(w, symbols)[0]
        if not ring.exact(cells, cells, w.inside_binary):
            return None
        contexts = _contexts(w, cells, span)
        chains = ring.of(torch.from_numpy(self.form.unit_closure))  # unit rules between a context and the span's A
        if not ring.exact(torch.stack(contexts), w.inside_binary, cells) or not ring.exact(contexts[-1], chains):
            return None
        outside = ring.matmul(contexts[-1], chains)
        inside, total = cells[:, j, n - (j - i)], cells[:, n, 0, 0]
        return SpanWeights(ring.log(inside[:, : self.size]), ring.log(outside[:, : self.size]), ring.log(total))


def _reads_all(task: ParseTask) -> bool:
    return task.span is None or task.estimate == "map"


def _scores(language: Pcfg, task: ParseTask, rows: Sequence[Row]) -> torch.Tensor:
    """Distinct strings, shortest first → [N, K] what the task's estimate goes by, in nats up to what a string's all share.

    Of what it does not read whole, `rows` are the spans.
    """
    charts = _Charts(language)
    lengths = torch.tensor([len(row) for row in rows])
    scores = torch.empty(len(rows), charts.size, dtype=torch.float64)
    for part in chart.chunks(lengths, len(language.form.pairs), len(language.form.mass), None):
        for length in lengths[part].unique().tolist():
            places = part[lengths[part] == length]
            span = (task.span if _reads_all(task) else None) or (0, length)
            found = charts.weights(torch.tensor([rows[i] for i in places.tolist()]), span)
            outside = places[found.total == -math.inf].tolist()
            if _reads_all(task) and (outside or length > (language.max_length or length)):
                string = language.vocabulary.join(rows[outside[0] if outside else int(places[0])])
                raise UsageError(
                    f"task {task.name!r}: the string {language.vocabulary.text(string)!r} is not in {language.name}: "
                    "only its strings have labels"
                )
            scores[places] = found.inside if task.estimate == "ml" else found.inside + found.outside
    return scores


def _contexts(w: chart.Weights, cells: torch.Tensor, span: Span) -> list[torch.Tensor]:
    """Outside weights [N, K] of all spans that hold `span`, widest first and `span` last, no unit rule on top of the span.

    A span is opened from a wider one with the same start or the same end: what lies between is its sibling's.
    """
    ring, (batch, _, n, size) = w.ring, cells.shape
    i, j = span
    lefts = ring.of(torch.eye(size, dtype=torch.float64)[w.left])  # [P, K]
    opened: dict[Span, torch.Tensor] = {}  # [N, P] by wider span
    contexts = []
    for start, stop in sorted(((a, b) for a in range(i + 1) for b in range(j, n + 1)), key=lambda s: s[0] - s[1]):
        context = torch.full((batch, size), ring.zero, dtype=torch.float64)
        if (start, stop) == (0, n):
            context[:, 0] = ring.one
        for k in range(start):
            sibling = cells[:, start, n - (start - k)][:, w.left]
            context = ring.add(context, ring.matmul(ring.mul(opened[k, stop], sibling), w.right_onehot))
        for k in range(stop + 1, n + 1):
            sibling = cells[:, k, n - (k - stop)][:, w.right]
            context = ring.add(context, ring.matmul(ring.mul(opened[start, k], sibling), lefts))
        opened[start, stop] = ring.matmul(context, w.inside_binary.T)
        contexts.append(context)
    return contexts


def _candidates(language: Pcfg, task: ParseTask) -> tuple[str, ...]:
    names = language.grammar.names
    candidates = task.candidates
    if candidates is None and task.span is None:
        alone = {rule.rhs[0] for rule in language.grammar.by_lhs()[0] if len(rule.rhs) == 1 and rule.rhs[0] > 0}
        candidates = tuple(names[a] for a in sorted(alone))
    elif candidates is None:
        candidates = names
    if unknown := [name for name in candidates if name not in names]:
        raise UsageError(
            f"task {task.name!r}: {unknown[0]!r} is no nonterminal that {language.name} reaches; {nearest(unknown[0], names)}"
        )
    if len(candidates) < 2 or len(set(candidates)) < len(candidates):
        raise UsageError(
            f"task {task.name!r}: expected at least two different candidates, found {', '.join(candidates) or 'none'}: name "
            "nonterminals to tell apart"
        )
    return candidates


def _check_rows(language: Pcfg, task: ParseTask, rows: Sequence[Row]) -> None:
    i, j = task.span or (0, 1)
    if not 0 <= i < j:
        raise UsageError(f"task {task.name!r}: expected a span [i, j) with 0 ≤ i < j, found {_text(task.span)}")
    if not rows:
        raise UsageError(f"task {task.name!r}: expected at least one string, found none")
    if short := sum(len(row) < j for row in rows):
        raise UsageError(
            f"task {task.name!r}: expected strings of at least {j} symbols, found {short} of {len(rows)} that are shorter "
            f"(the shortest has {min(map(len, rows))}): leave them out, or choose another span"
        )
    if any(not 0 <= symbol < len(language.symbols) for row in rows for symbol in row):
        raise UsageError(
            f"task {task.name!r}: expected ids of the {len(language.symbols)} symbols alone, no EOS, BOS or PAD"
        )


def _numbered(
    task: ParseTask, chosen: torch.Tensor, names: Sequence[str], posterior: torch.Tensor, margin: torch.Tensor
) -> ParseLabels:
    """Labels among the classes that occur."""
    occurring, labels = chosen.unique(sorted=True, return_inverse=True)
    classes = [names[i] for i in occurring.tolist()]
    if len(classes) < 2:
        raise UsageError(
            f"task {task.name!r} has one class: all {len(chosen)} strings are {classes[0]!r} over {_text(task.span)}; "
            "choose another span, other candidates, or more strings"
        )
    return ParseLabels(labels, classes, posterior, margin)


def _text(span: Span | None) -> str:
    return "the whole string" if span is None else f"[{span[0]}, {span[1]})"
