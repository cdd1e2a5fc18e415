"""A study: languages × models × variants × evaluators with its claims, declared in one TOML file."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, field_validator, model_validator

from lmtest.claims import Claim, Evaluated, check_claims
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.rule_extrapolation import RuleExtrapolation, RuleExtrapolationConfig
from lmtest.evaluators.string_mass import StringMass, StringMassConfig
from lmtest.languages import Language, load_language, shipped_languages
from lmtest.models.registry import ModelConfig
from lmtest.overrides import apply_override
from lmtest.published import PublishedTable, match_published
from lmtest.saturation import SaturationConfig
from lmtest.training import Objective, TrainingConfig
from lmtest.validation import Table, read_toml, validate


class EvaluatorsConfig(Table):
    """The `[evaluators.NAME]` tables of a study."""

    rule_extrapolation: RuleExtrapolationConfig = RuleExtrapolationConfig()
    string_mass: StringMassConfig | None = None

    def build(self, language: Language) -> Evaluators:
        string_mass = None if self.string_mass is None else self.string_mass.evaluator(language)
        return Evaluators(self.rule_extrapolation.evaluator(language), string_mass)


@dataclass(frozen=True)
class Evaluators:
    """The evaluators of one language."""

    rule_extrapolation: RuleExtrapolation
    string_mass: StringMass | None

    def measured(self) -> Evaluated:
        """What there will be a value, or an outcome for each prompt, of."""
        rules = self.rule_extrapolation
        decodings: list[str] = [*rules.config.decodings]
        values = {*itertools.product(rules.measures, [*rules.prompt_sets, "ood"], decodings)}
        if self.string_mass is not None:
            values |= {*itertools.product(self.string_mass.measures, ["strings"], ["exact"])}
        single = [m for m in rules.measures if m != "finish_rate" and not m.endswith("_finished")]
        return Evaluated(values, {*itertools.product(single, rules.prompt_sets, decodings)})

    def snapshots(self, steps: int) -> list[int]:
        """The steps at which short strings are weighed."""
        return [] if self.string_mass is None else self.string_mass.snapshot_steps(steps)


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

    @field_validator("models", "variants")
    @classmethod
    def _names(cls, tables: dict[str, Any]) -> dict[str, Any]:
        for name in tables:
            if not re.fullmatch(r"\w+", name) or name == "reference":
                raise ValueError(f"expected a name of letters, digits and _ other than 'reference', found {name!r}")
        return tables

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

    def published_cells(self, languages: Collection[str], folder: Path) -> list[pd.DataFrame]:
        """The published cells that the study can be compared with; its file lies in `folder`. UsageError: unknown names."""
        names = languages, self.models, self.variants, folder
        return [match_published(table, *names) for table in self.published_tables]


def parse_seeds(seeds: str | int | Sequence[int]) -> list[int]:
    """ "0-7" → 0 … 7; "0,3-5" → 0 3 4 5; 8 → 0 … 7. Raises UsageError on anything else, and on repeated seeds."""
    result: list[int] = []
    if isinstance(seeds, int):
        result = list(range(seeds))
    elif isinstance(seeds, str):
        for part in seeds.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if match is None:
                raise UsageError(f"cannot read the seeds {seeds!r}: write 0-7 (inclusive), or 0,2,5")
            result += range(int(match[1]), int(match[2] or match[1]) + 1)
    else:
        result = list(seeds)
    if not result or len(set(result)) < len(result) or min(result) < 0:
        raise UsageError(f"expected one or more distinct seeds ≥ 0, found {seeds!r}")
    return result


def load_study(
    path: Path, overrides: Sequence[str] = (), seeds: str | int | Sequence[int] | None = None
) -> tuple[Study, dict[str, Language]]:
    """Reads a study file, applies `key=value` overrides, and checks everything that can be checked before a run.

    Returns the study and its languages by name. Raises UsageError: unknown keys with the nearest known one, claims about
    models or variants that do not exist, …
    """
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


def _check(study: Study, languages: dict[str, Language]) -> None:
    models, variants = set(study.models), set(study.variants)
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


def _check_language(study: Study, language: Language) -> Evaluated:
    """What can be measured on one language; UsageError where it cannot be trained on, or does not fit a model."""
    evaluators = study.evaluators.build(language)
    evaluator = evaluators.rule_extrapolation
    longest = max(
        evaluator.longest_prompt + evaluator.config.max_new_tokens,
        language.longest,
        0 if study.evaluators.string_mass is None else study.evaluators.string_mass.max_length,
    )
    shown = 0
    if any(_is_limited(model) for model in study.models.values()):
        for objective in study.variants.values():
            objective.check(language)
            for prompt, ending in zip(
                evaluator.trainable, objective.targets(language, evaluator.trainable) or [], strict=False
            ):
                shown = max(shown, len(prompt) + len(ending))
    for name, model in study.models.items():
        study.training_of(language.name, name).check(language)
        try:
            model.check(max(longest, shown))
        except UsageError as error:
            raise UsageError(f"{name} on {language.name}: {error}") from None
    for objective in study.variants.values():
        objective.check(language)
    return evaluators.measured()


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
