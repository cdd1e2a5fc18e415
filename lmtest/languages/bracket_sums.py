"""Exact sums over all strings of `kind = "brackets"`: entropies and n-gram counts, by counting paths and by depths."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lmtest.languages.ngrams import Context, Tally, first_context, next_context
from lmtest.languages.vocabulary import Vocabulary

MOST_DEPTHS = 5_000_000
"""Combinations of depths, times contexts of an n-gram, beyond which a table counts as too large."""


def nested_classes(kinds: int, exactly: np.ndarray) -> Iterator[tuple[int, float, float]]:
    """The nested law by classes of equally likely strings: (pairs k, mass of the class, surprisal of a string, nats).

    A string's probability depends on k and on the number j of closes at its end. `exactly[k]` is P(target = 2k).
    """
    log_free = math.log(kinds + 1)
    above = exactly[::-1].cumsum()[::-1]
    with np.errstate(divide="ignore"):
        log_exactly, log_above = np.log(exactly), np.log(np.append(above[1:], 0.0))
    for k in range(1, len(exactly)):
        for j in range(1, k + 1):
            # Under the target 2k the closes at the end were forced; under higher ones they were free.
            cases = float(np.logaddexp(log_above[k], log_exactly[k] + j * log_free))
            number = irreducible_paths(k, j)
            if number and cases > -math.inf:
                log_p = cases - math.log(kinds) - (2 * k - 1) * log_free
                yield k, math.exp(math.log(number) + k * math.log(kinds) + log_p), -log_p


def irreducible_paths(k: int, j: int) -> int:
    """Number of irreducible Dyck paths of k pairs that end in exactly j closes (a ballot number)."""
    n, i = k - 1, j - 1  # what stands within the outer pair: any Dyck path of n pairs that ends in exactly i closes
    return int(n == i) if n * i == 0 else i * math.comb(2 * n - i, n) // (2 * n - i)


def shuffled_entropy(kinds: int, pairs: int) -> np.ndarray | None:
    """Entropy of a shuffled string whose target is 2k, for k = 0 … `pairs`: nats, [pairs + 1]; None if too large.

    By the number r of symbols still to come and the depths d: E(r, d) = ln(choices) + the mean of E(r − 1, d ± 1).
    """
    if (pairs + 1) ** kinds > MOST_DEPTHS:
        return None
    still = np.zeros((pairs + 2,) * kinds)
    found = np.zeros(pairs + 1)
    for r in range(1, 2 * pairs + 1):
        box, depth, choices = _choices(kinds, r, pairs, kinds)
        total = np.zeros(depth.shape)
        for axis in range(kinds):
            total += np.where(depth < r, still[_shifted(box, axis, 1)], 0.0)
            total[_behind(axis)] += still[_shortened(box, axis)]
        still[box] = np.log(choices) + total / choices
        if r % 2 == 0:
            found[r // 2] = still[(0,) * kinds]
    return found


def ngram_tally(vocabulary: Vocabulary, kinds: int, exactly: np.ndarray, order: int, nested: bool) -> Tally | None:
    """Expected counts of what follows each context, per string; None where the table would be too large.

    Given the target, the law depends on the depths and on the number r of symbols up to the target. So all targets
    share one table, run through from the highest r down, into which the strings of target n come at r = n.
    """
    pairs, axes = len(exactly) - 2, 1 if nested else kinds
    if (pairs + 1) ** axes * (2 * kinds) ** (order - 1) > MOST_DEPTHS:
        return None
    start, eos = first_context(vocabulary, order), vocabulary.eos
    tally = Tally(vocabulary.n_outputs)
    origin = (0,) * axes
    shape = (pairs + 2,) * axes
    at: dict[Context, np.ndarray] = {}
    for r in range(2 * pairs, 0, -1):
        if r % 2 == 0 and exactly[r // 2]:
            at.setdefault(start, np.zeros(shape))[origin] += exactly[r // 2]
        box, depth, choices = _choices(axes, r, pairs, kinds)
        opening = (depth < r) / choices
        longer: dict[Context, np.ndarray] = {}
        for context, mass in at.items():
            opened = mass[box] * opening
            for kind in range(kinds):
                axis = 0 if nested else kind
                share = _top_share(context, kind, kinds, vocabulary) if nested else 1.0
                closed = share * (mass[box] / choices)[_behind(axis)]
                for symbol, flow, where in (
                    (2 * kind, opened, _shifted(box, axis, 1)),
                    (2 * kind + 1, closed, _shortened(box, axis)),
                ):
                    if (count := float(flow.sum())) > 0:
                        tally.add(context, symbol, count)
                        after = next_context(context, symbol, order)
                        longer.setdefault(after, np.zeros(shape))[where] += flow
        at = longer
        for context, mass in at.items():
            if nested or r == 1:  # nested strings end as soon as nothing is open
                tally.add(context, eos, mass[origin])
                mass[origin] = 0.0
    return tally


def _top_share(context: Context, kind: int, kinds: int, vocabulary: Vocabulary) -> float:
    """P(the innermost open bracket is of this kind): known where it stands in the context, else uniform."""
    closed = 0
    for token in reversed(context):
        if token == vocabulary.bos:
            break
        if token % 2:
            closed += 1
        elif closed:
            closed -= 1
        else:
            return float(token // 2 == kind)
    return 1.0 / kinds


Box = tuple[slice, ...]


def _choices(axes: int, r: int, pairs: int, opens: int) -> tuple[Box, np.ndarray, np.ndarray]:
    """The depths that can occur with r symbols to come, as a box from 0, and for each the total and the choices."""
    side = min(r, 2 * pairs - r) + 1
    depths = np.indices((side,) * axes, sparse=True)
    depth = np.add.reduce(np.broadcast_arrays(*depths))
    choices = opens * (depth < r) + np.add.reduce(np.broadcast_arrays(*(d > 0 for d in depths)), dtype=np.int64)
    return (slice(0, side),) * axes, depth, choices


def _shifted(box: Box, axis: int, by: int) -> Box:
    """The box moved along an axis."""
    return tuple(slice(s.start + by, s.stop + by) if i == axis else s for i, s in enumerate(box))


def _shortened(box: Box, axis: int) -> Box:
    """The box without its last place on an axis."""
    return tuple(slice(s.start, s.stop - 1) if i == axis else s for i, s in enumerate(box))


def _behind(axis: int) -> Box:
    """All but the first place on an axis."""
    return (slice(None),) * axis + (slice(1, None),)


def nested_completions(kinds: int, most: int) -> np.ndarray:
    """Ways to go on from a depth by exactly r symbols to the first return to depth 0: [most + 1, most + 2] (r, depth)."""
    ways = np.zeros((most + 1, most + 2))
    ways[0, 0] = 1.0
    for r in range(1, most + 1):
        ways[r, 1:] = ways[r - 1, :-1]
        ways[r, 1:-1] += kinds * ways[r - 1, 2:]
    return ways


def shuffled_completions(kinds: int, most: int, deepest: int) -> np.ndarray | None:
    """Ways to go on from depths of up to `deepest` by exactly r symbols to all depths 0: [most + 1, D, …] (r, depths).

    None if too large.
    """
    size = max((most + deepest) // 2, deepest) + 2  # whoever climbs higher does not come down in time
    if (most + 1) * size**kinds > 2 * MOST_DEPTHS:
        return None
    ways = np.zeros((most + 1, *(size,) * kinds))
    ways[(0,) * (kinds + 1)] = 1.0
    for r in range(1, most + 1):
        for axis in range(kinds):
            before, now = np.moveaxis(ways[r - 1], axis, 0), np.moveaxis(ways[r], axis, 0)
            now[:-1] += before[1:]  # an open
            now[1:] += before[:-1]  # a close
    return ways
