"""A study: languages × models × variants × evaluators with its claims, declared in one TOML file."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, field_validator, model_validator

from lmtest import limits
from lmtest.claims import Claim, check_claims
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.contract import Evaluated, Measured
from lmtest.evaluators.registry import EvaluatorsConfig, measured, trainable
from lmtest.languages import Language, load_language, shipped_languages
from lmtest.models.registry import ModelConfig
from lmtest.overrides import apply_override
from lmtest.published import PublishedTable, match_published
from lmtest.saturation import SaturationConfig
from lmtest.threads import one_thread
from lmtest.training import Objective, TrainingConfig
from lmtest.validation import Table, read_toml, validate
from lmtest.variants.preserve.tables import Preserving
from lmtest.variants.registry import Derivation, DerivedConfig
from lmtest.variants.rows import derived_values

LARGEST_SEED = 10**18 - 1

REFERENCES = ("reference", "language", "uniform", "stop", "rule_keeper", "ngram", "normative")
"""Names that the reference models have in the tables, or that mark them."""


class Adjustment(Table):
    """One `[[exceptions]]` table: other training for some languages or models (all where none is named); later ones win."""

    languages: list[str] | None = Field(None, min_length=1)
    models: list[str] | None = Field(None, min_length=1)
    training: dict[str, Any] = Field(min_length=1)

    def concerns(self, language: str, model: str) -> bool:
        return (self.languages is None or language in self.languages) and (self.models is None or model in self.models)


class Published(Table):
    """A published number to stand beside ours; its spread, number of seeds and source are part of it."""

    label: str
    variant: str
    measure: str
    prompt_set: str
    value: float
    language: str | None = None
    model: str | None = None
    decoding: str = "greedy"
    spread: float | None = None
    seeds: int | None = None
    source: str
    note: str = ""


class Study(Table):
    """The whole file."""

    title: str
    language: str | None = None
    """A shipped language, or a path relative to this file; or several in `languages`."""
    languages: list[str] | None = Field(None, min_length=1)
    seeds: str | int | list[int] = "0-7"
    """"0-7" (inclusive), "0,2,5", a number of seeds, or a list."""
    models: dict[str, ModelConfig] = Field(min_length=1)
    training: TrainingConfig
    exceptions: list[Adjustment] = []
    variants: dict[str, Objective] = Field(min_length=1)
    derived: dict[str, DerivedConfig] = {}
    """Variants made from those: the same models, changed or trained on."""
    saturation: SaturationConfig = SaturationConfig()
    evaluators: EvaluatorsConfig = EvaluatorsConfig()
    claims: list[Claim] = []
    published: list[Published] = []
    published_tables: list[PublishedTable] = []

    @field_validator("seeds")
    @classmethod
    def _readable(cls, seeds: str | int | list[int]) -> str | int | list[int]:
        parse_seeds(seeds)
        return seeds

    @field_validator("models", "variants", "derived")
    @classmethod
    def _names(cls, tables: dict[str, Any]) -> dict[str, Any]:
        for name in tables:
            if not re.fullmatch(r"\w+", name) or name == "reference":
                raise ValueError(f"expected a name of letters, digits and _ other than 'reference', found {name!r}")
        return tables

    @model_validator(mode="before")
    @classmethod
    def _default_variant(cls, data: Any) -> Any:
        """A claim that names no variant is about the only one that is trained from scratch, whatever is derived from it."""
        variants, claims = data.get("variants"), data.get("claims")
        if not (data.get("derived") and isinstance(variants, dict) and len(variants) == 1 and isinstance(claims, list)):
            return data
        default = {"variant": next(iter(variants))}
        named = [c if not isinstance(c, dict) or {"variant", "variants"} & c.keys() else c | default for c in claims]
        return data | {"claims": named}

    @model_validator(mode="after")
    def _has_languages(self) -> Study:
        if (self.language is None) == (self.languages is None):
            raise ValueError("expected either language = NAME or languages = [NAME, …]")
        return self

    @property
    def seed_list(self) -> list[int]:
        return parse_seeds(self.seeds)

    @property
    def language_list(self) -> list[str]:
        """Languages as the file names them."""
        return [self.language] if self.language is not None else self.languages or []

    def training_of(self, language: str, model: str) -> TrainingConfig:
        """The training of one cell: the study's own, with the exceptions that concern it."""
        config = self.training
        for number, exception in enumerate(self.exceptions):
            if exception.concerns(language, model):
                table = config.model_dump() | exception.training
                config = validate(TrainingConfig, table, f"exceptions.{number}, for {model} on {language}")
        return config

    def parent(self, variant: str) -> str:
        """The trained variant that a derived one is made from."""
        return self.derived[variant].of or next(iter(self.variants))

    def variants_of(self, model: str) -> list[str]:
        """What is made of one model: the variants that it is trained for, and then what is derived from these."""
        trained = [name for name, v in self.variants.items() if v.models is None or model in v.models]
        asked = [name for name, d in self.derived.items() if d.models is None or model in d.models]
        return [*trained, *(name for name in asked if self.parent(name) in trained)]

    def published_cells(self, languages: Collection[str], folder: Path) -> list[pd.DataFrame]:
        """The published cells that the study can be compared with; its file lies in `folder`. UsageError: unknown names."""
        cells = []
        for table in self.published_tables:
            # A cell is of what was trained from scratch, unless the study says otherwise.
            variants = self.variants if table.variant is None else {**self.variants, **self.derived}
            cells.append(match_published(table, languages, self.models, variants, folder))
        return cells


