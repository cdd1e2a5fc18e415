"""`module:factory`: a Python object of the user's own, made for a language."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

from lmtest.adapters.given import PASSED_ON, Defaults, Given, Guarded, describe_failure
from lmtest.errors import UsageError, nearest
from lmtest.languages.base import Language
from lmtest.models.stack import StackedModel

FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""module:factory, or package.module:factory."""


def from_factory(text: str, language: Language) -> Given:
    """`module:factory` → what factory(language) gives: an object with next_log_probs. Modules of the current folder are found.

    This runs the user's code. Raises UsageError where there is no such module or factory, where either fails, and where the
    object has no next_log_probs.
    """
    if not FORM.fullmatch(text):
        raise UsageError(f"cannot read the model {text!r}: expected module:factory, such as my_model:build")
    module_name, name = text.split(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # and it stays: a factory may import its own modules later on
    defaults = Defaults()
    try:
        with defaults:
            module = importlib.import_module(module_name)
        factory, named = getattr(module, name, None), vars(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"{text}: importing {module_name} failed: {describe_failure(error)}") from error
        raise UsageError(f"{text}: no module {error.name!r} in {here}, nor installed; go to its folder") from None
    except PASSED_ON:
        raise
    except BaseException as error:
        raise UsageError(f"{text}: importing {module_name} failed: {describe_failure(error)}") from error
    if not callable(factory):
        found = "nothing of that name" if factory is None else type(factory).__name__
        known = [key for key, value in named.items() if callable(value) and not str(key).startswith("_")]
        raise UsageError(
            f"{text}: expected a function {name!r} in {module_name}, found {found}; {nearest(name, known)}"
        )
    try:
        with defaults:
            model = factory(language)
            law = getattr(model, "next_log_probs", None)
            if inspect.iscoroutine(model):
                model.close()  # or Python warns of it
    except PASSED_ON:
        raise
    except BaseException as error:
        raise UsageError(
            f"{text}: {name}(language) failed: {describe_failure(error)}; a factory takes the language, and gives a model of it"
        ) from error
    if not callable(law):
        raise UsageError(
            f"{text}: expected {name}(language) to give an object with next_log_probs(tokens), found {type(model).__name__}"
        )
    ours = issubclass(type(model), StackedModel | Language) and type(model).__module__.startswith("lmtest.")
    if not ours:
        return Given(name, Guarded(model, language.vocabulary, text, defaults))
    if model.vocabulary != language.vocabulary:
        raise UsageError(
            f"{text}: expected a model of the symbols {' '.join(language.symbols)}, found {' '.join(model.vocabulary.symbols)}"
        )
    return Given(name, model)
