"""Inside and forward charts over a batch of strings: every string's and every prefix's probability in one pass.

inside   β[i, j, A] = weight with which A generates exactly the symbols i..j
forward  f[j, A]    = weight with which the first j symbols are generated and an A is expected next, left corners open

The forward pass needs O(n²) once the inside chart (O(n³)) is there, and gives the next-symbol law at *every* position:
the joint weight of "first j symbols, then a" is f[j] · R · lexical[:, a], with R the left-corner closure. Under a length limit f also
carries how many symbols the expected rest will take (a polynomial, one coefficient a length), so the conditioned
law is exact without an automaton product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lmtest import limits
from lmtest.languages.normal_form import NormalForm, check_tables, geometric_sum
from lmtest.languages.semiring import Log, Plain, Semiring

CHUNK_NUMBERS = 4_000_000
"""How many numbers the largest table of a chunk of strings may hold (8 bytes each)."""
MOST_CHART = 250_000_000
"""Numbers in the charts of a single string, 8 bytes each."""


@dataclass(frozen=True)
class Weights:
    """The normal form in a semiring, ready for charts; K nonterminals, P pairs, V − 1 symbols, L the limit (or 0)."""

    ring: Semiring
    limit: int | None
    scale: float  # subtracted from every symbol's log weight: numbers of long strings stay near 1 (nats)
    left: torch.Tensor  # [P] first nonterminal of each pair
    right: torch.Tensor  # [P] second nonterminal
    right_onehot: torch.Tensor  # [P, K]
    inside_lexical: torch.Tensor  # [K, V-1] with unit chains
    inside_binary: torch.Tensor  # [P, K] with unit chains
    forward_binary: torch.Tensor  # [≤ L+1, K, P] with left-corner chains, by the length that they leave open
    forward_lexical: torch.Tensor  # [L+1, K, V-1] likewise; under a limit: at most so many symbols left open
    empty: float
    log_norm: float  # log of the mass within the limit
    exact: bool


def length_law(form: NormalForm, limit: int, ring: Semiring) -> torch.Tensor:
    """[limit + 1, K]: weight with which each nonterminal generates a string of exactly l ≥ 1 symbols (row 0 is zero)."""
    size = len(form.mass)
    law = torch.full((limit + 1, size), ring.zero, dtype=torch.float64)
    law[1] = ring.of(torch.from_numpy(form.unit_closure @ form.lexical.sum(1)))
    binary = ring.of(torch.from_numpy((form.unit_closure @ form.binary).T))
    first, second = torch.from_numpy(form.pairs).unbind(1)
    for length in range(2, limit + 1):
        splits = ring.dot(law[1:length][:, first], law[1:length].flip(0)[:, second], 0)  # [P]
        law[length] = ring.matmul(splits, binary)
    return law


def left_corners(form: NormalForm, law: torch.Tensor | None, ring: Semiring) -> torch.Tensor:
    """[L+1, K, K]: R, all chains of left corners, split by the number of symbols that they leave open on the right."""
    binary, left, right = map(torch.from_numpy, (form.binary, form.left, form.right))
    if law is None:
        open_right = binary * torch.from_numpy(form.mass[form.pairs[:, 1]])
        return ring.of(torch.from_numpy(geometric_sum(form.unit + (open_right @ left).numpy())))[None]
    unit = torch.from_numpy(form.unit_closure)
    size = unit.shape[0]
    # One more left corner, with its unit chains, that leaves exactly l symbols open: [L+1, K, K].
    step = torch.full((len(law), size, size), ring.zero, dtype=torch.float64)
    for length in range(1, len(law)):
        opened = ring.matmul(law[length], ring.of(right.T))  # [P]
        pairs = ring.mul(ring.of(unit @ binary), opened)  # [K, P]
        step[length] = ring.matmul(pairs, ring.of(left))
    chains = torch.full_like(step, ring.zero)
    chains[0] = ring.of(unit)
    for length in range(1, len(law)):
        # Σ_l' step[l'] · chains[length − l'], as one product over (l', B)
        steps = step[1 : length + 1].permute(1, 0, 2).reshape(size, -1)
        tails = chains[:length].flip(0).reshape(-1, size)
        chains[length] = ring.matmul(steps, tails)
    return chains


def weights(form: NormalForm, limit: int | None, ring: Semiring, scale: float = 0.0) -> Weights:
    """Everything that charts need and that does not depend on the strings; UsageError where it is too much."""
    check_tables(len(form.mass), len(form.pairs), form.lexical.shape[1], limit or 0)
    law = None if limit is None else length_law(form, limit, ring)
    corners = left_corners(form, law, ring)
    lexical = torch.from_numpy(form.lexical) * math.exp(-scale)
    forward_lexical = ring.matmul(corners, ring.of(lexical))
    if law is None:
        log_norm = 0.0
    else:
        within = torch.cat([torch.tensor([form.empty], dtype=torch.float64).log(), ring.log(law[1:, 0])])
        log_norm = float(within.logsumexp(0))
        forward_lexical = forward_lexical.cumsum(0) if ring is Plain else forward_lexical.logcumsumexp(0)
    tables = {
        "right_onehot": ring.of(torch.from_numpy(form.right)),
        "inside_lexical": ring.of(torch.from_numpy(form.unit_closure) @ lexical),
        "inside_binary": ring.of(torch.from_numpy((form.unit_closure @ form.binary).T)),
        "forward_binary": _trimmed(ring.matmul(corners, ring.of(torch.from_numpy(form.binary))), ring),
        "forward_lexical": forward_lexical,
    }
    left, right = torch.from_numpy(form.pairs).unbind(1)
    lengths = [] if law is None else [law, law]
    sound = ring.exact(*lengths, tables["inside_binary"]) and ring.exact(corners, corners, tables["forward_binary"])
    sound = sound and ring.exact(corners, ring.of(lexical))
    return Weights(ring, limit, scale, left, right, empty=form.empty, log_norm=log_norm, exact=sound, **tables)


def _trimmed(series: torch.Tensor, ring: Semiring) -> torch.Tensor:
    """A series without its last terms that are zero: most grammars leave nothing open in front of a binary rule."""
    used = (series != ring.zero).flatten(1).any(1).nonzero().flatten()
    return series[: int(used[-1]) + 1 if len(used) else 1]


def inside(w: Weights, symbols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symbols [N, n] → inside weights by right end: [N, n+1, n, K], where entry (j, n − l) spans the l symbols before j.

    Also the same gathered at the pairs' left nonterminals, [N, n+1, n, P], which the forward pass needs.
    """
    ring, (batch, n) = w.ring, symbols.shape
    size, pairs = w.right_onehot.shape[1], len(w.left)
    by_start = torch.full(
        (batch, n, n + 1, pairs), ring.zero, dtype=torch.float64
    )  # left children, by start and length
    by_end = torch.full(
        (batch, n + 1, n, pairs), ring.zero, dtype=torch.float64
    )  # right children, by end and n − length
    chart = torch.full((batch, n + 1, n, size), ring.zero, dtype=torch.float64)
    for length in range(1, n + 1):
        starts = n - length + 1
        if length == 1:
            cell = w.inside_lexical.T[symbols]  # [N, n, K]
        else:
            left = by_start[:, :starts, 1:length]
            right = by_end[:, length:, n - length + 1 :]
            cell = ring.matmul(ring.dot(left, right, 2), w.inside_binary)  # [N, starts, K]
        chart[:, length:, n - length] = cell
        by_start[:, :starts, length] = cell[..., w.left]
        by_end[:, length:, n - length] = cell[..., w.right]
    return chart, chart[..., w.left]


