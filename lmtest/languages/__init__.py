"""Floor 0: what is true. Languages with exact distributions, their rules and prompts; knows nothing above it."""

from lmtest.languages.base import Entropy, Language, Support
from lmtest.languages.load import load_language, shipped_languages
from lmtest.languages.vocabulary import Vocabulary

__all__ = ["Entropy", "Language", "Support", "Vocabulary", "load_language", "shipped_languages"]
