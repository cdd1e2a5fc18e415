"""`load_language`: a shipped name or a path to a language file → a checked language."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lmtest.errors import UsageError, nearest
from lmtest.languages.arranged import Arranged
from lmtest.languages.base import Language
from lmtest.languages.bracket_rules import read_pairs
from lmtest.languages.brackets import Brackets
from lmtest.languages.hmm_construction import Construction
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.languages.laws import LAWS, ExponentLaw, FiniteTable
from lmtest.languages.layered import Layered
from lmtest.languages.pcfg import Pcfg
from lmtest.languages.prompts import compile_prompts
from lmtest.languages.rules import compile_rules
from lmtest.languages.template import Template
from lmtest.limits import MOST_LENGTH
from lmtest.validation import Table, read_toml, validate


class PromptTable(Table):
    """One of the `[[prompts]]`: every string of so many symbols that matches, with a weight each."""

    regex: str
    length: int = Field(ge=1, le=1000)
    weight: float = Field(1.0, gt=0, le=1e100)


class _Common(Table):
    title: str
    source: str = ""
    max_length: int | None = Field(None, ge=1, le=MOST_LENGTH)
    rules: dict[str, dict[str, Any]] = {}
    prompts: list[PromptTable] = []


class PcfgFile(_Common):
    """`kind = "pcfg"`"""

    kind: Literal["pcfg"]
    grammar: str

    def language(self, name: str) -> Language:
        return Pcfg(self.grammar, name=name, title=self.title, source=self.source, max_length=self.max_length)


class TemplateFile(_Common):
    """`kind = "template"`; every other table of the file is the law of an exponent."""

    kind: Literal["template"]
    template: str
    laws: dict[str, ExponentLaw]

    def language(self, name: str) -> Language:
        return Template(
            self.template, self.laws, name=name, title=self.title, source=self.source, max_length=self.max_length
        )


class ArrangedFile(_Common):
    """`kind = "arranged"`"""

    kind: Literal["arranged"]
    prefix: str = ""
    counted: str
    filler: str
    length: FiniteTable
    count: Literal["even", "half", "even_strings"]
    arrangement: Literal["shuffled", "sorted"]

    def language(self, name: str) -> Language:
        return Arranged(
            self.prefix,
            self.counted,
            self.filler,
            self.length.build(),
            self.count,
            self.arrangement,
            name=name,
            title=self.title,
            source=self.source,
            max_length=self.max_length,
        )


class BracketsFile(_Common):
    """`kind = "brackets"`"""

    kind: Literal["brackets"]
    pairs: list[str | list[str]]
    target: FiniteTable
    discipline: Literal["nested", "shuffled"]

    def language(self, name: str) -> Language:
        return Brackets(
            read_pairs("pairs", self.pairs),
            self.target.build(),
            self.discipline,
            name=name,
            title=self.title,
            source=self.source,
            max_length=self.max_length,
        )


class HmmMixtureFile(_Common, Construction):
    """`kind = "hmm_mixture"`; the knobs of the construction are keys of the file."""

    kind: Literal["hmm_mixture"]
    length: int = Field(ge=1, le=100_000)

    def language(self, name: str) -> Language:
        return HmmMixture(
            self, self.length, name=name, title=self.title, source=self.source, max_length=self.max_length
        )


class LayeredFile(_Common, Layered):
    """`kind = "layered_pcfg"`; the knobs of the generator are keys of the file."""

    kind: Literal["layered_pcfg"]

    def language(self, name: str) -> Language:
        return Pcfg(self.grammar_text(), name=name, title=self.title, source=self.source, max_length=self.max_length)


KINDS: dict[str, type[PcfgFile | LayeredFile | TemplateFile | ArrangedFile | BracketsFile | HmmMixtureFile]] = {
    "pcfg": PcfgFile,
    "layered_pcfg": LayeredFile,
    "template": TemplateFile,
    "arranged": ArrangedFile,
    "brackets": BracketsFile,
    "hmm_mixture": HmmMixtureFile,
}


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
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"unknown kind {kind!r}; {nearest(str(kind), KINDS)}" if "kind" in data else "the key 'kind' is missing"
        raise UsageError(f"{where}: {found} (kinds: {', '.join(KINDS)})")
    file = validate(KINDS[kind], _with_laws(data, where) if kind == "template" else data, where)
    try:
        language = file.language(name)
        language.definition = data
        language.rules = compile_rules(file.rules, language.symbols)
        declared = [(prompt.regex, prompt.length, prompt.weight) for prompt in file.prompts]
        language.prompts = compile_prompts(declared, language.symbols)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return language


def _with_laws(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The tables of a template file with those that are laws of exponents under one key, checked."""
    known = {*TemplateFile.model_fields} - {"laws"}
    laws = {
        key: _law(value, f"{where}: {key}")
        for key, value in data.items()
        if key not in known and isinstance(value, dict)
    }
    if unknown := [key for key in data if key not in known and key not in laws]:
        hint = f"{nearest(unknown[0], known)} (an exponent: {unknown[0]} = {{ law = … }})"
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; {hint}")
    return {key: value for key, value in data.items() if key in known} | {"laws": laws}


def _law(table: dict[str, Any], where: str) -> ExponentLaw:
    law = table.get("law")
    if not isinstance(law, str) or law not in LAWS:
        found = f"unknown law {law!r}; {nearest(str(law), LAWS)}" if "law" in table else "the key 'law' is missing"
        raise UsageError(f"{where}: {found} (laws: {', '.join(LAWS)})")
    return validate(LAWS[law], table, where).build()


__all__ = ["build_language", "grammars_folder", "language_path", "load_language", "shipped_languages"]
