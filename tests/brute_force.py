"""The judge: exact laws of small languages by full enumeration, so simple that one can check them by eye.

Nothing here is shared with `lmtest`. A grammar is a dict from a nonterminal to its rules, each a probability and a
right-hand side; a symbol is a nonterminal iff it is a key, and the first key is the start symbol. All masses come from
one fixed point: the truncated power series X_A := Σ p · X_B · X_C ⋯, iterated from zero (Kleene). That converges to
the *least* solution, which is the sum over all derivations, whatever ε-rules, unit cycles, left recursion and ambiguity
there are. Convergence is geometric, at about the spectral radius of the grammar's mean matrix, so the grammars judged
here must be subcritical.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import tomli_w
from hypothesis import assume
from hypothesis import strategies as st
from scipy import stats

Word = tuple[str, ...]
Grammar = dict[str, list[tuple[float, Word]]]
EOS = "<eos>"


# Grammars as data.


def parse(text: str) -> Grammar:
    """Own tiny notation, one nonterminal a line, no quotes: `S -> a S b [0.5] | [0.5]`."""
    grammar: Grammar = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        lhs, rules = line.split(" -> ")
        for rule in rules.split(" | "):
            *rhs, probability = rule.split()
            grammar.setdefault(lhs, []).append((float(probability.strip("[]")), tuple(rhs)))
    return grammar


def render(grammar: Grammar) -> str:
    """The grammar as text that nltk reads: terminals in quotes, probabilities as plain decimals."""
    lines = []
    for lhs, rules in grammar.items():
        bodies = []
        for p, rhs in rules:
            quoted = [s if s in grammar else f"'{s}'" for s in rhs]
            bodies.append(" ".join([*quoted, f"[{p:.9f}]"]))
        lines.append(f"{lhs} -> " + " | ".join(bodies))
    return "\n".join(lines) + "\n"


def merged(grammar: Grammar) -> Grammar:
    """The same law with equal rules written once, their probabilities added."""
    out: Grammar = {}
    for a, rules in grammar.items():
        total: Counter[Word] = Counter()
        for p, rhs in rules:
            total[rhs] += p
        out[a] = [(p, rhs) for rhs, p in total.items()]
    return out


def reachable(grammar: Grammar) -> set[str]:
    """All symbols, terminals too, that some sentential form contains."""
    seen, todo = set(), [next(iter(grammar))]
    while todo:
        if (symbol := todo.pop()) not in seen:
            seen.add(symbol)
            todo += [s for _, rhs in grammar.get(symbol, []) for s in rhs]
    return seen


def alphabet(grammar: Grammar) -> Word:
    """The reachable terminals, sorted."""
    return tuple(sorted(reachable(grammar) - set(grammar)))


def productive(grammar: Grammar) -> set[str]:
    """The nonterminals that produce some string."""
    found: set[str] = set()
    while True:
        dead = set(grammar) - found
        more = {a for a, rules in grammar.items() if any(dead.isdisjoint(rhs) for _, rhs in rules)}
        if more == found:
            return found
        found = more


def radius(grammar: Grammar) -> float:
    """Spectral radius of the mean matrix over the reachable nonterminals: below 1, the grammar keeps its mass."""
    names = [a for a in grammar if a in reachable(grammar)]
    mean = [[sum(p * rhs.count(b) for p, rhs in grammar[a]) for b in names] for a in names]
    return float(max(abs(np.linalg.eigvals(np.array(mean)))))


# Truth: what a law says of every string and every prefix up to some length.


def words(symbols: Word, longest: int) -> list[Word]:
    """Every string over the symbols up to a length, the empty one first."""
    return [w for n in range(longest + 1) for w in itertools.product(symbols, repeat=n)]


@dataclass(frozen=True)
class Truth:
    """Masses of all `words(symbols, longest)`, as strings and as prefixes; `finite` where no string is longer."""

    symbols: Word
    longest: int
    strings: dict[Word, float]
    prefixes: dict[Word, float]
    finite: bool

    def next_law(self, prefix: Word) -> dict[str, float]:
        """Probability of each symbol and of EOS after a live prefix that is shorter than `longest`."""
        mass = self.prefixes[prefix]
        after = {s: self.prefixes[(*prefix, s)] / mass for s in self.symbols}
        return {**after, EOS: self.strings[prefix] / mass}

    def entropy(self) -> float:
        """Nats per string; only for a finite law."""
        assert self.finite
        return -math.fsum(p * math.log(p) for p in self.strings.values() if p > 0)

    def mean_length(self) -> float:
        """Symbols per string; only for a finite law."""
        assert self.finite
        return math.fsum(p * len(w) for w, p in self.strings.items())

    def entropy_bound(self) -> float:
        """Entropy of the string cut off after `longest` symbols: never above that of the string."""
        cut = [p for w, p in self.strings.items()]
        cut += [self.prefixes[w] - self.strings[w] for w in self.strings if len(w) == self.longest]
        return -math.fsum(p * math.log(p) for p in cut if p > 0)

    def mean_length_bound(self) -> float:
        """Mean length if every string beyond `longest` had just one symbol more: never above the mean length."""
        total = math.fsum(self.strings.values())
        return math.fsum(p * len(w) for w, p in self.strings.items()) + (1 - total) * (self.longest + 1)


def truth_of_strings(masses: dict[Word, float | Fraction], symbols: Word, longest: int) -> Truth:
    """Truth from a finite list of strings (which may be longer than `longest`): prefix masses by plain summation."""
    strings: dict[Word, float | Fraction] = dict.fromkeys(words(symbols, longest), 0)
    prefixes = dict(strings)
    for word, p in masses.items():
        if len(word) <= longest:
            strings[word] += p
        for n in range(min(len(word), longest) + 1):
            prefixes[word[:n]] += p
    finite = all(len(word) <= longest for word in masses)
    return Truth(symbols, longest, _floats(strings), _floats(prefixes), finite)


def conditioned(masses: dict[Word, float | Fraction], limit: int) -> dict[Word, float]:
    """The masses of the strings of at most `limit` symbols, divided by their sum."""
    kept = {w: p for w, p in masses.items() if len(w) <= limit}
    total = math.fsum(map(float, kept.values()))
    return {w: float(p) / total for w, p in kept.items() if p > 0}


def _floats(masses: dict[Word, float | Fraction]) -> dict[Word, float]:
    return {w: float(p) for w, p in masses.items()}


# Grammars: the fixed point. A series has one array for each length i ≤ n, over the kⁱ strings in the order of
# itertools.product (concatenation is then the outer product), and one last array of kⁿ for all strings longer than n,
# by their first n symbols.

Series = list[np.ndarray]


def _beyond(series: Series, k: int, m: int) -> np.ndarray:
    """Mass of the strings of more than m symbols, by their first m symbols."""
    return sum(block.reshape(k**m, -1).sum(1) for block in series[m + 1 :])


def _concatenate(x: Series, y: Series, k: int, n: int) -> Series:
    out = [np.zeros(k**i) for i in range(n + 1)] + [np.zeros(k**n)]
    for i in range(n + 1):
        if x[i].any():
            for j in range(n + 1 - i):
                out[i + j] += np.outer(x[i], y[j]).ravel()
            out[-1] += np.outer(x[i], _beyond(y, k, n - i)).ravel()
    out[-1] += x[-1] * sum(block.sum() for block in y)
    return out


def _fixed_point(grammar: Grammar, n: int, clip: float = math.inf, sweeps: int = 20_000) -> Series:
    """The start symbol's series, iterated from zero until no entry moves by more than 1e-14 of itself."""
    symbols = alphabet(grammar)
    k = len(symbols)

    def zero() -> Series:
        return [np.zeros(k**i) for i in range(n + 1)] + [np.zeros(k**n)]

    def single(j: int) -> Series:
        series = zero()
        series[1 if n else -1][j if n else 0] = 1.0  # with n = 0, a symbol is "longer" already
        return series

    nonterminals = [a for a in grammar if a in reachable(grammar)]
    x = {s: single(j) for j, s in enumerate(symbols)} | {a: zero() for a in nonterminals}
    one = zero()
    one[0][0] = 1.0
    for _ in range(sweeps):
        still = True
        for a in nonterminals:
            new = zero()
            for p, rhs in grammar[a]:
                term = one
                for s in rhs:
                    term = [np.minimum(block, clip) for block in _concatenate(term, x[s], k, n)]
                new = [np.minimum(u + p * v, clip) for u, v in zip(new, term, strict=True)]
            still &= all((abs(u - v) <= 1e-14 * u).all() for u, v in zip(new, x[a], strict=True))
            x[a] = new
        if still:
            return x[next(iter(grammar))]
    raise RuntimeError(f"no fixed point in {sweeps} sweeps; is the grammar subcritical?")


