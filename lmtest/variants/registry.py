"""All derived variants by kind: what a study's `[derived.NAME]` tables may declare."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmtest.languages.base import Language
from lmtest.languages.contexts import ContextsConfig
from lmtest.languages.prompts import MAX_PROMPTS
from lmtest.variants.derivation import Derivation
from lmtest.variants.longer import Longer
from lmtest.variants.preserve.tables import PreservingConfig
from lmtest.variants.taught import Taught


class Exchange(Derivation):
    """`kind = "exchange"`: on a set of contexts the two likeliest next symbols change places (see `exchange.py`)."""

    kind: Literal["exchange"]
    contexts: ContextsConfig
    draws: int = Field(2000, ge=2, le=MAX_PROMPTS)
    """Contexts drawn for the cost, where they are too many to be summed."""

    def check(self, language: Language) -> None:
        """Raises UsageError where the language has no such contexts."""
        self.contexts.build(language)


DerivedConfig = Annotated[Exchange | Taught | Longer | PreservingConfig, Field(discriminator="kind")]

__all__ = ["Derivation", "DerivedConfig", "Exchange", "Longer", "Taught"]
