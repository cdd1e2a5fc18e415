"""The trained models of a run directory, all seeds in one stack: to be evaluated on something else, or exported."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmtest.adapters.given import Given
from lmtest.cells import Cell, stacks
from lmtest.errors import UsageError, nearest
from lmtest.languages.base import Language
from lmtest.models.stack import StackedModel, copy_in
from lmtest.models.transformer import Transformer
from lmtest.training.checkpoint import load
from lmtest.variants.preserve.tables import Preserving
from lmtest.variants.registry import Exchange
from lmtest.workshop import Workshop


def trained_model(
    directory: Path,
    language: Language | None = None,
    *,
    model: str | None = None,
    variant: str | None = None,
    device: str = "cpu",
) -> Given:
    """The models of a run directory that were trained on `language` (or on its only one), all seeds of one model and variant.

    `model` and `variant` need no name where the run has only one. A function-preserving variant is made again from its parent.
    Raises UsageError: a damaged directory, a name that the run does not have, training that is not finished, another language's
    symbols, and the variants that are changes of laws, not models.
    """
    workshop = _open(directory, device)
    name = _trained_on(workshop, language, directory)
    study = workshop.study
    model = _choose("model", "--model-name", model, study.models, directory)
    variant = _choose("variant", "--variant", variant, study.variants_of(model), directory)
    derivation = study.derived.get(variant)
    if isinstance(derivation, Exchange):
        raise UsageError(
            f"{directory}: the variant {variant!r} exchanges next symbols of its parent's laws, and is no model of its own; its "
            "certificate and measurements are in the run's tables"
        )
    made = isinstance(derivation, Preserving)
    cells = [
        Cell(name, model, study.parent(variant) if made else variant, stack) for stack in stacks(study, name, model)
    ]
    stacked = _join(workshop, cells, directory)
    if isinstance(derivation, Preserving):
        assert isinstance(stacked, Transformer)
        stacked = derivation.apply(stacked)
    config = derivation.config_of(study.models[model]) if isinstance(derivation, Preserving) else study.models[model]
    return Given(f"{model}.{variant}", stacked, config.check, f"{model}, {variant}, trained on {name}")


def _open(directory: Path, device: str) -> Workshop:
    path = directory / "resolved.json"
    if not os.path.lexists(path):
        raise UsageError(f"{directory} is no run directory (no resolved.json); `lmtest run FILE --out DIR` makes one")
    return Workshop.load(directory, device)


def _trained_on(workshop: Workshop, language: Language | None, directory: Path) -> str:
    """Whose models to take: those of the language of that name, or of the run's only one, if its symbols are the same."""
    known = workshop.languages
    if language is None or (language.name not in known and len(known) == 1):
        name = _choose("language", "--language", None, known, directory)
    else:
        name = _choose("language", "--language", language.name, known, directory)
    if language is not None and language.symbols != known[name].symbols:
        raise UsageError(
            f"{directory}: its models read the symbols {' '.join(known[name].symbols)} of {name}, found "
            f"{' '.join(language.symbols)} in {language.name}: choose a language of the same symbols in the same order"
        )
    return name


def _choose(what: str, option: str, given: str | None, names: Iterable[str], directory: Path) -> str:
    known = list(names)
    if not known:
        raise UsageError(f"{directory} is damaged: its resolved.json has no {what}s")
    if given is None and len(known) > 1:
        raise UsageError(f"{directory} has several {what}s: choose one with {option} ({', '.join(known)})")
    if given is not None and given not in known:
        raise UsageError(f"{directory}: unknown {what} {given!r}; {nearest(given, known)}")
    return known[0] if given is None else given


def _join(workshop: Workshop, cells: Sequence[Cell], directory: Path) -> StackedModel:
    """One stack of all the seeds of cells that differ in nothing else."""
    seeds = [seed for cell in cells for seed in cell.seeds]
    language = workshop.languages[cells[0].language]
    model = workshop.study.models[cells[0].model].build(language.vocabulary, seeds, workshop.device)
    first = 0
    for cell in cells:
        path = cell.checkpoint(workshop.directory)
        unfinished = f"{directory}: the training of {cell.name} is not finished; lmtest run … --resume finishes it"
        if not path.is_file():
            raise UsageError(unfinished)
        progress, parameters, _ = load(path, workshop.identity(cell))
        if not progress.finished:
            raise UsageError(unfinished)
        rows = slice(first, first := first + len(cell.seeds))
        copy_in(
            {name: value.detach()[rows] for name, value in model.parameters.items()},
            parameters,
            f"the checkpoint {path}",
        )
    return model
