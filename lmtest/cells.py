"""A cell: language × model × variant × stack of seeds. The unit of work, each step of which is done once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmtest import limits
from lmtest.study import Study

MOST_CELLS, LONGEST_NAME = 10_000, 200
"""File systems take names of 255 bytes, and a file that is being written has a longer one."""

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
    """All cells in the order of the tables: languages, models, variants, seeds. UsageError where they are too many, or cannot
    be files by their names."""
    found = [
        Cell(language, model, variant, stack)
        for language in languages
        for model in study.models
        for variant in study.variants_of(model)
        for stack in stacks(study, language, model)
    ]
    limits.check("cells (languages × models × variants × stacks)", len(found), MOST_CELLS, "make the study smaller")
    for cell in found:
        what = f"bytes in the name of a cell, {cell.name[:40]!r}…"
        limits.check(what, len(cell.name.encode()), LONGEST_NAME, "shorten names, or name seeds by ranges such as 0-7")
    return found


def stacks(study: Study, language: str, model: str) -> list[tuple[int, ...]]:
    """The seeds in stacks, which are cut by the study alone."""
    seeds, size = study.seed_list, study.training_of(language, model).stack
    return [tuple(seeds[i : i + size]) for i in range(0, len(seeds), size)]
