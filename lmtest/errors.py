"""The errors a user sees: each says what was expected, what was found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LmtestError(Exception):
    """A run that cannot go on (exit code 1)."""


class UsageError(LmtestError, ValueError):
    """Wrong usage or a wrong file (exit code 2)."""


class Interrupted(LmtestError):
    """A run was asked to stop; everything is saved (exit code 130)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the closest known one, or the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(map(repr, known)) or 'none'}"
