"""Where a test's numbers come from: a finished run directory, or a study that is run once for all tests that need it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtest import __version__
from lmtest.errors import Interrupted, UsageError, nearest

if TYPE_CHECKING:
    from lmtest.directory import Run
    from lmtest.languages import Language
    from lmtest.study import Study

NO_CLAIMS = "claims=[]"
"""Claims are the tests'; runs of a study that differ in them alone are one run."""


@dataclass(frozen=True)
class Source:
    """A study file with its seeds and overrides, or a run directory."""

    path: Path
    seeds: str | None = None
    overrides: tuple[str, ...] = ()
    finished: bool = False
    """Whether `path` is a run directory."""

    def read(self) -> tuple[Study, dict[str, Language]]:
        """The study with its claims, and its languages. UsageError where they cannot be read."""
        from lmtest.study import load_study
        from lmtest.workshop import Workshop

        if not self.finished:
            if not self.path.is_file():
                raise UsageError(f"no study file {self.path}: name one relative to the root of the tests")
            return load_study(self.path, self.overrides, self.seeds)
        if not (self.path / "resolved.json").is_file():
            raise UsageError(f"{self.path} is no run directory; `lmtest run FILE --out DIR` makes one")
        workshop = Workshop.load(self.path, "cpu")
        return workshop.study, workshop.languages

    def run(self, folder: Path, jobs: int | None, tell: Callable[[str], None]) -> Run:
        """The finished run; a study is run in `folder` where that has not been done, by one process at a time."""
        from lmtest.directory import Run
        from lmtest.pipeline import run_study
        from lmtest.study import dump, load_study

        if self.finished:
            return Run(self.path)
        study, languages = load_study(self.path, [*self.overrides, NO_CLAIMS], self.seeds)
        definitions = {name: language.definition for name, language in languages.items()}
        text = json.dumps([dump(study), definitions, __version__], sort_keys=True)
        where = folder / f"{self.path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{where.name}.lock"):
            if not (where / "report.html").is_file():  # what a run writes last
                tell(f"lmtest: running {self.path.name}, seeds {study.seeds}, in {where}")
                overrides = [*self.overrides, NO_CLAIMS]
                try:
                    run_study(self.path, out=where, overrides=overrides, seeds=self.seeds, jobs=jobs, resume=True)
                except Interrupted as error:  # everything is saved; the other tests are not to go on with it
                    raise KeyboardInterrupt(str(error)) from None
                tell(f"lmtest: {self.path.name} is done")
        return Run(where)


OPTIONS = ("study", "directory", "seeds", "set")


def source_of(root: Path, what: str, given: Mapping[str, Any]) -> Source:
    """A study file or a run directory, relative to `root`, from the arguments of a mark or a fixture (`what`).

    UsageError where there are others, where it is both or neither, and where a value is of another kind.
    """
    if unknown := [key for key in given if key not in OPTIONS]:
        raise UsageError(f"{what}: unknown argument {unknown[0]!r}; {nearest(unknown[0], OPTIONS)}")
    study, directory, seeds, overrides = (given.get(key) for key in OPTIONS)
    if (study is None) == (directory is None):
        raise UsageError(f"{what}: expected a study file, or directory = … of a finished run: one of the two")
    if not isinstance(place := study if directory is None else directory, str | Path):
        raise UsageError(f"{what}: expected a path as text, found {place!r}")
    if directory is not None:
        if seeds is not None or overrides:
            raise UsageError(f"{what}: a finished run has its seeds and settings: leave seeds and set out")
        return Source(root / directory, finished=True)
    if isinstance(seeds, list | tuple | range) and seeds:
        seeds = ",".join(map(str, seeds))
    if not isinstance(seeds, str | None):
        raise UsageError(f'{what}: expected seeds = "0-7", or a list of them, found {seeds!r}')
    listed = () if overrides is None else overrides
    if not isinstance(listed, list | tuple) or not all(isinstance(override, str) for override in listed):
        raise UsageError(f'{what}: expected set = ["key=value", …], found {overrides!r}: put texts into a list')
    return Source(root / place, seeds, tuple(listed))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the system releases it when a process dies, so no lock is ever left behind."""
    with open(path, "a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
