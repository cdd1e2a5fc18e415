"""A study: language × models × variants × evaluators with its claims, declared in one TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from lmtest.claims import Claim, check_claims
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.rule_extrapolation import RuleExtrapolationConfig
from lmtest.languages import Language, load_language, shipped_languages
from lmtest.models.transformer import TransformerConfig
from lmtest.saturation import SaturationConfig
from lmtest.training import Objective, TrainingConfig
from lmtest.validation import Table, read_toml, validate


class EvaluatorsConfig(Table):
    """The `[evaluators.NAME]` tables of a study."""

    rule_extrapolation: RuleExtrapolationConfig = RuleExtrapolationConfig()


class Published(Table):
    """A published number to stand beside ours; its spread, number of seeds and source are part of it."""

    label: str
    variant: str
    measure: str
    prompt_set: str
    value: float
    model: str | None = None
    decoding: str = "greedy"
    spread: float | None = None
    seeds: int | None = None
    source: str
    note: str = ""


class Study(Table):
    """The whole file."""

    title: str
    language: str
    """A shipped language, or a path relative to this file."""
    seeds: str | int | list[int] = "0-7"
    """"0-7" (inclusive), "0,2,5", a number of seeds, or a list."""
    models: dict[str, TransformerConfig] = Field(min_length=1)
    training: TrainingConfig
    variants: dict[str, Objective] = Field(min_length=1)
    saturation: SaturationConfig = SaturationConfig()
    evaluators: EvaluatorsConfig = EvaluatorsConfig()
    claims: list[Claim] = []
    published: list[Published] = []

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

    @property
    def seed_list(self) -> list[int]:
        return parse_seeds(self.seeds)


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
) -> tuple[Study, Language]:
    """Reads a study file, applies `key=value` overrides, and checks everything that can be checked before a run.

    Raises UsageError: unknown keys with the nearest known one, claims about models or variants that do not exist, …
    """
    data = read_toml(path)
    for override in overrides:
        apply_override(data, override)
    if seeds is not None:
        data["seeds"] = seeds if isinstance(seeds, str | int) else list(seeds)
    study = validate(Study, data, str(path))
    language = load_language(_language_path(study.language, path.parent))
    evaluator = study.evaluators.rule_extrapolation.evaluator(language)
    try:
        prompt_sets = {*evaluator.prompt_sets, "ood"}
        measures, decodings = set(evaluator.measures), set(evaluator.config.decodings)
        check_claims(study.claims, set(study.models), set(study.variants), measures, prompt_sets, decodings)
        for row in study.published:
            for found, known in (
                (row.variant, set(study.variants)),
                (row.model or next(iter(study.models)), set(study.models)),
                (row.measure, measures),
                (row.prompt_set, prompt_sets),
                (row.decoding, decodings),
            ):
                if found not in known:
                    raise UsageError(f"published {row.label!r}: unknown {found!r}; {nearest(found, known)}")
        study.training.check(language)
        for objective in study.variants.values():
            objective.check(language)
        support = language.support()
        longest = max(
            evaluator.config.prompt_length + evaluator.config.max_new_tokens,
            0 if support is None else max(map(len, support.rows)),
        )
        for model in study.models.values():
            model.check(longest)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return study, language


def _language_path(name: str, folder: Path) -> str:
    beside = folder / name
    return str(beside) if name not in shipped_languages() and beside.is_file() else name


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets a dotted key, as in `training.steps=200`; the value is read as TOML, or as text where it is none."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UsageError(f"cannot read --set {override!r}: write key=value, such as training.steps=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table: Any = data
    for i, part in enumerate(parts[:-1]):
        table = table[_index(table, part, override)] if isinstance(table, list) else table.setdefault(part, {})
        if not isinstance(table, dict | list):
            raise UsageError(f"cannot apply --set {override!r}: {'.'.join(parts[: i + 1])} is no table")
    if isinstance(table, list):
        table[_index(table, parts[-1], override)] = value
    else:
        table[parts[-1]] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise UsageError(f"cannot apply --set {override!r}: expected a number below {len(items)}, found {part!r}")
    return int(part)


def dump(study: Study) -> dict[str, Any]:
    """The study with every default written out, as plain data."""
    return study.model_dump(mode="json", exclude_none=True)
