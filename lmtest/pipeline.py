"""The pipeline as a table of contents: language → model → training → variants → certificate → evaluators → claims → report."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from lmtest import atomic, directory, limits
from lmtest.cells import Cell, cells
from lmtest.claims import compare_published, judge
from lmtest.directory import Run
from lmtest.errors import Interrupted, UsageError
from lmtest.pool import run_cells
from lmtest.published import published_rows
from lmtest.report import write_report
from lmtest.study import load_study
from lmtest.threads import one_thread
from lmtest.validation import read_json
from lmtest.workshop import Workshop


class Display(Protocol):
    """What a run tells while it works."""

    def start(self, workshop: Workshop, all_cells: Sequence[Cell], waiting: Sequence[Cell], jobs: int) -> None: ...
    def step(self, cell: Cell, step: int, excess: float) -> None: ...
    def done(self, cell: Cell) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """Tells nothing."""

    def start(self, workshop: Workshop, all_cells: Sequence[Cell], waiting: Sequence[Cell], jobs: int) -> None: ...
    def step(self, cell: Cell, step: int, excess: float) -> None: ...
    def done(self, cell: Cell) -> None: ...
    def stop(self) -> None: ...


def run_study(
    file: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: str | int | Sequence[int] | None = None,
    jobs: int | None = None,
    device: str = "auto",
    resume: bool = False,
    display: Display | None = None,
) -> Run:
    """Runs a study file to its report; the same as `lmtest run`.

    `overrides` are `key=value` as on the command line; `jobs` defaults to the number of cores (1 on a GPU). Raises
    UsageError on a wrong file or folder, Interrupted when stopped by a signal (everything saved), LmtestError else.
    """
    started = time.monotonic()
    path, shown = Path(file), display or Silent()
    study, languages = load_study(path, overrides, seeds)
    chosen = pick_device(device)
    n_jobs = pick_jobs(jobs, chosen)
    where = Path(out) if out is not None else directory.default_directory(path.stem, study)

    everything = cells(study, languages)
    with limits.within(f"computing what is exact about the languages of {path}"):
        resolved = directory.resolve(path.stem, study, languages)
    directory.open_directory(where, resolved, path.read_text("utf-8"), resume)
    environment = _environment(where, chosen, n_jobs)
    log = directory.Log(where)
    workshop = Workshop(path.stem, study, languages, where, chosen)
    waiting = [cell for cell in everything if not cell.done(where)]
    log("start", cells=len(everything), waiting=len(waiting), jobs=n_jobs, device=chosen)

    def done(cell: Cell) -> None:
        log("cell", cell=cell.name, seconds=round(time.monotonic() - started, 1))
        shown.done(cell)

    shown.start(workshop, everything, waiting, n_jobs)
    try:
        for wave in _waves(workshop, waiting):
            run_cells(workshop, wave, n_jobs, shown.step, done)
        tables = collect(workshop, everything)
        tables["verdicts"] = judge(
            study.claims,
            tables["measurements"],
            tables["certificates"],
            tables["completions"],
            len(study.seed_list),
            study.saturation.required,
        )
        theirs = published_rows(study.published_cells(languages, path.parent), study.saturation)
        tables["published"] = compare_published(theirs, tables["measurements"], tables["certificates"])
        for name, table in tables.items():
            atomic.write_parquet(where / f"{name}.parquet", table)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a full disk the first error is the one to tell
            log("interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed", error=str(error))
        raise
    finally:
        shown.stop()
        environment["seconds"] = round(environment["seconds"] + time.monotonic() - started, 1)
        atomic.write_json(where / "env.json", environment)
    write_report(where)
    log("finished", seconds=environment["seconds"])
    return Run(where)


def collect(workshop: Workshop, everything: Sequence[Cell]) -> dict[str, pd.DataFrame]:
    """The tables of all cells and of the reference models, in the order of the study."""
    with one_thread():
        references = workshop.references()
    tables = {}
    for name in ("certificates", "measurements", "trajectory", "completions"):
        parts = [directory.cell_table(workshop.directory, cell, name) for cell in everything]
        tables[name] = pd.concat(parts + ([references[name]] if name in references else []), ignore_index=True)
    return tables


def _waves(workshop: Workshop, waiting: Sequence[Cell]) -> list[list[Cell]]:
    """What is trained from scratch, then what is derived from it; in each the longest first, so that processes end together."""
    variants = workshop.study.variants

    def work(cell: Cell) -> tuple[bool, int]:
        shows = cell.variant in variants and variants[cell.variant].objective != "maximum_likelihood"
        return not shows, -workshop.steps(cell)

    trained = [cell for cell in waiting if cell.variant in variants]
    derived = [cell for cell in waiting if cell.variant not in variants]
    return [sorted(wave, key=work) for wave in (trained, derived) if wave]


def pick_device(device: str) -> str:
    """ "auto" → cuda where there is one; UsageError where cuda is asked for and missing."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available to torch here: leave --device out, or give --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def pick_jobs(jobs: int | None, device: str) -> int:
    """One process a core on the CPU, one on a GPU; UsageError below 1."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"expected --jobs of at least 1, found {jobs}")
    return jobs or (
        1
        if device == "cuda"
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


def _environment(where: Path, device: str, jobs: int) -> dict[str, Any]:
    """env.json as of now; the seconds that a resumed run has taken before are carried on."""
    environment = directory.environment(device, jobs, sys.argv)
    path = where / "env.json"
    if path.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged record of the past stops nobody
            environment["seconds"] = float(read_json(path)["seconds"])
    atomic.write_json(path, environment)
    return environment
