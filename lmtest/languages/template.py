"""`kind = "template"`: words repeated by exponents with a stated law, such as a^n b^n, a^n b^m or (a b)^2n c."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from lmtest import limits
from lmtest.errors import UsageError
from lmtest.languages.base import SUPPORT_LIMIT, Language, Row, Support
from lmtest.languages.laws import ExponentLaw
from lmtest.languages.trie import PrefixTrie

MOST_ASSIGNMENTS, MOST_LISTED = 200_000, 4_000_000
"""Templates with more values of their exponents, or symbols of all strings together, count as too large to list."""


@dataclass(frozen=True)
class Block:
    """`word` repeated times · n + plus, with n the value of exponent `variable` (or plus alone)."""

    word: tuple[str, ...]
    variable: str | None
    times: int
    plus: int


_ITEM = re.compile(
    r"""\s*(?:(?P<quoted>'[^']+'|"[^"]+")|\((?P<group>[^()]*)\)|(?P<symbol>[^\s^()'"]+))"""
    r"""(?:\^(?P<exponent>\{[^{}]*\}|[^\s(]+))?(?=\s|$)"""
)
_EXPONENT = re.compile(
    r"(?P<plus>[0-9]+)$|(?P<times>[0-9]+)?\s*\*?\s*(?P<variable>[A-Za-z_]\w*)\s*(?:\+\s*(?P<more>[0-9]+))?$"
)


def parse_template(text: str) -> list[Block]:
    """Template text → blocks. Items stand apart by white space: `a^n`, `(ab)^n`, `(the cat)^2n`, `'('^{n+1}`, `c`."""
    blocks, position = [], 0
    text = text.rstrip()
    # Where some symbol has several characters, a group without white space is one such symbol, not its letters.
    bare = (item["symbol"] or "" for item in _ITEM.finditer(text))
    words = any(len(symbol) > 1 for symbol in bare)
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None:
            raise UsageError(
                f"cannot read the template {text!r} at {text[position:]!r}: "
                "expected items such as a^n, (ab)^2n, 'the'^3 or c, with white space between them"
            )
        position = item.end()
        if item["quoted"]:
            word: tuple[str, ...] = (item["quoted"][1:-1],)
        elif item["symbol"]:
            word = (item["symbol"],)
        else:
            group = item["group"].strip()
            word = tuple(group.split()) if words or re.search(r"\s", group) else tuple(group)
        raw = (item["exponent"] or "1").strip("{}").strip()
        exponent = _EXPONENT.match(raw)
        times = _number(exponent["times"] or "1") if exponent is not None else 0
        if not word or exponent is None or times == 0 or "^" in "".join(word):
            raise UsageError(
                f"cannot read {item[0].strip()!r} in the template: expected a symbol, quotes around one that is a bracket "
                "or ^, or symbols in parentheses, with an exponent such as n, 2n, n+1 or 3"
            )
        plus = _number(exponent["plus"] or exponent["more"] or "0")
        blocks.append(Block(word, exponent["variable"], times if exponent["variable"] else 0, plus))
    if not blocks:
        raise UsageError("the template is empty: write for example  a^n b^n")
    return blocks


def _number(digits: str) -> int:
    number = int(digits) if len(digits) < 20 else math.inf  # Python refuses to read thousands of digits
    limits.check("symbols in a template's number", number, limits.MOST_LENGTH, "lower it")
    return int(number)


