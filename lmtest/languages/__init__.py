"""Floor 0: what is true. Languages with exact distributions, their rules and prompts; knows nothing above it."""

from lmtest.languages.base import Entropy, Language, Support
from lmtest.languages.load import build_language, load_language, shipped_languages
from lmtest.languages.vocabulary import Vocabulary

__all__ = ["Entropy", "Language", "Support", "Vocabulary", "build_language", "load_language", "shipped_languages"]
