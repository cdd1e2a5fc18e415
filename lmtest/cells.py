"""A cell: one model × variant × stack of seeds. The unit of work: trained, certified, evaluated, each step done once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lmtest import atomic
from lmtest.directory import CERTIFICATE_COLUMNS, IDENTITY, MEASUREMENT_COLUMNS
from lmtest.languages import Language, build_language
from lmtest.models.contract import LanguageModel
from lmtest.models.reference import reference_models
from lmtest.models.stack import StackedModel
from lmtest.saturation import Certificate, certify
from lmtest.seeds import generator, stream_seed
from lmtest.study import Study
from lmtest.training import train
from lmtest.validation import validate

PROBE_DRAWS = 200
"""Fresh strings of a certificate along the way, where the language cannot be summed exactly."""

TABLES = ("certificates", "measurements", "trajectory", "completions")


@dataclass(frozen=True)
class Cell:
    """Which model, which variant, which seeds."""

    model: str
    variant: str
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.model}.{self.variant}.{'-'.join(map(str, self.seeds))}"

    def checkpoint(self, directory: Path) -> Path:
        return directory / "checkpoints" / f"{self.name}.safetensors"

    def table(self, directory: Path, name: str) -> Path:
        return directory / "cells" / self.name / f"{name}.parquet"

    def done(self, directory: Path) -> bool:
        return all(self.table(directory, name).is_file() for name in TABLES)


def cells(study: Study) -> list[Cell]:
    """All cells in the order of the tables: models, variants, seeds; stacks are cut by the study alone."""
    seeds, size = study.seed_list, study.training.stack
    stacks = [tuple(seeds[i : i + size]) for i in range(0, len(seeds), size)]
    return [Cell(model, variant, stack) for model in study.models for variant in study.variants for stack in stacks]


@dataclass(frozen=True)
class Workshop:
    """What every cell of a study needs: the study by name, its language, where to write, and on which device."""

    name: str
    study: Study
    language: Language
    directory: Path
    device: str

    @classmethod
    def load(cls, directory: Path, device: str) -> Workshop:
        """From the resolved.json of a run directory: all that another process needs."""
        resolved = json.loads((directory / "resolved.json").read_text(encoding="utf-8"))
        where = str(directory / "resolved.json")
        study = validate(Study, resolved["config"], where)
        language = build_language(resolved["language"]["name"], resolved["language"]["definition"], where)
        return cls(resolved["name"], study, language, directory, device)

    def build(self, cell: Cell) -> StackedModel:
        return self.study.models[cell.model].build(self.language.vocabulary, cell.seeds, self.device)

    def run(self, cell: Cell, report: Callable[[int, float], None], interrupted: Callable[[], bool]) -> None:
        """Trains (or resumes) the cell, then certifies and evaluates it; writes its four tables."""
        evaluator = self.study.evaluators.rule_extrapolation.evaluator(self.language)
        model = self.build(cell)
        decoding_seed = stream_seed(0, "decoding", cell.model, cell.variant)

        def probe(model: StackedModel, step: int) -> list[dict[str, Any]]:
            certificate = self._certify(model, PROBE_DRAWS, "probe", step)
            kl = dict(zip(cell.seeds, certificate.kl.tolist(), strict=True))
            saturated = dict(zip(cell.seeds, certificate.saturated(self.study.saturation).tolist(), strict=True))
            rows = evaluator.probe(model, cell.seeds, decoding_seed)
            return [row | {"step": step, "kl": kl[row["seed"]], "saturated": saturated[row["seed"]]} for row in rows]

        def stop(model: StackedModel, step: int) -> torch.Tensor:
            below = self.study.training.stop_below
            assert below is not None
            # Draws of its own: the final certificate is on strings that no stopping rule has seen.
            return torch.from_numpy(self._certify(model, PROBE_DRAWS, "stop", step).upper < below)

        progress = train(
            model,
            self.language,
            self.study.variants[cell.variant],
            evaluator.prompt_sets["ood_trained"].rows,
            self.study.training,
            cell.checkpoint(self.directory),
            self._identity(cell),
            probe=probe,
            stop=None if self.study.training.stop_below is None else stop,
            report=report,
            interrupted=interrupted,
        )
        trajectory = self._label(pd.DataFrame(progress.probes), cell.model, cell.variant)
        tables = self.measure(model, cell.model, cell.variant, cell.seeds, decoding_seed)
        tables["trajectory"] = trajectory[[*MEASUREMENT_COLUMNS, "step", "kl"]]
        for name in TABLES:
            atomic.write_parquet(cell.table(self.directory, name), tables[name])

    def references(self) -> dict[str, pd.DataFrame]:
        """The same tables for the reference models (no trajectory)."""
        tables = [
            self.measure(model, name, "reference", (0,), stream_seed(0, "decoding", name, "reference"))
            for name, model in reference_models(self.language).items()
        ]
        return {key: pd.concat([table[key] for table in tables], ignore_index=True) for key in tables[0]}

    def measure(
        self, model: LanguageModel, model_name: str, variant: str, seeds: tuple[int, ...], decoding_seed: int
    ) -> dict[str, pd.DataFrame]:
        """Certificate and evaluators of one model: certificates, measurements, completions."""
        certificate = self._certify(model, self.study.saturation.draws, "certificate")
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
        evaluator = self.study.evaluators.rule_extrapolation.evaluator(self.language)
        measurements, completions = evaluator.evaluate(model, seeds, decoding_seed)
        measurements["saturated"] = measurements["seed"].map(dict(zip(seeds, saturated, strict=True)))
        completions = self._label(completions, model_name, variant)
        return {
            "certificates": self._label(certificates, model_name, variant)[CERTIFICATE_COLUMNS],
            "measurements": self._label(measurements, model_name, variant)[MEASUREMENT_COLUMNS],
            "completions": completions[[*IDENTITY, *(c for c in completions.columns if c not in IDENTITY)]],
        }

    def _certify(self, model: LanguageModel, draws: int, *stream: str | int) -> Certificate:
        # The same draws for every model of a study: differences between models are then paired.
        rng: np.random.Generator = generator(0, *stream)
        return certify(self.language, model, draws, rng)

    def _label(self, table: pd.DataFrame, model: str, variant: str) -> pd.DataFrame:
        return table.assign(study=self.name, language=self.language.name, model=model, variant=variant)

    def _identity(self, cell: Cell) -> dict[str, Any]:
        """Whose checkpoint it is: a change in any of these makes it another model's."""
        return {
            "vocabulary": list(self.language.symbols),
            "model": self.study.models[cell.model].model_dump(mode="json"),
            "variant": cell.variant,
            "seeds": list(cell.seeds),
        }
