"""`kind = "brackets"`: brackets drawn one by one toward a target length, nested on a stack or shuffled on counters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

from lmtest import limits
from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row, Support
from lmtest.languages.bracket_rules import Pair, open_kinds
from lmtest.languages.bracket_sums import (
    nested_classes,
    nested_completions,
    ngram_tally,
    shuffled_completions,
    shuffled_entropy,
)
from lmtest.languages.laws import FiniteLaw
from lmtest.languages.listing import list_by_length
from lmtest.languages.ngrams import first_context

MOST_SYMBOLS, MOST_PAIRS = 1000, 1000
"""Longer strings leave float64 and patience behind."""


class Brackets(Language):
    """K kinds of brackets, ids 2i for the open and 2i + 1 for the close of kind i, and a drawn even target length n.

    Nested: after the first open, uniform over the opens and the close that matches the top of the stack, but the close
    for certain once the length and the open brackets together are n; the string ends when the stack first empties (so it
    may be shorter than n, and is irreducible). Shuffled: uniform over the opens, while length and open brackets together
    are below n, and the closes of the kinds that are open; the string ends at length n.

    Length and open brackets together are twice the number k of opens. So a prefix rules out the targets below 2k; under
    those above, each of its steps was a free choice; under 2k itself, the closes behind the last open were not. Its
    mass is the sum of these two cases.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        target: FiniteLaw,
        discipline: str,
        *,
        name: str,
        title: str,
        source: str = "",
        max_length: int | None = None,
    ) -> None:
        limits.check("pairs of brackets", len(pairs), MOST_PAIRS, "name fewer")
        symbols = [symbol for pair in pairs for symbol in pair]
        super().__init__(symbols, name=name, title=title, source=source, max_length=max_length)
        self.kinds = len(pairs)
        self.nested = discipline == "nested"
        if self.nested and max_length is not None and max_length < target.high:
            raise UsageError(
                f"nested brackets take no max_length below the highest target, found {max_length} < {target.high}: "
                "lower the target's high (which is another law: strings close sooner, where a limit would drop them)"
            )
        self.target = target.at_most(max_length)
        targets = [n for n in range(self.target.low, self.target.high + 1) if self.target.log_pmf(n) > -math.inf]
        if targets[-1] > MOST_SYMBOLS:
            raise UsageError(f"expected targets of at most {MOST_SYMBOLS}, found {targets[-1]}: lower its high")
        if odd := [n for n in targets if n % 2 or n < 2]:
            raise UsageError(f"expected targets that are even and at least 2, found {odd[0]}: write low = 2, step = 2")
        self._pairs = targets[-1] // 2  # the most opens that a string can have
        self._exactly = np.zeros(self._pairs + 2)
        """P(target = 2k) for k = 0, 1, … opens, up to one more than there can be."""
        for n in targets:
            self._exactly[n // 2] = math.exp(self.target.log_pmf(n))
        self._above = np.append(self._exactly[:0:-1].cumsum()[::-1], 0.0)
        """P(target > 2k)."""

    def joint_next(self, tokens: torch.Tensor) -> torch.Tensor:
        k, body = self.kinds, tokens[:, 1:]
        known = body < 2 * k
        codes = torch.where(known, (body // 2 + 1) * (1 - 2 * (body % 2)), 0)
        opening = codes > 0
        # From here on [N, T]: before each symbol, and at the end.
        opens, depth = pad(opening.cumsum(1), (1, 0)), pad(codes.sign().cumsum(1), (1, 0))
        started = torch.arange(tokens.shape[1]) > 0
        closable, legal = self._closable(codes)
        ended = (depth <= 0) & started & self.nested
        legal &= torch.cat([tokens[:, :1] == self.vocabulary.bos, known], 1)
        legal &= ~pad(ended, (1, -1))  # nothing comes behind the end
        alive = legal.cumprod(1).bool()

        width = closable.sum(2)  # how many closes there are to choose from
        free_choice, forced_choice = (k + width).double().log(), width.clamp(min=1).double().log()
        free = pad(-free_choice[:, :-1].cumsum(1), (1, 0))  # log probability of the steps, all of them free
        closes = pad((forced_choice[:, :-1] * ~opening).cumsum(1), (1, 0))
        last = pad((opening * torch.arange(1, tokens.shape[1])).cummax(1).values, (1, 0))
        forced = free.gather(1, last) - closes + closes.gather(1, last)  # … those behind the last open forced

        index = opens.clamp(max=self._pairs + 1)
        here, above = (torch.from_numpy(law).log()[index] for law in (self._exactly, self._above))
        open_next = torch.where(alive & ~ended, above + free - free_choice, -math.inf)
        close_next = torch.logaddexp(above + free - free_choice, here + forced - forced_choice)
        whole = torch.logaddexp(above + free, here + forced) if self.nested else here + forced

        joint = torch.full((*tokens.shape, self.vocabulary.n_outputs), -math.inf, dtype=torch.float64)
        joint[:, :, 0 : 2 * k : 2] = open_next[:, :, None]
        joint[:, :, 1 : 2 * k : 2] = torch.where(closable & alive[:, :, None], close_next[:, :, None], -math.inf)
        joint[:, :, -1] = torch.where(alive & started & (depth == 0), whole, -math.inf)
        return joint

    def _closable(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bracket codes [N, T − 1] → which kinds may be closed, bool [N, T, K], and whether all closes so far may, [N, T]."""
        kinds = torch.arange(1, self.kinds + 1)
        if self.nested:
            tops = open_kinds(codes)
            return tops[:, :, None] == kinds, tops >= 0
        moves = (codes[:, :, None].abs() == kinds) * codes.sign()[:, :, None]
        depths = pad(moves.cumsum(1), (0, 0, 1, 0))
        return depths > 0, (depths >= 0).all(2)

    def sample_ids(self, n: int, rng: np.random.Generator) -> list[Row]:
        targets, each = self.target.sample(n, rng), np.arange(n)
        rows = np.zeros((n, 2 * self._pairs), dtype=np.int64)
        lengths = np.zeros(n, dtype=np.int64)
        stack = np.full((n, self._pairs + 2), self.kinds)  # kinds; `self.kinds` is none
        depths = np.zeros((n, self.kinds + 1), dtype=np.int64)  # by kind; nested, all of them count as the last
        allowed = np.zeros((n, 2 * self.kinds), dtype=bool)
        running = np.ones(n, dtype=bool)
        for t in range(2 * self._pairs):
            depth = depths.sum(1)
            allowed[:, 0::2] = (running & (t + depth < targets))[:, None]
            closable = np.arange(self.kinds) == stack[each, depth][:, None] if self.nested else depths[:, :-1] > 0
            allowed[:, 1::2] = closable & running[:, None]
            upto = allowed.cumsum(1)
            choice = (rng.random(n) * upto[:, -1]).astype(np.int64)
            symbol = (upto > choice[:, None]).argmax(1)
            rows[:, t], kind = symbol, symbol // 2
            depths[each, -1 if self.nested else kind] += np.where(running, 1 - 2 * (symbol % 2), 0)
            lengths += running
            if self.nested:
                pushed = np.where(running & (symbol % 2 == 0), kind, stack[each, depths[:, -1]])
                stack[each, depths[:, -1]] = pushed
                running = depths[:, -1] > 0
            else:
                running = t + 1 < targets
            if not running.any():
                break
        return [tuple(row[:length]) for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)]

    @property
    def longest(self) -> float:
        return self.target.high

    def length_law(self, most: int) -> np.ndarray:
        """P(length = n) for n = 0 … `most`: the target's, or where brackets are nested that of the first return."""
        law = np.zeros(max(most, 2 * self._pairs) + 1)
        if self.nested:
            for k, mass, _ in nested_classes(self.kinds, self._exactly):
                law[2 * k] += mass
        else:
            law[: 2 * self._pairs + 1] = [math.exp(self.target.log_pmf(n)) for n in range(2 * self._pairs + 1)]
        return law[: most + 1]

    def mean_length(self) -> float:
        if not self.nested:
            return self.target.mean()
        return math.fsum(2 * k * mass for k, mass, _ in nested_classes(self.kinds, self._exactly))

    def list_support(self) -> Support | None:
        return list_by_length(self)

    def count_completions(self, rows: Sequence[Row], most: int) -> np.ndarray | None:
        alive = (self.prefix_log_prob_ids(rows) > -math.inf).tolist()
        depths = [[sum(1 - 2 * (s % 2) for s in row if s // 2 == kind) for kind in range(self.kinds)] for row in rows]
        deepest = max((sum(depth) for depth, living in zip(depths, alive, strict=True) if living), default=0)
        if self.nested:
            ways: np.ndarray | None = nested_completions(self.kinds, most + deepest)
        else:
            ways = shuffled_completions(self.kinds, most, deepest)
        if ways is None:
            return super().count_completions(rows, most)
        can_end = np.append(self._exactly > 0, np.zeros(most + 1, dtype=bool)).repeat(2)
        can_end[1::2] = False  # by length; odd ones never
        counts = np.zeros((len(rows), most + 1))
        for row, depth, living, found in zip(rows, depths, alive, counts, strict=True):
            if living and not self.nested:
                found[:] = np.where(
                    can_end[len(row) : len(row) + most + 1], np.moveaxis(ways, 0, -1)[tuple(depth)][: most + 1], 0.0
                )
            elif living:
                # Any length up to the highest target; nothing has been opened yet before the first symbol.
                found[:] = ways[: most + 1, sum(depth)] if row else self.kinds * np.append(0.0, ways[:most, 1])
                found[max(0, 2 * self._pairs - len(row) + 1) :] = 0.0
        return counts

    def exact_entropy(self) -> float | None:
        if self.nested:
            return math.fsum(mass * surprisal for _, mass, surprisal in nested_classes(self.kinds, self._exactly))
        # The length is the target: H(string) = H(n) + E H(string | n).
        given = shuffled_entropy(self.kinds, self._pairs)
        return None if given is None else self.target.entropy() + float(self._exactly[:-1] @ given)

    def ngram_counts(self, order: int) -> dict[Row, torch.Tensor] | None:
        first_context(self.vocabulary, order)
        tally = ngram_tally(self.vocabulary, self.kinds, self._exactly, order, self.nested)
        return super().ngram_counts(order) if tally is None else tally.tensors()
