"""Claims about models as tests of a few lines: the fixtures and markers of the pytest plugin, and the same as functions."""

from __future__ import annotations

from lmtest.testing.verdict import Refuted, Undecided, Verdict

__all__ = ["Refuted", "Undecided", "Verdict", "assert_supported", "judge_claim"]


def __getattr__(name: str) -> object:
    """Loads torch, pandas and the rest only when a claim is judged."""
    if name not in ("assert_supported", "judge_claim"):
        raise AttributeError(f"module 'lmtest.testing' has no attribute {name!r}")
    from lmtest.testing import judging

    return getattr(judging, name)