def truth_of_grammar(grammar: Grammar, longest: int) -> Truth:
    """Masses of all strings and prefixes up to a length, summed over all derivations."""
    symbols = alphabet(grammar)
    k = len(symbols)
    series = _fixed_point(grammar, longest)
    strings, prefixes = {}, {}
    for n in range(longest + 1):
        starts = series[n] + _beyond(series, k, n)
        for word, mass, start in zip(itertools.product(symbols, repeat=n), series[n], starts, strict=True):
            strings[word], prefixes[word] = float(mass), float(start)
    return Truth(symbols, longest, strings, prefixes, not series[-1].any())


def truth_within(grammar: Grammar, limit: int, longest: int) -> Truth:
    """The law conditioned on at most `limit` symbols, for all strings and prefixes up to `longest` ≥ `limit`."""
    truth = truth_of_grammar(grammar, limit)
    return truth_of_strings(conditioned(truth.strings, limit), truth.symbols, longest)


def ambiguous(grammar: Grammar, longest: int) -> bool:
    """Whether some string up to a length has two derivations: the same fixed point, counting up to two."""
    ones: Grammar = {a: [(1.0, rhs) for _, rhs in rules] for a, rules in grammar.items()}
    return any((block > 1).any() for block in _fixed_point(ones, longest, clip=2.0)[:-1])


