"""`load_language`: a shipped name or a path to a language file → a checked language."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from lmtest.errors import UsageError, nearest
from lmtest.languages.base import Language
from lmtest.languages.laws import LawTable
from lmtest.languages.pcfg import Pcfg
from lmtest.languages.rules import compile_rules
from lmtest.languages.template import Template
from lmtest.validation import Table, read_toml, validate


class _Common(Table):
    title: str
    source: str = ""
    max_length: int | None = Field(None, ge=1)
    rules: dict[str, dict[str, Any]] = {}

    def language(self, name: str) -> Language:
        raise NotImplementedError


class PcfgFile(_Common):
    """`kind = "pcfg"`"""

    kind: Literal["pcfg"]
    grammar: str

    def language(self, name: str) -> Language:
        return Pcfg(self.grammar, name=name, title=self.title, source=self.source, max_length=self.max_length)


class TemplateFile(_Common):
    """`kind = "template"`; every other key is the law of an exponent."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LawTable] = Field(init=False)

    kind: Literal["template"]
    template: str

    def language(self, name: str) -> Language:
        laws = {key: table.build() for key, table in (self.__pydantic_extra__ or {}).items()}
        return Template(
            self.template, laws, name=name, title=self.title, source=self.source, max_length=self.max_length
        )


KINDS: dict[str, type[_Common]] = {"pcfg": PcfgFile, "template": TemplateFile}


def grammars_folder() -> Path:
    """Where the shipped language files lie: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "grammars"
    return inside if inside.is_dir() else package.parent / "grammars"


def shipped_languages() -> list[str]:
    """Names of the shipped languages, sorted."""
    return sorted(path.stem for path in grammars_folder().glob("*.toml"))


def language_path(name_or_path: str | Path) -> Path:
    """The file of a shipped language, or the user's own file."""
    text = str(name_or_path)
    if text in shipped_languages():
        return grammars_folder() / f"{text}.toml"
    path = Path(text)
    if not path.is_file():
        raise UsageError(
            f"no language {text!r}: neither a shipped name ({nearest(text, shipped_languages())}) nor a file"
        )
    return path


def load_language(name_or_path: str | Path) -> Language:
    """Loads a shipped language by name or any language file by path.

    Raises UsageError, naming file and key, rule or symbol, where the file is no exact distribution.
    """
    path = language_path(name_or_path)
    return build_language(path.stem, read_toml(path), str(path))


def build_language(name: str, data: dict[str, Any], where: str) -> Language:
    """The language that the tables of a language file define; `where` stands in front of every error."""
    kind = data.get("kind")
    if kind not in KINDS:
        found = f"unknown kind {kind!r}; {nearest(str(kind), KINDS)}" if "kind" in data else "the key 'kind' is missing"
        raise UsageError(f"{where}: {found} (kinds: {', '.join(KINDS)})")
    if kind == "template":
        _check_template_keys(where, data)
    file = validate(KINDS[kind], data, where)
    try:
        language = file.language(name)
        language.definition = data
        language.rules = compile_rules(file.rules, language.symbols)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return language


def _check_template_keys(where: str, data: dict[str, Any]) -> None:
    """A key that is no table cannot be the law of an exponent: it is a typo."""
    known = TemplateFile.model_fields
    for key, value in data.items():
        if key not in known and not (isinstance(value, dict) and "law" in value):
            raise UsageError(f"{where}: unknown key {key!r}; {nearest(key, known)} (exponents: {key} = {{ law = … }})")


__all__ = ["build_language", "grammars_folder", "language_path", "load_language", "shipped_languages"]