def parse_seeds(seeds: str | int | Sequence[int]) -> list[int]:
    """ "0-7" → 0 … 7; "0,3-5" → 0 3 4 5; 8 → 0 … 7. Raises UsageError on anything else, and on repeated seeds."""
    if isinstance(seeds, int):
        ranges = [range(seeds)]
    elif isinstance(seeds, str):
        matches = [re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part) for part in seeds.split(",")]
        if None in matches:
            raise UsageError(f"cannot read the seeds {seeds!r}: write 0-7 (inclusive), or 0,2,5")
        ranges = [range(int(match[1]), int(match[2] or match[1]) + 1) for match in matches if match is not None]
    else:
        ranges = [range(seed, seed + 1) for seed in seeds]
    limits.check("seeds", sum(part.stop - part.start for part in ranges), limits.MOST_SEEDS, "ask for fewer")
    result = [seed for part in ranges for seed in part]
    if not result or len(set(result)) < len(result) or not 0 <= min(result) <= max(result) <= LARGEST_SEED:
        raise UsageError(f"expected one or more distinct seeds from 0 to {LARGEST_SEED}, found {seeds!r}")
    return result


def load_study(
    path: Path, overrides: Sequence[str] = (), seeds: str | int | Sequence[int] | None = None
) -> tuple[Study, dict[str, Language]]:
    """Reads a study file, applies `key=value` overrides, and checks everything that can be checked before a run.

    Returns the study and its languages by name. Raises UsageError: unknown keys with the nearest known one, claims about
    models or variants that do not exist, …
    """
    with limits.within(f"reading {path}"), one_thread():
        return _load_study(path, overrides, seeds)