def _expectation(grammar: Grammar, of_rule: Callable[[float, Word], float]) -> float:
    """Expected sum over a derivation of a quantity of its rules, by iteration from zero."""
    value = dict.fromkeys(grammar, 0.0)
    for _ in range(20_000):
        new = {a: sum(p * (of_rule(p, r) + sum(value.get(s, 0.0) for s in r)) for p, r in grammar[a]) for a in grammar}
        if all(abs(new[a] - value[a]) <= 1e-15 * new[a] for a in reachable(grammar) & set(grammar)):
            return new[next(iter(grammar))]
        value = new
    raise RuntimeError("no fixed point; is the grammar subcritical?")


def mean_length(grammar: Grammar) -> float:
    """Symbols per string."""
    return _expectation(grammar, lambda _, rhs: sum(s not in grammar for s in rhs))


def derivation_entropy(grammar: Grammar) -> float:
    """Nats per derivation: that of the strings if the grammar is unambiguous, above it otherwise."""
    return _expectation(grammar, lambda p, _: -math.log(p))


# Grammars at random.


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    """Small productive subcritical grammars, with ε-rules, unit cycles, left recursion, ambiguity and dead wood."""
    names = ["S", "A", "B", "C"][: draw(st.integers(2, 4))]
    terminals = ["a", "b", "c"][: draw(st.integers(1, 3))]
    bodies = {
        a: draw(st.lists(st.lists(st.sampled_from(terminals + names), max_size=3).map(tuple), min_size=1, max_size=3))
        for a in names
    }
    ending = st.sampled_from([(), *[(t,) for t in terminals]])
    while dead := set(names) - productive({a: [(1.0, r) for r in rules] for a, rules in bodies.items()}):
        bodies[min(dead)].append(draw(ending))
    recursive = draw(st.integers(1, 4))  # the smaller, the sooner derivations end
    grammar: Grammar = {}
    for a, rules in bodies.items():
        weights = [draw(st.integers(1, recursive if set(r) & set(names) else 9)) for r in rules]
        parts = [max(1, 1000 * w // sum(weights)) for w in weights]
        parts[0] += 1000 - sum(parts)
        grammar[a] = [(part / 1000, r) for part, r in zip(parts, rules, strict=True)]
    assume(alphabet(grammar))
    assume(radius(grammar) < 0.9)
    return grammar


# Templates.


@dataclass(frozen=True)
class Part:
    """`word` repeated `constant + factor · exponents[name]` times."""

    word: str
    factor: int = 0
    name: str = ""
    constant: int = 0


def uniform(low: int, high: int) -> dict[int, Fraction]:
    """Equal probability for low, …, high."""
    return {n: Fraction(1, high - low + 1) for n in range(low, high + 1)}


def geometric(p: Fraction, low: int) -> dict[int, Fraction]:
    """p (1 − p)^(n − low), as far as the tail stays above 1e-25."""
    law, tail = {}, Fraction(1)
    for n in itertools.count(low):
        if tail < Fraction(1, 10**25):
            return law
        law[n] = p * tail
        tail *= 1 - p
    raise AssertionError("unreachable")


def weights(values: Sequence[Fraction], low: int) -> dict[int, Fraction]:
    """The given probabilities for low, low + 1, …"""
    return {low + i: p for i, p in enumerate(values)}


def template_masses(parts: Sequence[Part], laws: dict[str, dict[int, Fraction]]) -> dict[Word, Fraction]:
    """Every string with its probability, summed over all assignments of the exponents (one symbol, one character)."""
    masses: Counter[Word] = Counter()
    for values in itertools.product(*laws.values()):
        exponent = dict(zip(laws, values, strict=True))
        text = "".join(p.word * (p.constant + p.factor * exponent.get(p.name, 0)) for p in parts)
        masses[tuple(text)] += math.prod((laws[name][n] for name, n in exponent.items()), start=Fraction(1))
    return dict(masses)


# Files, and samples against a law.


def write_language(path: Path, **keys: object) -> Path:
    """A language file with a title, unless given otherwise; None leaves a key out."""
    content = {"title": "a language", **keys}
    path.write_text(tomli_w.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def load(**keys: object):  # type: ignore[no-untyped-def]
    """The language of a file that has just these keys (and a title)."""
    from lmtest.languages import load_language  # the judge itself must not need what it judges

    with tempfile.TemporaryDirectory() as folder:
        return load_language(write_language(Path(folder) / "language.toml", **keys))


def fit(sample: Iterable[Word], strings: dict[Word, float]) -> float:
    """p-value of a G-test of a sample against a law; strings expected fewer than five times share one cell."""
    counts = Counter(sample)
    n = sum(counts.values())
    common = [w for w, p in strings.items() if n * p >= 5]
    observed = [counts[w] for w in common]
    expected = [n * strings[w] for w in common]
    rest = n - sum(expected)
    if rest >= 5:
        observed.append(n - sum(observed))
        expected.append(rest)
    elif rest < 1e-6:
        assert sum(observed) == n, "the sample holds strings that the law gives no mass"
    else:  # too few for a cell of their own: joined to the rarest cell
        i = min(range(len(expected)), key=expected.__getitem__)
        observed[i] += n - sum(observed)
        expected[i] += rest
    if len(expected) == 1:
        return 1.0
    return float(stats.power_divergence(observed, expected, lambda_="log-likelihood").pvalue)