class Template(Language):
    """A counted template: its strings are the template with every exponent drawn from its own law, independently."""

    def __init__(
        self,
        template: str,
        laws: dict[str, ExponentLaw],
        *,
        name: str,
        title: str,
        source: str = "",
        max_length: int | None = None,
    ) -> None:
        self.template = template
        self.blocks = parse_template(template)
        self.variables = tuple(dict.fromkeys(b.variable for b in self.blocks if b.variable is not None))
        if missing := [v for v in self.variables if v not in laws]:
            raise UsageError(
                f'the exponent {missing[0]!r} has no law; add  {missing[0]} = {{ law = "uniform", low = 1, high = 16 }}'
            )
        if unknown := [v for v in laws if v not in self.variables]:
            raise UsageError(
                f"a law for {unknown[0]!r}, which is no exponent of {template!r}; exponents: {' '.join(self.variables)}"
            )
        self.laws = [laws[v] for v in self.variables]
        symbols = tuple(dict.fromkeys(s for b in self.blocks for s in b.word))
        super().__init__(symbols, name=name, title=title, source=source, max_length=max_length)
        index = {s: i for i, s in enumerate(symbols)}
        self._words = [tuple(index[s] for s in block.word) for block in self.blocks]
        self._which = [self.variables.index(b.variable) if b.variable is not None else -1 for b in self.blocks]
        self._fixed = sum(len(b.word) * b.plus for b in self.blocks)
        self._sizes = [sum(len(b.word) * b.times for b in self.blocks if b.variable == v) for v in self.variables]
        shortest = self._fixed + sum(size * law.low for size, law in zip(self._sizes, self.laws, strict=True))
        limits.check("symbols in the shortest string", shortest, limits.MOST_LENGTH, "lower exponents or their laws")
        self._cached_row = lru_cache(maxsize=50_000)(self._joint_row)
        if max_length is not None and self._log_norm == -math.inf:
            raise UsageError(f"{name}: no string has at most max_length = {max_length} symbols; raise it")

    # Lengths: Σ sizes[v] · n_v + fixed. All masses are logarithms.

    @cached_property
    def _lengths(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Under a limit: [v][r] = log P(the exponents v, v+1, … take exactly, or at most, r symbols together)."""
        assert self.max_length is not None
        exactly = np.full(self.max_length + 1, -math.inf)
        exactly[0] = 0.0
        laws = [exactly]
        for law, size in zip(reversed(self.laws), reversed(self._sizes), strict=True):
            widened = np.full_like(exactly, -math.inf)
            for n in range(law.low, self.max_length // size + 1):
                shifted = law.log_pmf(n) + exactly[: len(exactly) - n * size]
                widened[n * size :] = np.logaddexp(widened[n * size :], shifted)
            laws.append(exactly := widened)
        laws.reverse()
        return laws, [np.logaddexp.accumulate(law) for law in laws]

    def _fits(self, first_free: int, taken: int) -> float:
        """log P(the exponents from `first_free` on leave the string within the limit), `taken` symbols being elsewhere."""
        if self.max_length is None:
            return 0.0
        left = self.max_length - taken
        return float(self._lengths[1][first_free][left]) if left >= 0 else -math.inf

    @cached_property
    def _log_norm(self) -> float:
        return self._fits(0, self._fixed)

    def length_law(self, most: int) -> np.ndarray:
        """P(length = n) for n = 0 … `most`: exponents are drawn independently."""
        law = np.zeros(most + 1)
        if self._fixed <= most:
            law[self._fixed] = 1.0
        for exponent, size in zip(self.laws, self._sizes, strict=True):
            wider = np.zeros_like(law)
            for n in range(exponent.low, most // size + 1):
                wider[n * size :] += math.exp(exponent.log_pmf(n)) * law[: len(law) - n * size]
            law = wider
        if self.max_length is not None:
            law[self.max_length + 1 :] = 0.0
            law /= math.exp(self._log_norm)
        return law

    # Masses of single strings and prefixes: walk the blocks; exponents get their values where they first occur.

    def _log_mass(self, row: Row, whole: bool) -> float:
        """Log mass of the string `row`, or of all strings that start with it: a sum over disjoint cases."""
        cases = list(self._walk(row, whole, 0, 0, (), self._fixed, 0.0))
        top = max(cases, default=-math.inf)
        if top == -math.inf:
            return -math.inf
        return top + math.log(math.fsum(math.exp(case - top) for case in cases)) - self._log_norm

    def _walk(
        self, row: Row, whole: bool, block: int, position: int, values: Row, taken: int, mass: float
    ) -> Iterator[float]:
        if not whole and position >= len(row):
            yield mass + self._fits(len(values), taken)
            return
        if block == len(self.blocks):
            if whole and position == len(row) and (self.max_length is None or taken <= self.max_length):
                yield mass
            return
        word, spec, which = self._words[block], self.blocks[block], self._which[block]
        room = len(row) - position
        matched = 0  # symbols from here on that the repeated word would match
        while matched < room and row[position + matched] == word[matched % len(word)]:
            matched += 1
        if which < len(values):  # a fixed count, or an exponent that has its value
            need = len(word) * (spec.plus + (spec.times * values[which] if which >= 0 else 0))
            if matched >= min(need, room) and not (whole and need > room):
                yield from self._walk(row, whole, block + 1, position + need, values, taken, mass)
            return
        law = self.laws[which]
        n = law.low
        while (need := len(word) * (spec.plus + spec.times * n)) < room or (whole and need == room):
            if matched < need or (law.high is not None and n > law.high):
                return
            if (p := law.log_pmf(n)) > -math.inf:
                longer = taken + self._sizes[which] * n
                yield from self._walk(row, whole, block + 1, position + need, (*values, n), longer, mass + p)
            n += 1
        if whole or matched < room:
            return
        # The prefix ends within this block: every larger exponent completes it.
        if self.max_length is None:
            yield mass + law.log_tail(n)
            return
        most = (self.max_length - taken) // self._sizes[which]
        for m in range(n, most + 1 if law.high is None else min(most, law.high) + 1):
            yield mass + law.log_pmf(m) + self._fits(which + 1, taken + self._sizes[which] * m)

    def _joint_row(self, row: Row) -> list[float]:
        masses = [self._log_mass((*row, symbol), whole=False) for symbol in range(len(self.symbols))]
        return [*masses, self._log_mass(row, whole=True)]

    def joint_next(self, tokens: torch.Tensor) -> torch.Tensor:
        if self._trie is not None:
            return self._trie.joint_next(tokens, self.vocabulary.bos)
        joint = torch.full((*tokens.shape, self.vocabulary.n_outputs), -math.inf, dtype=torch.float64)
        for i, (first, *rest) in enumerate(tokens.tolist()):
            if first != self.vocabulary.bos:
                continue
            proper = list(itertools.takewhile(lambda token: token < len(self.symbols), rest))
            for t in range(len(proper) + 1):
                values = self._cached_row(tuple(proper[:t]))
                joint[i, t] = torch.tensor(values, dtype=torch.float64)
                if max(values) == -math.inf:
                    break
        return joint

    @cached_property
    def _trie(self) -> PrefixTrie | None:
        support = self.support()
        return None if support is None else PrefixTrie(support, self.vocabulary.n_outputs)

    # The rest of the contract.

    def sample_ids(self, n: int, rng: np.random.Generator) -> list[Row]:
        if self.max_length is None:
            columns = [law.sample(n, rng) for law in self.laws]
            drawn = [tuple(map(int, values)) for values in (zip(*columns, strict=True) if columns else [()] * n)]
        else:
            drawn = [self._draw_within(rng) for _ in range(n)]
        total = sum(map(self._length_of, drawn))
        what = f"symbols of {self.name} drawn at once"
        limits.check(what, total, limits.MOST_DRAWN, "draw fewer strings, or set a (lower) max_length")
        return [self._string(values) for values in drawn]

    def _length_of(self, values: Row) -> int:
        return self._fixed + sum(size * value for size, value in zip(self._sizes, values, strict=True))

    def _draw_within(self, rng: np.random.Generator) -> Row:
        """Exponents one after the other, each with the mass of all that can still follow it within the limit."""
        assert self.max_length is not None
        values: Row = ()
        taken = self._fixed
        for v, (law, size) in enumerate(zip(self.laws, self._sizes, strict=True)):
            ns = range(law.low, (self.max_length - taken) // size + 1)
            logs = np.array([law.log_pmf(n) + self._fits(v + 1, taken + size * n) for n in ns])
            cumulative = np.cumsum(np.exp(logs - logs.max()))
            n = ns[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]
            values, taken = (*values, n), taken + size * n
        return values

    def _string(self, values: tuple[int, ...]) -> Row:
        parts = zip(self._words, self.blocks, self._which, strict=True)
        repeated = (
            word * (block.plus + (block.times * values[which] if which >= 0 else 0)) for word, block, which in parts
        )
        return tuple(itertools.chain.from_iterable(repeated))

    @property
    def longest(self) -> float:
        highs = [math.inf if law.high is None else law.high for law in self.laws]
        whole = self._fixed + sum(size * high for size, high in zip(self._sizes, highs, strict=True) if size)
        return whole if self.max_length is None else min(whole, self.max_length)

    def mean_length(self) -> float:
        if self.max_length is None:
            return self._fixed + sum(s * law.mean() for s, law in zip(self._sizes, self.laws, strict=True))
        lengths = np.exp(self._lengths[0][0][: self.max_length - self._fixed + 1] - self._log_norm)
        return self._fixed + float(np.arange(len(lengths)) @ lengths)

    def list_support(self) -> Support | None:
        if self.max_length is None and any(law.high is None for law in self.laws):
            return None
        if math.prod(self._counts()) > MOST_ASSIGNMENTS:
            return None
        masses: dict[Row, float] = {}
        symbols = 0
        for values, log_p in self._assignments((), self._fixed, -self._log_norm):
            symbols += self._length_of(values)
            if symbols > MOST_LISTED:
                return None
            row = self._string(values)
            masses[row] = float(np.logaddexp(masses[row], log_p)) if row in masses else log_p
            if len(masses) > SUPPORT_LIMIT:
                return None
        return Support(list(masses), torch.tensor(list(masses.values()), dtype=torch.float64))

    def _counts(self) -> list[int]:
        """How many values each exponent can have."""
        counts = []
        for law, size in zip(self.laws, self._sizes, strict=True):
            most = math.inf if self.max_length is None else self.max_length // size
            counts.append(int(max(min(most, math.inf if law.high is None else law.high) - law.low + 1, 0)))
        return counts

    def _assignments(self, values: Row, taken: int, mass: float) -> Iterator[tuple[Row, float]]:
        """All values of the exponents that the limit allows, with their log probability."""
        if len(values) == len(self.laws):
            yield values, mass
            return
        law, size = self.laws[len(values)], self._sizes[len(values)]
        for n in range(law.low, law.low + self._counts()[len(values)]):
            longer, log_p = taken + size * n, mass + law.log_pmf(n)
            if log_p + self._fits(len(values) + 1, longer) > -math.inf:
                yield from self._assignments((*values, n), longer, log_p)

    def exact_entropy(self) -> float | None:
        if not self._injective:
            return super().exact_entropy()
        if self.max_length is None:
            return math.fsum(law.entropy() for law in self.laws)
        # Σ p ln p over the exponents within the limit, by length, in the entropy semiring: (p, p ln p) pairs.
        mass, weighted = np.zeros(self.max_length + 1), np.zeros(self.max_length + 1)
        mass[0] = 1.0
        for law, size in zip(self.laws, self._sizes, strict=True):
            wider, heavier = np.zeros_like(mass), np.zeros_like(mass)
            for n in range(law.low, self.max_length // size + 1):
                p, log_p, end = math.exp(law.log_pmf(n)), law.log_pmf(n), len(mass) - n * size
                if p > 0:
                    wider[n * size :] += p * mass[:end]
                    heavier[n * size :] += p * weighted[:end] + p * log_p * mass[:end]
            mass, weighted = wider, heavier
        room = self.max_length - self._fixed + 1
        return float(self._log_norm - weighted[:room].sum() / math.exp(self._log_norm))

    @cached_property
    def _injective(self) -> bool:
        """Whether the symbol counts, which are affine in the exponents, determine them: then so does the string."""
        counts = np.zeros((len(self.symbols), len(self.variables)))
        for word, block, which in zip(self._words, self.blocks, self._which, strict=True):
            for symbol in word:
                if which >= 0:
                    counts[symbol, which] += block.times
        return int(np.linalg.matrix_rank(counts)) == len(self.variables)
