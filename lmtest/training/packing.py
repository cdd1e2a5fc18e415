"""Several strings to a row: a BOS begins a new string wherever it stands, so next to nothing is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence

Place = tuple[int, int]
"""Row and first column of a string."""

MOST_PADDING = 0.1
"""A batch spends at most this share of its tokens on padding, …"""
CAPACITIES = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0)
"""… by the shortest row of these, in units of the longest string, that manages it."""


def pack(groups: Sequence[Sequence[int]], capacity: int | None = None) -> tuple[list[list[Place]], int, int]:
    """Lengths of the strings (BOS counted) of each group → their places, and the rows and columns of every group.

    All groups get the same number of rows. Without a `capacity` it is the shortest row that keeps padding below MOST_PADDING
    of all tokens, or the one with the least padding (one group may have much more than another).
    """
    longest = max(max(lengths) for lengths in groups)
    most = max(sum(lengths) for lengths in groups)
    if capacity is not None:
        candidates = [max(capacity, longest)]
    else:
        # In one row nothing is wasted at all, but a long row is dear where attention grows with its square.
        candidates = [*dict.fromkeys(min(int(factor * longest), most) for factor in CAPACITIES), most]
    best: tuple[float, list[list[Place]], int, int] | None = None
    for columns in candidates:
        places = [best_fit(lengths, columns) for lengths in groups]
        rows = max(place[0] for group in places for place in group) + 1
        padding = 1 - sum(map(sum, groups)) / (len(groups) * rows * columns)
        if best is None or padding < best[0]:
            best = padding, places, rows, columns
        if padding <= MOST_PADDING:
            break
    assert best is not None
    return best[1:]


def best_fit(lengths: Sequence[int], capacity: int) -> list[Place]:
    """Longest first, each into the fullest row that still has room for it."""
    places: list[Place] = [(0, 0)] * len(lengths)
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rows = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        room = next((r for r in range(lengths[i], capacity) if by_room[r]), capacity)
        if by_room[room]:
            row = by_room[room].pop()
        else:
            row, rows = rows, rows + 1
        places[i] = row, capacity - room
        by_room[room - lengths[i]].append(row)
    return places