def forward(w: Weights, chart_left: torch.Tensor, n: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Inside weights at left nonterminals → joint weights [N, n+1, V−1] of "first j symbols, then a", and f by position.

    Under a limit L, f[j] is [N, L − j + 1, K]: no more than L − j symbols can still be open.
    """
    ring, batch = w.ring, chart_left.shape[0]
    limit = 0 if w.limit is None else w.limit
    expected: list[torch.Tensor] = []
    positions = n if w.limit is None else min(n, limit)
    # g[k]: f[k] pushed through left corners to a pair
    opened = torch.full((batch, len(w.left), positions + 1, limit + 1), ring.zero, dtype=torch.float64)
    joint = torch.full((batch, n + 1, w.forward_lexical.shape[-1]), ring.zero, dtype=torch.float64)
    for j in range(positions + 1):
        width = limit - j + 1 if w.limit is not None else 1
        if j == 0:
            f = torch.full((batch, width, w.right_onehot.shape[1]), ring.zero, dtype=torch.float64)
            f[:, 0, 0] = ring.one
        else:
            spans = chart_left[:, j, n - j :].transpose(1, 2)  # [N, P, j]: from k = 0 … j−1 to j
            f = ring.matmul(ring.mix(spans, opened[:, :, :j, :width]), w.right_onehot)
        expected.append(f)
        opened[:, :, j, :width] = _convolve(f, w.forward_binary[:width], ring).transpose(1, 2)
        if w.limit is None:
            joint[:, j] = ring.matmul(f[:, 0], w.forward_lexical[0])
        elif j < limit:
            # l open symbols now leave room for limit − j − 1 − l more behind the next one
            room = w.forward_lexical[: limit - j].flip(0)  # [l, K, V−1]
            joint[:, j] = ring.matmul(f[:, : limit - j].flatten(1), room.flatten(0, 1))
    return joint, expected


def _convolve(f: torch.Tensor, kernel: torch.Tensor, ring: Semiring) -> torch.Tensor:
    """f [N, L, K], kernel [≤ L, K, P] → [N, L, P]: Σ over l' of f[l − l'] · kernel[l']."""
    if ring is Plain and len(kernel) > 1:
        width = len(kernel)
        windows = torch.nn.functional.pad(f, (0, 0, width - 1, 0)).unfold(1, width, 1)  # [N, L, K, width]
        return windows.flatten(2) @ kernel.flip(0).permute(1, 0, 2).flatten(0, 1)
    result = ring.matmul(f, kernel[0])
    for shift in range(1, len(kernel)):
        moved = ring.matmul(f[:, :-shift], kernel[shift])
        result[:, shift:] = ring.add(result[:, shift:], moved)
    return result


def joint_next(plain: Weights, log: Callable[[], Weights], symbols: torch.Tensor, tries: int = 3) -> torch.Tensor:
    """Symbols [N, n] → log joint weights [N, n+1, V] of every prefix with every next symbol and with its end (last).

    In plain numbers where they are provably right, else at a scale that the failed chart suggests, at last in logarithms.
    """
    if not plain.exact:
        return _joint_next(log(), symbols)[0]
    result, exact, drift = _joint_next(plain, symbols)
    if exact:
        return result
    if tries and abs(drift) > 0.05:
        return joint_next(rescaled(plain, plain.scale + drift), log, symbols, tries - 1)
    if len(symbols) == 1:
        return _joint_next(log(), symbols)[0]
    # Halve the batch: only the strings that need another scale, or logarithms, pay for them.
    half = len(symbols) // 2
    return torch.cat([joint_next(plain, log, part) for part in (symbols[:half], symbols[half:])])


def _joint_next(w: Weights, symbols: torch.Tensor) -> tuple[torch.Tensor, bool, float]:
    """The joint weights, whether they are exact, and by how many nats a symbol the scale is off."""
    ring, (batch, n) = w.ring, symbols.shape
    chart, chart_left = inside(w, symbols)
    drift = _drift(ring, chart)
    if not ring.exact(chart, chart, w.inside_binary):
        return torch.empty(0), False, drift
    joint, expected = forward(w, chart_left, n)
    ends = torch.full((batch, n + 1, 1), -math.inf, dtype=torch.float64)
    ends[:, 0, 0] = math.log(w.empty) if w.empty > 0 else -math.inf
    whole = torch.arange(1, n + 1)
    if n:
        ends[:, 1:, 0] = ring.log(chart[:, whole, n - whole, 0])
    if w.limit is not None:
        ends[:, w.limit + 1 :] = -math.inf
    # The scale was taken off once for every symbol that stands in the prefix, and for the next one.
    taken = w.scale * torch.arange(n + 1, dtype=torch.float64)[None, :, None]
    result = torch.cat([ring.log(joint) + taken + w.scale, ends + taken], -1) - w.log_norm
    reached = torch.cat([f.flatten() for f in expected])
    sound = ring.exact(reached, w.forward_binary, chart) and ring.exact(reached, w.forward_lexical)
    return result, sound, drift


def _drift(ring: Semiring, chart: torch.Tensor) -> float:
    """Mean log weight a symbol of the likeliest nonterminal over spans of one length, long but not yet out of range."""
    n = chart.shape[2]
    length = min(n, 50)
    if ring is Log or length == 0:
        return 0.0
    best = chart[:, length:, n - length].amax(-1)
    best = best[(best > 0) & best.isfinite()]
    return float(best.log().mean()) / length if len(best) else 0.0


def rescaled(w: Weights, scale: float) -> Weights:
    """The same weights with another scale."""
    factor = math.exp(w.scale - scale)
    lexical, ahead = w.inside_lexical * factor, w.forward_lexical * factor
    return replace(w, scale=scale, inside_lexical=lexical, forward_lexical=ahead)


def chunks(lengths: torch.Tensor, n_pairs: int, size: int, limit: int | None) -> list[torch.Tensor]:
    """Indices of strings in chunks of like length, each within the memory budget; UsageError where one is too long."""
    order = lengths.argsort(stable=True)

    def numbers(string: int) -> int:
        n = int(lengths[string]) + 1
        return n * n * (3 * n_pairs + size) + (0 if limit is None else n * (limit + 1) * (n_pairs + size))

    if len(order):
        what = f"numbers in the charts of a string, which has {int(lengths[order[-1]])} symbols here"
        limits.check(
            what, numbers(int(order[-1])), MOST_CHART, "ask about shorter strings, or set a (lower) max_length"
        )
    parts: list[torch.Tensor] = []
    start = 0
    while start < len(order):
        stop = len(order)
        while stop - start > 1:
            if (stop - start) * numbers(int(order[stop - 1])) <= CHUNK_NUMBERS:
                break
            stop = start + (stop - start) // 2
        parts.append(order[start:stop])
        start = stop
    return parts
