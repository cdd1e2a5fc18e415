"""The run directory: created once, written atomically, resumed only by the same study."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lmtest import __version__, atomic, columns
from lmtest.cells import Cell
from lmtest.errors import UsageError
from lmtest.languages import Language
from lmtest.study import Study, dump
from lmtest.validation import read_json

SCHEMA_VERSION = 2

COLUMNS = {
    "certificates": columns.CERTIFICATES,
    "measurements": columns.MEASUREMENTS,
    "trajectory": columns.TRAJECTORY,
    "completions": columns.COMPLETIONS,
    "verdicts": columns.VERDICTS,
    "published": columns.PUBLISHED,
}
AGAIN = "delete it, and --resume makes it again"


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and its tables."""

    directory: Path

    def table(self, name: str) -> pd.DataFrame:
        """One of certificates, measurements, trajectory, completions, verdicts, published."""
        path = self.directory / f"{name}.parquet"
        if not path.is_file():
            raise UsageError(
                f"{self.directory} has no {path.name}: it is no finished run; lmtest run … --resume finishes it"
            )
        return columns.read(path, COLUMNS[name], AGAIN)

    @property
    def certificates(self) -> pd.DataFrame:
        return self.table("certificates")

    @property
    def measurements(self) -> pd.DataFrame:
        return self.table("measurements")

    @property
    def trajectory(self) -> pd.DataFrame:
        return self.table("trajectory")

    @property
    def verdicts(self) -> pd.DataFrame:
        return self.table("verdicts")

    @property
    def published(self) -> pd.DataFrame:
        return self.table("published")


def default_directory(name: str, study: Study) -> Path:
    """runs/out/NAME-HASH: the same configuration finds its own folder again, so a bare --resume works."""
    digest = hashlib.sha256(json.dumps(dump(study), sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / "out" / f"{name}-{digest}"


def resolve(name: str, study: Study, languages: Mapping[str, Language]) -> dict[str, Any]:
    """What resolved.json holds: the study with all defaults, and everything about its languages that is computed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "title": study.title,
        "config": dump(study),
        "seeds": study.seed_list,
        "languages": {key: _resolve_language(study, language) for key, language in languages.items()},
        "published": [row.model_dump(exclude_none=True) for row in study.published],
    }


def _resolve_language(study: Study, language: Language) -> dict[str, Any]:
    tokens = language.mean_length() + 1
    # Long documents say more each.
    draws = int(min(10_000, max(200, 3e5 / tokens))) if math.isfinite(tokens) else 10_000
    return {
        "name": language.name,
        "title": language.title,
        "source": language.source,
        "symbols": list(language.symbols),
        "definition": language.definition,
        "rules": {key: rule.text for key, rule in language.rules.items()},
        "entropy": vars(language.entropy(draws=draws)),
        "mean_length": language.mean_length(),
        "epsilon": study.saturation.epsilon * (tokens if study.saturation.per == "token" else 1.0),
        "models": {
            key: model.model_dump(mode="json")
            | {"parameters": model.n_parameters(language.vocabulary)}
            | {"training": study.training_of(language.name, key).model_dump(mode="json")}
            for key, model in study.models.items()
        },
        "prompt_sets": {
            name: vars(size)
            for evaluator in study.evaluators.build(language)
            for name, size in evaluator.sizes().items()
        },
    }


def cell_table(directory: Path, cell: Cell, name: str) -> pd.DataFrame:
    """One table of a cell that is done; UsageError where it is damaged, or of another cell than its folder says."""
    path = cell.table(directory, name)
    table = columns.read(path, COLUMNS[name], AGAIN)
    named = {"language": [cell.language], "model": [cell.model], "variant": [cell.variant], "seed": cell.seeds}
    for column, expected in named.items():
        known = [str(value) for value in expected]
        if column in table and (others := set(table[column].astype(str)) - set(known)):
            raise UsageError(
                f"{path} is of another cell: expected the {column} {', '.join(known)}, found {min(others)}; {AGAIN}"
            )
    return table


def check_folders(directory: Path) -> None:
    """UsageError where a folder of a run directory, or its log, is a link: what is written there would land elsewhere."""
    cells = directory / "cells"
    for folder in (cells, directory / "checkpoints", directory / "figures"):
        atomic.check_folder(folder)
    for cell in cells.iterdir() if cells.is_dir() else ():
        atomic.check_folder(cell)
    atomic.check_plain(directory / "log.jsonl")


def open_directory(directory: Path, resolved: dict[str, Any], config_text: str, resume: bool) -> None:
    """Makes the run directory, or checks that the one to resume belongs to the same study.

    Raises UsageError where it exists without --resume, and where configuration or language have changed.
    """
    path = directory / "resolved.json"
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: name a folder with --out")
    check_folders(directory)
    # A run that was killed at its very beginning leaves no more than these; nothing is lost by starting afresh.
    begun = directory.is_dir() and all(p.name == "config.toml" or p.suffix == ".tmp" for p in directory.iterdir())
    occupied = directory.is_dir() and any(directory.iterdir()) and not (begun and resume)
    if occupied and not resume:
        raise UsageError(f"the output folder {directory} exists: --resume continues it, or name another with --out")
    if occupied and os.path.lexists(path):
        try:
            found = read_json(path)
        except UsageError as error:
            raise UsageError(f"{error}: restore it, or start afresh with another --out") from None
        changed = _differences(found, json.loads(json.dumps(resolved)))
        if changed:
            raise UsageError(
                f"cannot resume {directory}: {changed[0]}"
                + (f" (and {len(changed) - 1} more differences)" if len(changed) > 1 else "")
                + "; undo the change, or start afresh with another --out"
            )
        return
    if occupied:
        raise UsageError(
            f"{directory} is no run directory (it has files, but no resolved.json): name another with --out"
        )
    try:
        atomic.write_text(directory / "config.toml", config_text)
        atomic.write_json(path, resolved)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror}; name another folder with --out") from None


def _differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two plain data differ, in words."""
    if isinstance(found, dict) and isinstance(expected, dict):
        lines = []
        for key in sorted({*found, *expected}):
            lines += _differences(found.get(key), expected.get(key), f"{place}.{key}" if place else key)
        return lines
    if found == expected:
        return []
    place = place.removeprefix("config.")
    return [f"{place} was {_short(found)} and is now {_short(expected)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def environment(device: str, jobs: int, argv: Sequence[str]) -> dict[str, Any]:
    """What env.json holds: versions, device, threads, git state, command line."""
    packages = ("torch", "numpy", "scipy", "pandas", "statsmodels", "nltk", "safetensors", "pyarrow")
    return {
        "lmtest": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "jobs": jobs,
        "threads_per_job": 1,
        "git": _git_state(),
        "command_line": list(argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": 0.0,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_state() -> dict[str, Any] | None:
    folder = Path(__file__).resolve().parent
    try:
        commit, status = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


class Log:
    """log.jsonl: one event a line, appended."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log.jsonl"

    def __call__(self, event: str, **fields: Any) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **fields}, ensure_ascii=False)
        atomic.check_plain(self.path)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
