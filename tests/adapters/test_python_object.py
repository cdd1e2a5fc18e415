"""`module:factory`: found in the current folder, made for the language, and every way to get it wrong has its message."""

import sys
from pathlib import Path

import pytest

from lmtest.adapters.given import Guarded
from lmtest.adapters.python_object import from_factory
from lmtest.errors import UsageError
from lmtest.languages import Language, load_language

MODULE = """
import torch
from lmtest.models.registry import ARCHITECTURES

class Model:
    def __init__(self, size):
        self.size = size
    def next_log_probs(self, tokens):
        return torch.zeros(1, *tokens.shape, self.size).log_softmax(-1)

def build(language):
    return Model(len(language.symbols) + 1)

def exact(language):
    return language

def transformer(language):
    return ARCHITECTURES["transformer"](width=8, heads=2, feed_forward=8).build(language.vocabulary, [0])

def other(language):
    from lmtest import load_language
    return load_language("abn" if language.name != "abn" else "parity")

def nothing(language):
    return 3

def failing(language):
    return {}["missing"]

def bare():
    return 3

constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_model", "my_broken", "my_needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "my_model.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("def build(language)\n    return 1\n")
    (tmp_path / "my_needy.py").write_text("import a_package_that_nobody_has\n")
    return tmp_path


def test_a_module_of_the_current_folder_is_found_and_guarded(here: Path, anbn_small: Language) -> None:
    given = from_factory("my_model:build", anbn_small)
    assert given.name == "build"
    assert isinstance(given.model, Guarded)
    law = given.model.next_log_probs(anbn_small.vocabulary.pack([(0,)])[0])
    assert law.shape == (1, 1, 2, 3)


def test_models_of_ours_stay_what_they_are(here: Path, anbn_small: Language) -> None:
    assert from_factory("my_model:exact", anbn_small).model is anbn_small
    assert type(from_factory("my_model:transformer", anbn_small).model).__name__ == "Transformer"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_model", "expected module:factory, such as my_model:build"),
        ("my model:build", "expected module:factory"),
        ("a_module_that_nobody_has:build", r"no module 'a_module_that_nobody_has' in .*, nor installed"),
        ("my_needy:build", "importing my_needy failed: ModuleNotFoundError.*a_package_that_nobody_has"),
        ("my_broken:build", "importing my_broken failed: SyntaxError"),
        ("my_model:biuld", "expected a function 'biuld' in my_model, found nothing of that name; did you mean 'build'"),
        ("my_model:constant", "expected a function 'constant' in my_model, found int"),
        (
            "my_model:nothing",
            r"expected nothing\(language\) to give an object with next_log_probs\(tokens\), found int",
        ),
        ("my_model:failing", r"failing\(language\) failed: KeyError: 'missing' \(my_model.py, line \d+\)"),
        ("my_model:bare", r"bare\(language\) failed: TypeError: .*a factory takes the language"),
        ("my_model:other", "expected a model of the symbols a b c, found"),
    ],
)
def test_what_is_wrong_is_said(here: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_factory(text, load_language("anbncn_small"))
