"""What every derived variant says: which variant it is made from, and of which models."""

from __future__ import annotations

from pydantic import Field

from lmtest.languages.base import Language
from lmtest.validation import Table


class Derivation(Table):
    """One of the `[derived.NAME]` tables of a study: a variant that is made from another, trained one."""

    of: str | None = None
    """The variant it is made from; needs no name where the study has only one."""
    models: list[str] | None = Field(None)
    """Models that it is made of; all where none is named, and none but the exact law where the list is empty."""

    def check(self, language: Language) -> None:
        """Raises UsageError where the language does not allow it."""
