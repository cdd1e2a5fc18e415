"""`kind = "hmm_mixture"`: documents of one length from a mixture of hidden Markov models (GINC; Xie et al., arXiv 2111.02080)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lmtest import limits
from lmtest.errors import UsageError
from lmtest.languages.base import SUPPORT_LIMIT, Entropy, Language, Row, Support, check_count
from lmtest.languages.hmm import Mixture, Reading, draw, read
from lmtest.languages.hmm_construction import Construction
from lmtest.languages.ngrams import first_context
from lmtest.languages.vocabulary import String, check_list
from lmtest.seeds import generator

CHUNK = 25_000_000
"""Numbers held at once while many strings are read: 200 MB."""
MOST_STATES = 25_000_000
"""Masses of states computed while strings are listed, one symbol longer at a time."""
MOST_READ = 4e10
"""Multiplications spent on a sampled entropy: seconds."""


class HmmMixture(Language):
    """A concept, a start state, and then its chain for exactly `length` symbols; symbol 0 is the delimiter, "/".

    EOS comes behind the last symbol for certain, and never before.
    """

    def __init__(
        self,
        construction: Construction,
        length: int,
        *,
        name: str,
        title: str,
        source: str = "",
        max_length: int | None = None,
    ) -> None:
        if max_length is not None and max_length < length:
            raise UsageError(
                f"expected max_length ≥ length, for every document has exactly {length} symbols, found {max_length}: "
                "drop max_length, or lower length"
            )
        super().__init__(construction.symbols(), name=name, title=title, source=source, max_length=max_length)
        self.construction, self.length = construction, length
        self.mixture: Mixture = construction.mixture()

    # The exact law.

    def joint_next(self, tokens: Tensor) -> Tensor:
        eos = self.vocabulary.eos
        joint = torch.full((*tokens.shape, self.vocabulary.n_outputs), -math.inf, dtype=torch.float64)
        for i, reading in self._read(tokens[:, 1 : self.length + 1]):
            mass = reading.log_mass
            rows = slice(i, i + len(mass))
            joint[rows, : mass.shape[1], :eos] = torch.where(
                mass[..., None] > -math.inf, mass[..., None] + reading.law.log(), -math.inf
            )
            if mass.shape[1] == self.length + 1:
                joint[rows, self.length, :eos] = -math.inf
                joint[rows, self.length, eos] = mass[:, -1]
        joint[tokens[:, 0] != self.vocabulary.bos] = -math.inf
        return joint

    def log_prob_ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        whole = torch.tensor([len(row) == self.length for row in rows], dtype=torch.bool)
        log_probs = torch.full((len(rows),), -math.inf, dtype=torch.float64)
        log_probs[whole] = self.prefix_log_prob_ids([row for row in rows if len(row) == self.length])
        return log_probs

    def prefix_log_prob_ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return self.joint_ids(rows).logsumexp(-1)

    def joint_ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Rows of token ids → ln P(concept, prefix) [N, C] float64, nats; −inf where dead."""
        joint = torch.full((len(rows), len(self.mixture.weights)), -math.inf, dtype=torch.float64)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        for length in np.unique(lengths[lengths <= self.length]).tolist():
            same = np.flatnonzero(lengths == length).tolist()
            symbols = torch.tensor([rows[i] for i in same], dtype=torch.int64).view(len(same), length)
            joint[same] = torch.cat([reading.joint[:, -1] for _, reading in self._read(symbols, every=False)])
        return joint

    def posterior(self, prefixes: Sequence[String]) -> np.ndarray:
        """Prefixes → P(concept | prefix) [N, C] float64; NaN where dead."""
        return np.asarray(self._joint(prefixes).softmax(-1).numpy())

    def concept_log_prob(self, prefixes: Sequence[String]) -> np.ndarray:
        """Prefixes → ln P(prefix | concept) [N, C] float64, nats; −inf where the concept cannot begin so."""
        return np.asarray((self._joint(prefixes) - self.mixture.weights.log()).numpy())

    def _joint(self, prefixes: Sequence[String]) -> Tensor:
        rows = [self.vocabulary.ids(prefix) for prefix in check_list(prefixes)]
        # A row with an unknown symbol is as dead as one with a PAD.
        return self.joint_ids([(self.vocabulary.pad,) if row is None else row for row in rows])

    def _read(self, symbols: Tensor, every: bool = True) -> Iterator[tuple[int, Reading]]:
        """Symbol ids [N, T] → the first place and the reading of every chunk."""
        concepts, entities, properties = self.mixture.shape
        kept = symbols.shape[1] + 1 if every else 1
        # What is kept is held twice while it is stacked, and the law once more as a logarithm; a step makes a few states.
        each = 3 * kept * (concepts + len(self.symbols)) + 6 * concepts * entities * properties
        step = max(1, CHUNK // each)
        for i in range(0, len(symbols), step):
            yield i, read(self.mixture, symbols[i : i + step], every=every)

    # Documents.

    def sample_ids(self, n: int, rng: np.random.Generator) -> list[Row]:
        limits.check(f"symbols of {self.name} drawn at once", n * self.length, limits.MOST_DRAWN, "draw fewer strings")
        states = n * self.mixture.start[0].numel()
        limits.check(f"states weighed for {n} first ones", states, limits.MOST_DRAWN, "draw fewer strings")
        return [tuple(row) for row in draw(self.mixture, n, self.length, rng)[0].tolist()]

    def length_law(self, most: int) -> np.ndarray:
        """P(length = n) for n = 0 … `most`: all documents have one length."""
        return np.asarray(np.arange(most + 1) == self.length, dtype=np.float64)

    def mean_length(self) -> float:
        return float(self.length)

    @property
    def longest(self) -> float:
        return self.length

    def list_support(self) -> Support | None:
        """All documents, or None where there are more than SUPPORT_LIMIT or listing them takes long."""
        listed = _words(self.mixture, self._start(), self.length, SUPPORT_LIMIT)
        if listed is None:
            return None
        words, joint, _ = listed
        return Support([tuple(word) for word in words.tolist()], joint.logsumexp(-1))

    def unseen(self, n: int, seed: int) -> Mixture:
        """n fresh concepts by the same construction, with transitions that no concept of the language has.

        Memory and entities are the language's own. Raises UsageError where there are no such concepts.
        """
        return self.construction.unseen(self.mixture, n, seed)

    # The floor.

    def entropy(self, draws: int = 10_000, seed: int = 0) -> Entropy:
        """Entropy of the documents, nats per document: exact where all can be listed, else sampled.

        Sampled: the mean over drawn documents of Σ_t H(next symbol | prefix), each term exact: the expectation of −log p,
        and less variance. No more documents are drawn than can be read in seconds, whatever `draws`:
        `half_width` says how well that does.
        """
        if (exact := self.exact_entropy()) is not None:
            return Entropy(max(exact, 0.0), 0.0, True)
        check_count("a number of draws", draws, 2)
        concepts, entities, properties = self.mixture.shape
        work = self.length * concepts * entities * properties * (entities + properties + len(self.symbols))
        draws = min(draws, max(2, int(MOST_READ / work)))
        symbols = torch.from_numpy(draw(self.mixture, draws, self.length, generator(seed, "entropy"))[0])
        laws = (reading.law[:, :-1] for _, reading in self._read(symbols))
        nats = torch.cat([-torch.xlogy(law, law).sum((1, 2)) for law in laws])
        return Entropy(float(nats.mean()), 1.96 * float(nats.std()) / math.sqrt(draws), False)

    def entropy_rate(self, draws: int = 10_000, seed: int = 0) -> Entropy:
        """The entropy in nats per symbol of a document."""
        whole = self.entropy(draws, seed)
        return Entropy(whole.value / self.length, whole.half_width / self.length, whole.exact)

    # Expected counts.

    def ngram_counts(self, order: int) -> dict[Row, Tensor] | None:
        """Exact, without listing documents: the law of the state at every position, summed, and the words that follow.

        None where there are too many contexts.
        """
        first_context(self.vocabulary, order)
        known = order - 1
        counts: defaultdict[Row, Tensor] = defaultdict(
            lambda: torch.zeros(self.vocabulary.n_outputs, dtype=torch.float64)
        )

        def add(states: Tensor, length: int, before: Row, ends: bool) -> bool:
            listed = _words(self.mixture, states, length, MOST_STATES)
            if listed is None:
                return False
            words, joint, laws = listed
            follow = (joint.exp()[..., None] * laws).sum(1)
            for word, row in zip(words.tolist(), follow, strict=True):
                counts[*before, *word][-1 if ends else slice(-1)] += row.sum() if ends else row
            return True

        states = self._start()
        summed = torch.zeros_like(states)  # over the positions where a context begins that another symbol follows
        for _ in range(self.length - known):
            summed, states = summed + states, self.mixture.move(states)
        bos = (self.vocabulary.bos,)
        fine = all(add(self._start(), n, bos, n == self.length) for n in range(min(known, self.length + 1)))
        if fine and known <= self.length:
            fine = add(summed, known, (), False) and add(states, known, (), True)
        return dict(sorted(counts.items())) if fine else None

    def _start(self) -> Tensor:
        """P(concept, first state) [C, V, S]."""
        return self.mixture.weights[:, None, None] * self.mixture.start


def _words(mixture: Mixture, states: Tensor, length: int, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Masses of concept and state [C, V, S] → the words of `length` symbols that have mass, sorted [N, length].

    With each ln of its mass by concept [N, C], and the law [N, C, M] of the symbol behind it, 0 for a concept that cannot have
    it. None where there are more than `most`, or more than MOST_STATES to compute.
    """
    words = torch.zeros(1, 0, dtype=torch.int64)
    joint, states = _split(torch.zeros(1, len(states), dtype=torch.float64), states[None])
    computed = 0
    for _ in range(length):
        live, symbols = mixture.emit(states).gt(0).any(1).nonzero(as_tuple=True)
        computed += len(live) * states.shape[1:].numel()
        if len(live) > most or computed > MOST_STATES:
            return None
        words = torch.cat([words[live], symbols[:, None]], 1)
        joint, states = _split(joint[live], states[live] * mixture.emissions[symbols, None])
        states = mixture.move(states)
    return words, joint, mixture.emit(states)


def _split(joint: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Masses [N, C, V, S] → their sums as logarithms, added to `joint` [N, C], and the states' laws (0 for a dead concept)."""
    total = states.sum((-1, -2))
    return joint + total.log(), states / torch.where(total > 0, total, 1.0)[..., None, None]


__all__ = ["HmmMixture"]
