"""What the loss does not decide: language models on languages whose distribution is known exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "load_language", "run_study"]

if TYPE_CHECKING:
    from lmtest.directory import Run
    from lmtest.languages import load_language
    from lmtest.pipeline import run_study

_HOMES = {"load_language": "lmtest.languages", "run_study": "lmtest.pipeline", "Run": "lmtest.directory"}


def __getattr__(name: str) -> Any:
    """Loads torch and the rest only when they are asked for: claims and reports do without."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lmtest' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