def _load_study(
    path: Path, overrides: Sequence[str], seeds: str | int | Sequence[int] | None
) -> tuple[Study, dict[str, Language]]:
    data = read_toml(path)
    for override in overrides:
        apply_override(data, override)
    if seeds is not None:
        data["seeds"] = seeds if isinstance(seeds, str | int) else list(seeds)
    study = validate(Study, data, str(path))
    loaded = [load_language(_language_path(name, path.parent)) for name in study.language_list]
    languages = {language.name: language for language in loaded}
    if len(languages) < len(loaded):
        raise UsageError(f"{path}: two languages have one name, among {[language.name for language in loaded]}")
    try:
        _check(study, languages)
        study.published_cells(languages, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return study, languages


def with_claims(study: Study, languages: Mapping[str, Language], claims: Sequence[dict[str, Any]], where: str) -> Study:
    """The study with these `[[claims]]` tables instead of its own. UsageError where they do not fit it."""
    changed = validate(Study, dump(study) | {"claims": list(claims)}, where)
    try:
        _check(changed, languages)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return changed


def _check(study: Study, languages: Mapping[str, Language]) -> None:
    models, variants = set(study.models), {*study.variants, *study.derived}
    for table, declared in (("variants", study.variants), ("derived", study.derived)):
        for name, variant in declared.items():
            for model in variant.models or []:
                if model not in models:
                    raise UsageError(f"{table}.{name}: unknown model {model!r}; {nearest(model, models)}")
    for name, derivation in study.derived.items():
        _check_derivation(study, name, derivation)
    for exception in study.exceptions:
        for what, named, known in (
            ("language", exception.languages, set(languages)),
            ("model", exception.models, models),
        ):
            for name in named or []:
                if name not in known:
                    raise UsageError(f"exceptions: unknown {what} {name!r}; {nearest(name, known)}")
    evaluated = {name: _check_language(study, language) for name, language in languages.items()}
    check_claims(study.claims, models, variants, evaluated)
    for row in study.published:
        asked = evaluated.get(row.language or next(iter(languages)))
        measures, prompt_sets, decodings = map(set, zip(*asked.values, strict=True)) if asked else (set(), set(), set())
        for found, names in (
            (row.language or next(iter(languages)), set(languages)),
            (row.variant, variants),
            (row.model or next(iter(models)), models),
            (row.measure, measures),
            (row.prompt_set, prompt_sets),
            (row.decoding, decodings),
        ):
            if found not in names:
                raise UsageError(f"published {row.label!r}: unknown {found!r}; {nearest(found, names)}")


def _check_derivation(study: Study, name: str, derivation: Derivation) -> None:
    if name in study.variants or name in REFERENCES:
        raise UsageError(f"derived: the name {name!r} is taken; rename it")
    if derivation.of is None and len(study.variants) > 1:
        raise UsageError(f"derived.{name}: expected of = …, one of the variants {', '.join(study.variants)}")
    if derivation.of in study.derived:
        raise UsageError(
            f"derived.{name}: {derivation.of!r} is derived itself, and what is derived again is not made; expected of = one of "
            f"the variants {', '.join(study.variants)}"
        )
    if derivation.of is not None and derivation.of not in study.variants:
        raise UsageError(f"derived.{name}: unknown variant {derivation.of!r}; {nearest(derivation.of, study.variants)}")
    if isinstance(derivation, Preserving):
        for model, config in study.models.items():
            if name in study.variants_of(model):
                try:
                    derivation.config_of(config)
                except UsageError as error:
                    raise UsageError(f"derived.{name}, of {model}: {error}") from None


def _check_language(study: Study, language: Language) -> Evaluated:
    """What can be measured on one language; UsageError where it cannot be trained on, or does not fit a model."""
    for name in study.models:  # what costs least is checked first
        study.training_of(language.name, name).check(language)
    evaluators = study.evaluators.build(language)
    longest = max(language.longest, *(evaluator.longest for evaluator in evaluators))
    found, prompts, shown = measured(evaluators), trainable(evaluators), 0
    derived: set[Measured] = set()
    for objective in study.variants.values():
        objective.check(language)
        if any(_is_limited(model) for model in study.models.values()):
            endings = objective.targets(language, prompts) or []
            shown = max([shown, *(len(prompt) + len(end) for prompt, end in zip(prompts, endings, strict=False))])
    for name, derivation in study.derived.items():
        try:
            derivation.check(language)
            derived |= derived_values(derivation, language)
        except UsageError as error:
            raise UsageError(f"derived.{name}: {error}") from None
    for name, model in study.models.items():
        try:
            model.check(max(longest, shown))
        except UsageError as error:
            raise UsageError(f"{name} on {language.name}: {error}") from None
    return Evaluated({*found.values, *derived}, found.outcomes)


def _is_limited(model: ModelConfig) -> bool:
    """Whether a model reads strings up to some length alone."""
    try:
        model.check(math.inf)
    except UsageError:
        return True
    return False


def _language_path(name: str, folder: Path) -> str:
    beside = folder / name
    return str(beside) if name not in shipped_languages() and beside.is_file() else name


def dump(study: Study) -> dict[str, Any]:
    """The study with every default written out, as plain data."""
    return study.model_dump(mode="json", exclude_none=True)
