"""`kind = "arranged"`: a length and a number of symbols are drawn, then the symbols are put into an order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row, Support
from lmtest.languages.laws import FiniteLaw
from lmtest.languages.listing import list_by_length
from lmtest.languages.ngrams import Tally, first_context, next_context

COUNTED, FILLER, END = 0, 1, 2
"""Token ids of the two symbols; END is the last column of the tables here."""

MOST_SYMBOLS = 1000
"""Longer strings have numbers of arrangements, and masses, that float64 does not hold."""


class Arranged(Language):
    """A fixed `prefix`, then `room` symbols of which a drawn number c is `counted` and the others are `filler`.

    `length` is the law of the whole string's length, prefix included. Count: "even", c = 2 · U{0 … ⌊room/2⌋}; "half",
    c = room/2; "even_strings", P(c) ∝ C(room, c) over even c, so that all such strings are equally likely. Arrangement:
    "shuffled", every order equally likely, or "sorted", all fillers first. The `prefix` is read symbol by symbol, or split
    at white space where a symbol has several characters.

    The law of the rest depends on (t, u) alone: symbols so far behind the prefix, and counted ones among them.
    """

    def __init__(
        self,
        prefix: str,
        counted: str,
        filler: str,
        length: FiniteLaw,
        count: str,
        arrangement: str,
        *,
        name: str,
        title: str,
        source: str = "",
        max_length: int | None = None,
    ) -> None:
        if counted == filler:
            raise UsageError(f"expected two different symbols, found {counted!r} for both counted and filler")
        words = len(counted) > 1 or len(filler) > 1
        start = prefix.split() if words else list(prefix)
        symbols = tuple(dict.fromkeys((counted, filler, *start)))
        super().__init__(symbols, name=name, title=title, source=source, max_length=max_length)
        self._start = tuple(symbols.index(symbol) for symbol in start)
        self._length = length.at_most(max_length)
        self._shuffled = arrangement == "shuffled"
        lengths = [n for n in range(self._length.low, self._length.high + 1) if self._length.log_pmf(n) > -math.inf]
        if lengths[0] < len(start):
            raise UsageError(f"a length of {lengths[0]} has no room for the prefix {prefix!r}: raise the length's low")
        if lengths[-1] > MOST_SYMBOLS:
            raise UsageError(f"expected lengths of at most {MOST_SYMBOLS}, found {lengths[-1]}: lower its high")
        self._most = lengths[-1] - len(start)
        binomials = _binomials(self._most)
        self._ways = binomials if self._shuffled else np.tril(np.ones_like(binomials))
        """Arrangements of t symbols, u of them counted, [R + 1, R + 1]."""
        self._law = np.zeros_like(binomials)
        """P(room = t, c = u), [R + 1, R + 1]."""
        for n in lengths:
            room = n - len(start)
            counts = _count_law(count, binomials[room, : room + 1])
            self._law[room, : room + 1] = math.exp(self._length.log_pmf(n)) * counts
        self._fill_tables()

    def _fill_tables(self) -> None:
        """Masses of the classes (t, u): that t symbols or more come, u counted among the first t; then the laws.

        The mass of a class, unlike that of one of its prefixes, is a share of 1: no large number ever meets a small one.
        """
        size = self._most + 1
        t, u = np.indices((size, size))
        # The shares of a class's prefixes that end in a counted symbol, and in a filler.
        if self._shuffled:
            last_counted, last_filler = u / np.maximum(t, 1), np.maximum(t - u, 0) / np.maximum(t, 1)
        else:
            last_counted, last_filler = (u > 0).astype(float), (u == 0).astype(float)
        mass, flow = self._law.copy(), np.zeros((size, size, 3))
        flow[:, :, END] = self._law
        for s in range(size - 2, -1, -1):
            flow[s, :-1, COUNTED] = (mass[s + 1] * last_counted[s + 1])[1:]
            flow[s, :, FILLER] = mass[s + 1] * last_filler[s + 1]
            mass[s] += flow[s, :, COUNTED] + flow[s, :, FILLER]
        self._next = np.divide(flow, mass[:, :, None], out=np.zeros_like(flow), where=mass[:, :, None] > 0)
        """Next-symbol laws, [R + 1, R + 1, 3]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            prefix = np.log(mass) - np.log(self._ways)  # log mass of a single prefix
            joint = np.where(self._next > 0, np.log(self._next) + prefix[:, :, None], -math.inf)
        # Rows: the places within the prefix, then (t, u), then the dead state.
        rows = np.full((len(self._start) + size * size + 1, self.vocabulary.n_outputs), -math.inf)
        rows[np.arange(len(self._start)), list(self._start)] = 0.0
        rows[len(self._start) : -1, [COUNTED, FILLER, self.vocabulary.eos]] = joint.reshape(-1, 3)
        self._joint = torch.from_numpy(rows)

    # The contract.

    def joint_next(self, tokens: torch.Tensor) -> torch.Tensor:
        fixed = len(self._start)
        body = tokens[:, 1:]
        free = torch.arange(body.shape[1]) >= fixed
        # Beyond the prefix this holds zeros, that nobody reads.
        start = torch.zeros(body.shape[1], dtype=torch.int64)
        start[:fixed] = torch.tensor(self._start, dtype=torch.int64)[: body.shape[1]]
        counted = torch.nn.functional.pad(((body == COUNTED) & free).cumsum(1), (1, 0))
        fits = torch.where(free, body <= FILLER, body == start)
        if not self._shuffled:
            fits &= ~(free & (body == FILLER) & (counted[:, :-1] > 0))
        alive = torch.cat([tokens[:, :1] == self.vocabulary.bos, fits], 1).cumprod(1).bool()
        t = torch.arange(tokens.shape[1]) - fixed
        state = torch.where(t < 0, t + fixed, fixed + t * (self._most + 1) + counted)
        return self._joint[torch.where(alive & (t <= self._most), state, len(self._joint) - 1)]

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The pairs (room, c) that occur [P, 2], and their probabilities [P]."""
        pairs = np.argwhere(self._law > 0)
        return pairs, self._law[pairs[:, 0], pairs[:, 1]]

    def sample_ids(self, n: int, rng: np.random.Generator) -> list[Row]:
        pairs, probs = self._pairs
        rooms, counts = pairs[rng.choice(len(pairs), size=n, p=probs / probs.sum())].T
        places = np.arange(rooms.max(initial=0))
        if self._shuffled:
            # The places of the counted symbols are those of the smallest keys.
            keys = np.where(places < rooms[:, None], rng.random((n, len(places))), 2.0)
            counted = np.zeros(keys.shape, dtype=bool)
            np.put_along_axis(counted, keys.argsort(1), places < counts[:, None], 1)
        else:
            counted = places >= (rooms - counts)[:, None]
        rows = np.where(counted, COUNTED, FILLER).tolist()
        return [self._start + tuple(row[:room]) for row, room in zip(rows, rooms.tolist(), strict=True)]

    @property
    def longest(self) -> float:
        return self._length.high

    def length_law(self, most: int) -> np.ndarray:
        """P(length = n) for n = 0 … `most`."""
        return np.array([math.exp(self._length.log_pmf(n)) for n in range(most + 1)])

    def mean_length(self) -> float:
        return self._length.mean()

    def list_support(self) -> Support | None:
        return list_by_length(self)

    def count_completions(self, rows: Sequence[Row], most: int) -> np.ndarray:
        fixed, (pairs, _) = len(self._start), self._pairs
        alive = (self.prefix_log_prob_ids(rows) > -math.inf).tolist()
        counts = np.zeros((len(rows), most + 1))
        for row, living, found in zip(rows, alive, counts, strict=True):
            t, u = max(len(row) - fixed, 0), tuple(row[fixed:]).count(COUNTED)
            symbols, counted = (pairs - [t, u]).T  # still to come
            more = symbols + t + fixed - len(row)
            fits = (counted >= 0) & (symbols >= counted) & (more <= most) & living
            if u and not self._shuffled:
                fits &= symbols == counted  # behind a counted symbol only more of them come
            np.add.at(found, more[fits], self._ways[symbols[fits], counted[fits]])
        return counts

    def exact_entropy(self) -> float:
        # A string shows its length and its count, so H(string) = H(length, count) + E ln(number of arrangements).
        pairs, probs = self._pairs
        return math.fsum(probs * (np.log(self._ways[pairs[:, 0], pairs[:, 1]]) - np.log(probs)))

    def ngram_counts(self, order: int) -> dict[Row, torch.Tensor]:
        context = first_context(self.vocabulary, order)
        tally = Tally(self.vocabulary.n_outputs)
        for symbol in self._start:
            tally.add(context, symbol, 1.0)
            context = next_context(context, symbol, order)
        # Mass by u, for each context that stands before the symbol at t.
        at: dict[Row, np.ndarray] = {context: np.eye(1, self._most + 1)[0]}
        for law in self._next:
            longer: dict[Row, np.ndarray] = {}
            for context, mass in at.items():
                tally.add(context, self.vocabulary.eos, mass @ law[:, END])
                for symbol in (COUNTED, FILLER):
                    flow = mass * law[:, symbol]
                    tally.add(context, symbol, flow.sum())
                    after = next_context(context, symbol, order)
                    # No mass is at u = R while symbols still come, so nothing wraps around.
                    longer[after] = longer.get(after, 0.0) + np.roll(flow, int(symbol == COUNTED))
            at = longer
        return tally.tensors()


def _count_law(count: str, ways: np.ndarray) -> np.ndarray:
    """P(c | room) for c = 0 … room; `ways[c]` = C(room, c)."""
    room = len(ways) - 1
    if count == "half" and room % 2:
        raise UsageError(
            f"half of {room} symbols is no whole number: let the lengths, less the prefix, be even (step = 2)"
        )
    counts = np.arange(room + 1)
    chosen = 2 * counts == room if count == "half" else counts % 2 == 0
    weights = np.where(chosen, ways if count == "even_strings" else 1.0, 0.0)
    shares: np.ndarray = weights / weights.sum()
    return shares


def _binomials(size: int) -> np.ndarray:
    """C(t, u) for 0 ≤ u, t ≤ size, by Pascal's triangle: sums of positive numbers, exact to a few ulps."""
    ways = np.zeros((size + 1, size + 1))
    ways[:, 0] = 1.0
    for t in range(1, size + 1):
        ways[t, 1:] = ways[t - 1, 1:] + ways[t - 1, :-1]
    return ways
