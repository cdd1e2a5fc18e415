"""A cell: language × model × variant × stack of seeds. The unit of work: trained, certified, evaluated, each step done once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lmtest import atomic
from lmtest.directory import CERTIFICATE_COLUMNS, IDENTITY, MEASUREMENT_COLUMNS
from lmtest.evaluators import string_mass
from lmtest.languages import Language, build_language
from lmtest.models.contract import LanguageModel
from lmtest.models.reference import reference_models
from lmtest.models.stack import StackedModel
from lmtest.saturation import Certificate, certify
from lmtest.seeds import generator, stream_seed
from lmtest.study import Evaluators, Study
from lmtest.training import TrainingConfig, train
from lmtest.training.checkpoint import Progress
from lmtest.validation import validate

PROBE_DRAWS = 200
"""Fresh strings of a certificate along the way, where the language cannot be summed exactly."""

TABLES = ("certificates", "measurements", "trajectory", "completions")


@dataclass(frozen=True)
class Cell:
    """Which language, which model, which variant, which seeds."""

    language: str
    model: str
    variant: str
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.language}.{self.model}.{self.variant}.{_ranges(self.seeds)}"

    def checkpoint(self, directory: Path) -> Path:
        return directory / "checkpoints" / f"{self.name}.safetensors"

    def table(self, directory: Path, name: str) -> Path:
        return directory / "cells" / self.name / f"{name}.parquet"

    def done(self, directory: Path) -> bool:
        return all(self.table(directory, name).is_file() for name in TABLES)


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds 0, 1, 2, 5 → "0-2,5": short enough for a file name."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][-1] + 1 == seed:
            parts[-1] = [parts[-1][0], seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def cells(study: Study, languages: Iterable[str]) -> list[Cell]:
    """All cells in the order of the tables: languages, models, variants, seeds."""
    return [
        Cell(language, model, variant, stack)
        for language in languages
        for model in study.models
        for variant in study.variants
        for stack in stacks(study, language, model)
    ]


def stacks(study: Study, language: str, model: str) -> list[tuple[int, ...]]:
    """The seeds in stacks, which are cut by the study alone."""
    seeds, size = study.seed_list, study.training_of(language, model).stack
    return [tuple(seeds[i : i + size]) for i in range(0, len(seeds), size)]


@dataclass(frozen=True)
class Workshop:
    """What every cell of a study needs: the study by name, its languages, where to write, and on which device."""

    name: str
    study: Study
    languages: dict[str, Language]
    directory: Path
    device: str

    @classmethod
    def load(cls, directory: Path, device: str) -> Workshop:
        """From the resolved.json of a run directory: all that another process needs."""
        resolved = json.loads((directory / "resolved.json").read_text(encoding="utf-8"))
        where = str(directory / "resolved.json")
        study = validate(Study, resolved["config"], where)
        languages = {
            name: build_language(name, entry["definition"], where) for name, entry in resolved["languages"].items()
        }
        return cls(resolved["name"], study, languages, directory, device)

    @cached_property
    def evaluators(self) -> dict[str, Evaluators]:
        """By language: prompts, chance levels and the sorting of short strings are computed once."""
        return {name: self.study.evaluators.build(language) for name, language in self.languages.items()}

    def build(self, cell: Cell) -> StackedModel:
        vocabulary = self.languages[cell.language].vocabulary
        return self.study.models[cell.model].build(vocabulary, cell.seeds, self.device)

    def training(self, cell: Cell) -> TrainingConfig:
        return self.study.training_of(cell.language, cell.model)

    def run(self, cell: Cell, report: Callable[[int, float], None], interrupted: Callable[[], bool]) -> None:
        """Trains (or resumes) the cell, then certifies and evaluates it; writes its four tables."""
        language, config = self.languages[cell.language], self.training(cell)
        evaluators = self.evaluators[cell.language]
        snapshots = evaluators.snapshots(config.steps)
        model = self.build(cell)
        decoding_seed = stream_seed(0, "decoding", cell.model, cell.variant)

        def probe(model: StackedModel, step: int) -> list[dict[str, Any]]:
            certificate = self._certify(language, model, PROBE_DRAWS, "probe", step)
            kl = dict(zip(cell.seeds, certificate.kl.tolist(), strict=True))
            saturated = dict(zip(cell.seeds, certificate.saturated(self.study.saturation).tolist(), strict=True))
            rows = []
            if step % config.probe_every == 0 or step == config.steps:
                rows += evaluators.rule_extrapolation.probe(model, cell.seeds, decoding_seed)
            if evaluators.string_mass is not None and step in snapshots:
                rows += evaluators.string_mass.rows(model, cell.seeds)
            return [row | {"step": step, "kl": kl[row["seed"]], "saturated": saturated[row["seed"]]} for row in rows]

        def stop(model: StackedModel, step: int) -> torch.Tensor:
            below = config.stop_below
            assert below is not None
            # Draws of its own: the final certificate is on strings that no stopping rule has seen.
            return torch.from_numpy(self._certify(language, model, PROBE_DRAWS, "stop", step).upper < below)

        progress = train(
            model,
            language,
            self.study.variants[cell.variant],
            evaluators.rule_extrapolation.trainable,
            config,
            cell.checkpoint(self.directory),
            self._identity(cell),
            probe=probe,
            probe_at=snapshots,
            stop=None if config.stop_below is None else stop,
            report=report,
            interrupted=interrupted,
        )
        labels = {"language": cell.language, "model": cell.model, "variant": cell.variant}
        trajectory = self._label(pd.DataFrame(progress.probes), labels)
        tables = self.measure(model, labels, cell.seeds, decoding_seed, last_mass(progress))
        tables["trajectory"] = trajectory[[*MEASUREMENT_COLUMNS, "step", "kl"]]
        for name in TABLES:
            atomic.write_parquet(cell.table(self.directory, name), tables[name])

    def references(self) -> dict[str, pd.DataFrame]:
        """The same tables for the reference models of every language (no trajectory)."""
        tables = [
            self.measure(
                model,
                {"language": language, "model": name, "variant": "reference"},
                (0,),
                stream_seed(0, "decoding", name, "reference"),
            )
            for language in self.languages
            for name, model in reference_models(self.languages[language]).items()
        ]
        return {key: pd.concat([table[key] for table in tables], ignore_index=True) for key in tables[0]}

    def measure(
        self,
        model: LanguageModel,
        labels: dict[str, str],
        seeds: tuple[int, ...],
        decoding_seed: int,
        mass: list[dict[str, Any]] | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Certificate and evaluators of one model: certificates, measurements, completions.

        `mass`: the rows of short strings, where they are known from the end of training.
        """
        language, evaluators = self.languages[labels["language"]], self.evaluators[labels["language"]]
        certificate = self._certify(language, model, self.study.saturation.draws, "certificate")
        saturated = certificate.saturated(self.study.saturation)
        certificates = pd.DataFrame(
            {
                "seed": seeds,
                "kl": certificate.kl,
                "kl_lower": certificate.lower,
                "kl_upper": certificate.upper,
                "kl_per_token": certificate.kl / certificate.tokens,
                "exact": certificate.exact,
                "saturated": saturated,
            }
        )
        measurements, completions = evaluators.rule_extrapolation.evaluate(model, seeds, decoding_seed)
        if evaluators.string_mass is not None:
            mass = mass or evaluators.string_mass.rows(model, seeds)
            measurements = pd.concat([measurements, pd.DataFrame(mass)], ignore_index=True)
        measurements["saturated"] = measurements["seed"].map(dict(zip(seeds, saturated, strict=True)))
        completions = self._label(completions, labels)
        return {
            "certificates": self._label(certificates, labels)[CERTIFICATE_COLUMNS],
            "measurements": self._label(measurements, labels)[MEASUREMENT_COLUMNS],
            "completions": completions[[*IDENTITY, *(c for c in completions.columns if c not in IDENTITY)]],
        }

    def _certify(self, language: Language, model: LanguageModel, draws: int, *stream: str | int) -> Certificate:
        # The same draws for every model of a study: differences between models are then paired.
        rng: np.random.Generator = generator(0, *stream)
        return certify(language, model, draws, rng)

    def _label(self, table: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
        return table.assign(study=self.name, **labels)

    def _identity(self, cell: Cell) -> dict[str, Any]:
        """Whose checkpoint it is: a change in any of these makes it another model's."""
        return {
            "language": cell.language,
            "vocabulary": list(self.languages[cell.language].symbols),
            "model": self.study.models[cell.model].model_dump(mode="json"),
            "variant": cell.variant,
            "seeds": list(cell.seeds),
        }


def last_mass(progress: Progress) -> list[dict[str, Any]]:
    """What the probe of the last step says of short strings, as rows of measurements; [] where it was not asked."""
    return [
        {key: value for key, value in row.items() if key not in ("step", "kl", "saturated")}
        for row in progress.probes
        if row["evaluator"] == string_mass.NAME and row["step"] == progress.step
    ]
