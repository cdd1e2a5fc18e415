"""How fast are the grammar charts? Next-symbol laws at every position of 256 strings of length 64, 20 nonterminals.

Run: python tests/benchmarks/charts.py [--small]. Prints time, peak memory and growth with length, beside a plain Python
reference (the same inside and forward recursions with dictionaries, one string at a time) that must agree.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict

import numpy as np
import torch

from lmtest.languages.pcfg import Pcfg


def random_grammar(nonterminals: int, symbols: int, seed: int = 0) -> str:
    """Three binary and three lexical rules a nonterminal, with random weights that sum to 1; subcritical."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(nonterminals):
        bodies = [f"N{rng.integers(nonterminals)} N{rng.integers(nonterminals)}" for _ in range(3)]
        bodies += [f"'{'abcdefghij'[rng.integers(symbols)]}'" for _ in range(3)]
        thousandths = (
            1 + rng.multinomial(444, rng.dirichlet(np.ones(3))),
            1 + rng.multinomial(550, rng.dirichlet(np.ones(3))),
        )
        weights = np.concatenate(thousandths) / 1000
        lines.append(f"N{i} -> " + " | ".join(f"{b} [{w:.3f}]" for b, w in zip(bodies, weights, strict=True)))
    return "\n".join(lines)


def plain_python(language: Pcfg, row: list[int]) -> list[list[float]]:
    """Joint weights of every prefix with every next symbol and with its end, by dictionaries."""
    form, n = language.form, len(row)
    lexical, binary = form.unit_closure @ form.lexical, form.unit_closure @ form.binary
    spread = np.linalg.inv(np.eye(len(form.mass)) - form.unit - (form.binary * form.mass[form.pairs[:, 1]]) @ form.left)
    lexical_ahead, binary_ahead = spread @ form.lexical, spread @ form.binary
    pairs = form.pairs.tolist()
    rules = [
        (a, b, c, binary[a, p]) for p, (b, c) in enumerate(pairs) for a in range(len(form.mass)) if binary[a, p] > 0
    ]
    ahead = [(a, b, c, binary_ahead[a, p]) for p, (b, c) in enumerate(pairs) for a in range(len(form.mass))]
    inside: dict[tuple[int, int], dict[int, float]] = {}
    for length in range(1, n + 1):
        for i in range(n - length + 1):
            cell: dict[int, float] = defaultdict(float)
            if length == 1:
                cell.update({a: lexical[a, row[i]] for a in range(len(form.mass)) if lexical[a, row[i]] > 0})
            for k in range(i + 1, i + length):
                left, right = inside[i, k], inside[k, i + length]
                for a, b, c, weight in rules:
                    if b in left and c in right:
                        cell[a] += weight * left[b] * right[c]
            inside[i, i + length] = dict(cell)
    expected: list[dict[int, float]] = [{0: 1.0}]
    for j in range(1, n + 1):
        f: dict[int, float] = defaultdict(float)
        for k in range(j):
            for a, b, c, weight in ahead:
                if weight > 0 and a in expected[k] and b in inside[k, j]:
                    f[c] += expected[k][a] * weight * inside[k, j][b]
        expected.append(dict(f))
    ends = [form.empty] + [inside[0, j].get(0, 0.0) for j in range(1, n + 1)]
    symbols = range(len(language.symbols))
    return [
        [sum(w * lexical_ahead[a, s] for a, w in f.items()) for s in symbols] + [end]
        for f, end in zip(expected, ends, strict=True)
    ]


def timed(function: object, repeats: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()  # type: ignore[operator]
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def tokens_of(language: Pcfg, strings: int, length: int) -> torch.Tensor:
    rng = np.random.default_rng(1)
    tokens = torch.from_numpy(rng.integers(len(language.symbols), size=(strings, length + 1)))
    tokens[:, 0] = language.vocabulary.bos
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes: 16 strings, length 16")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    strings, length, repeats = (16, 16, 1) if small else (256, 64, 5)
    language = Pcfg(random_grammar(20, 8), name="random", title="20 random nonterminals")
    form = language.form
    print(f"{language.grammar.size} nonterminals, {len(form.pairs)} pairs, {len(language.symbols)} symbols; one thread")
    tokens = tokens_of(language, strings, length)
    language.next_log_probs(tokens[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = timed(lambda: language.next_log_probs(tokens), repeats)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{strings} strings of length {length}, laws at every position: {ours:.2f} s, {peak:.0f} MiB more at the peak"
    )

    row = tokens[0, 1:].tolist()
    reference: list[list[float]] = []
    theirs = timed(lambda: reference.extend(plain_python(language, row)), 1) * strings
    laws = torch.tensor(reference, dtype=torch.float64)
    gap = float((laws / laws.sum(-1, keepdim=True) - language.next_log_probs(tokens[:1])[0, 0].exp()).abs().max())
    print(
        f"plain Python: {theirs:.0f} s for as many (one string timed): {theirs / ours:.0f} times slower; laws differ by {gap:.0e}"
    )
    assert gap < 1e-9

    for n in (4, 8, 16) if small else (16, 32, 64, 128):
        batch = tokens_of(language, strings, n)
        print(
            f"  length {n:4d}: {timed(lambda batch=batch: language.next_log_probs(batch), max(1, repeats // 2)):7.3f} s"
        )
    limited = Pcfg(language.text, name="limited", title="", max_length=length)
    limited.next_log_probs(tokens[:1])
    print(f"the same under max_length = {length}: {timed(lambda: limited.next_log_probs(tokens), 1):.2f} s")


if __name__ == "__main__":
    main()
