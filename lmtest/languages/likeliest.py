"""The likeliest strings of a language, exactly: best first over prefixes, each bounded by the mass of all that start so."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

from lmtest.languages.base import Language, Row

AT_ONCE = 64
"""Prefixes that are looked behind together."""
MOST_PREFIXES = 20_000
"""The search ends here, whatever is found: laws that are nearly flat have no likely strings."""


class Likeliest(NamedTuple):
    """Strings with their log-probabilities (nats), the likeliest first; not `complete`: the search ended before all were found."""

    rows: list[Row]
    log_probs: list[float]
    complete: bool


def likeliest_strings(language: Language, n: int, most: int = MOST_PREFIXES) -> Likeliest:
    """The n likeliest strings; of equally likely ones any.

    A prefix is worth the mass of all strings that start with it, so a string that is worth as much as the best open prefix
    is the next likeliest. Fewer than n where the language has fewer, or where `most` prefixes were not enough.
    """
    found = Likeliest([], [], True)
    heap: list[tuple[float, int, Row]] = [(0.0, 1, ())]  # (−log mass, whether it is open, symbols): whole strings first
    opened = 0
    while heap and len(found.rows) < n:
        batch: list[Row] = []
        while heap and len(found.rows) < n and len(batch) < AT_ONCE:
            cost, is_open, row = heap[0]
            if not is_open and batch:
                break  # what is behind the batch may be likelier
            heapq.heappop(heap)
            if is_open:
                batch.append(row)
            else:
                found.rows.append(row)
                found.log_probs.append(-cost)
        if not batch:
            continue
        if opened >= most:
            return found._replace(complete=False)
        opened += len(batch)
        tokens, ends = language.vocabulary.pack(batch)
        joint = language.joint_next(tokens)
        for i, row in enumerate(batch):
            for output, value in enumerate(joint[i, int(ends[i])].tolist()):
                if value > -math.inf:
                    whole = output == language.vocabulary.eos
                    heapq.heappush(heap, (-value, int(not whole), row if whole else (*row, output)))
    return found
