"""Continuation tasks: from a language to another over the same symbols, such as aⁿbⁿ → aⁿbⁿaⁿ (arXiv 2405.01964, case study 3).

The other one is a language like any: its floor is its entropy, its laws are exact. What it still needs are strings to learn
from, to choose a learning rate by, and to be judged on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row
from lmtest.seeds import generator, stream_seed

SHARES = (0.6, 0.2, 0.2)
"""Of the strings of a language: to train on, to validate on, to test on."""
BLOCK = 1000
"""Draws at once: however many are wanted, the first ones are the same."""
MOST_DRAWS = 100
"""Times what would do on average, before we say that a part of the strings is too rare."""


@dataclass(frozen=True)
class Split:
    """Draws from a language, as rows of symbol ids in random order; no string is in two of the parts."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


def check_continuation(before: Language, after: Language) -> None:
    """Raises UsageError where a model of `before` cannot go on to `after`: other symbols or another order of them."""
    if before.symbols != after.symbols:
        raise UsageError(
            f"expected {after.name} to have the symbols of {before.name}, {' '.join(before.symbols)}, in that order, found "
            f"{' '.join(after.symbols)}: a model keeps its vocabulary when it is fine-tuned"
        )


def split(language: Language, train: int, held_out: int, seed: int, shortest: int = 0) -> Split:
    """`train` draws to train on, `held_out` each to validate and to test on: from the exact law given their part of the strings.

    Which part a string belongs to is drawn once by `seed`, with SHARES: of the listed strings, where they can be listed,
    else string by string. Strings of less than `shortest` symbols are left out. A larger split begins with the smaller
    one. Raises UsageError on sizes below 1, on fewer than three strings, and where a part is too rare to be drawn.
    """
    if train < 1 or held_out < 1:
        raise UsageError(f"expected at least 1 string to train on and 1 held out, found {train} and {held_out}")
    sizes = (train, held_out, held_out)
    support = language.support()
    if support is None:
        return Split(*_dealt(language, sizes, seed, shortest))
    kept = [i for i, row in enumerate(support.rows) if len(row) >= shortest]
    if len(kept) < len(SHARES):
        raise UsageError(
            f"{language.name} has {len(kept)} strings of at least {shortest} symbols: too few to train, validate and test on"
        )
    order = generator(seed, "split").permutation(kept)
    held = [max(1, round(share * len(order))) for share in SHARES[1:]]
    parts = np.split(order, [len(order) - sum(held), len(order) - held[1]])
    probs = support.log_probs.exp().numpy()
    draws = [
        generator(seed, "draws", i).choice(part, n, p=probs[part] / probs[part].sum())
        for i, (part, n) in enumerate(zip(parts, sizes, strict=True))
    ]
    return Split(*([support.rows[i] for i in part] for part in draws))


def _dealt(language: Language, sizes: tuple[int, ...], seed: int, shortest: int) -> list[list[Row]]:
    """Draws from the language, each to the part that its string belongs to, until all parts are full."""
    ends = np.cumsum(SHARES)[:-1] * 2**63
    parts: list[list[Row]] = [[] for _ in sizes]
    needed = max(n / share for n, share in zip(sizes, SHARES, strict=True))
    blocks = math.ceil(MOST_DRAWS * needed / BLOCK)
    for number in range(blocks):
        for row in language.sample_ids(BLOCK, generator(seed, "draws", number)):
            which = int(np.searchsorted(ends, stream_seed(seed, "part", *row), side="right"))
            if len(row) >= shortest and len(parts[which]) < sizes[which]:
                parts[which].append(row)
        if all(len(part) == n for part, n in zip(parts, sizes, strict=True)):
            return parts
    raise UsageError(
        f"expected {', '.join(map(str, sizes))} strings to train, validate and test on, found "
        f"{', '.join(str(len(part)) for part in parts)} among {blocks * BLOCK} draws from {language.name}: too few strings "
        "have its mass, or are long enough; ask for fewer, or take another seed"
    )
