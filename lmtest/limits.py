"""Declared limits: what a file may ask for, so that none fills the memory or keeps a command waiting for ever.

What concerns one kind of thing alone stands where that is read; docs/limits.md lists the chief ones.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from lmtest.errors import UsageError

MOST_BYTES = 4_000_000
"""Of a language or study file."""
MOST_LENGTH = 1_000_000
"""Symbols of a string, and whatever states such a number: exponents, lengths, `max_length`."""
MOST_NUMBERS = 20_000_000
"""In the largest table that a language keeps, 8 bytes each."""
MOST_DRAWN = 20_000_000
"""Symbols of all strings that are drawn, or listed, at once."""
MOST_LAYERS, MOST_WIDTH = 10_000, 1_000_000
"""Of a model; what the memory holds is less."""
MOST_SEEDS = 10_000
"""Of a study, or of a model."""
SECONDS = 120.0
"""That reading a study or a language, or one fact about it, may take; `lmtest --time-limit` sets another."""

allowed_seconds: ContextVar[float] = ContextVar("allowed_seconds", default=SECONDS)


class Overtime(BaseException):
    """No Exception: nothing on the way may take it for a fault of its own."""


def check(what: str, found: float, most: float, do: str) -> None:
    """Raises UsageError where `found` is more than `most`; `what` is counted, `do` says what to do about it."""
    if found > most:
        number = f"{found:,.0f}" if math.isfinite(found) else "infinitely many"
        raise UsageError(f"expected at most {most:,.0f} {what}, found {number}; {do}")


@contextmanager
def within(what: str) -> Iterator[None]:
    """What is done inside may take `allowed_seconds`; UsageError where it takes longer.

    Holds on the main thread of systems with interval timers (not on Windows), elsewhere there is no limit. A timer of the
    caller goes on afterwards; where it rings sooner, it is left alone.
    """
    seconds = allowed_seconds.get()
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    before = signal.getitimer(signal.ITIMER_REAL)[0] if timed else 0.0
    if not timed or 0 < before <= seconds or math.isinf(seconds):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overtime

    handler, started = signal.signal(signal.SIGALRM, ring), time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again every second, should foreign code swallow it
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Overtime:
        raise UsageError(
            f"{what} took more than {seconds:g} s, and was given up: choose something smaller (a lower max_length, fewer "
            "rules or symbols, shorter prompts), or allow more with  lmtest --time-limit SECONDS …"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:
            signal.setitimer(signal.ITIMER_REAL, max(before - (time.monotonic() - started), 1e-3))
