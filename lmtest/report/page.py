"""One self-contained page: tables in, HTML with its pictures inlined out."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from lmtest import atomic
from lmtest.report import (
    architecture_figures,
    figures,
    fine_tuning_figures,
    in_context_figures,
    perturbation_figures,
    transfer_figures,
)
from lmtest.report.captions import CAPTIONS
from lmtest.report.fine_tuning_tables import fine_tuning_section
from lmtest.report.in_context_tables import in_context_section
from lmtest.report.lanes import of_tuning
from lmtest.report.marks import Draw, by_model, colours, draw, model_colours
from lmtest.report.overview import columns, common, floors, overview, published_comparison, seeds_of, tally
from lmtest.report.prompts import prompt_table
from lmtest.report.rows import each_seed, every_measure, flat, label, main_table, published_table, shown_sets
from lmtest.report.shapes import derived
from lmtest.report.tables import HEADLINE, IN_CONTEXT, PERTURBATION, RunTables, load, records
from lmtest.report.text import between, duration, num, percent

SMALL = 110
"""Dots per inch of the pictures of one language among several: a page holds many of them."""


def write_report(directory: Path) -> Path:
    """Draws `figures/*.png` and writes `report.html` from the tables of a run directory; returns the page's path.

    Raises UsageError where a file is missing or unreadable, LmtestError on a full disk.
    """
    directory = Path(directory)
    atomic.check_folder(directory / "figures")
    run = load(directory)
    pictures = draw_all(run)
    for name, png in pictures.items():
        path = directory / "figures" / f"{name}.png"
        if png is None:
            path.unlink(missing_ok=True)  # a picture of other tables would be worse than none
        else:
            atomic.write_bytes(path, png)
    atomic.write_text(directory / "report.html", render(run, pictures))
    return directory / "report.html"


def draw_all(run: RunTables) -> dict[str, bytes | None]:
    """Name → PNG: the pictures of the study, then those of each language, under its name where there are several."""
    pictures = draw(_of_architectures(run), run)
    if len(run.languages) == 1:
        return pictures | draw(_pictures_of(run), run)
    for name in run.languages:
        view = run.of(name)
        own = draw(_pictures_of(view), view, SMALL)
        pictures |= {f"{name}_{figure}": png for figure, png in own.items()}
    return pictures


def _pictures_of(view: RunTables) -> dict[str, Draw]:
    """The pictures that one language may have: of rules, of in-context learning, of fine-tuning, or several of these."""
    return _own(view) | _context_pictures(view) | _tuning_pictures(view)


def _of_architectures(run: RunTables) -> dict[str, Draw]:
    return {} if of_tuning(run) else architecture_figures.FIGURES


def _own(view: RunTables) -> dict[str, Draw]:
    """Where models are fine-tuned, most are one function, and no picture of rules could tell them apart."""
    if of_tuning(view):
        return {"certificates": fine_tuning_figures.certificates}
    return figures.FIGURES if view.of_rules else {"certificates": figures.certificates}


def _context_pictures(view: RunTables) -> dict[str, Draw]:
    learning = in_context_figures.FIGURES if view.has(IN_CONTEXT) else {}
    return learning | (perturbation_figures.FIGURES if view.has(PERTURBATION) and derived(view) else {})


def _tuning_pictures(view: RunTables) -> dict[str, Draw]:
    return fine_tuning_figures.FIGURES | transfer_figures.FIGURES if of_tuning(view) else {}


def render(run: RunTables, pictures: dict[str, bytes | None]) -> str:
    """The page as HTML; all data are escaped, nothing is loaded from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lmtest.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(num=num, seconds=duration, percent=percent)
    environment.globals.update(between=between)
    views = {name: run.of(name) for name in run.languages} if len(run.languages) > 1 else {"": run}
    compared = len(run.published) > 0
    return environment.get_template("template.html.j2").render(
        run=run,
        resolved=run.resolved,
        one=len(run.languages) == 1,
        wide=not of_tuning(run)
        and len(run.languages) * len(run.models) > 1
        and any(view.of_rules for view in views.values()),
        of_rules=any(view.of_rules for view in views.values()),
        of_contexts=any(_context_pictures(view) for view in views.values()),
        of_tuning=of_tuning(run),
        languages=run.resolved["languages"],
        first=next(iter(run.resolved["languages"].values())),
        epsilon=common([float(language["epsilon"]) for language in run.resolved["languages"].values()]),
        variants=dict.fromkeys(run.variants)
        if _models_coloured(run)
        else {key[1]: c for key, c in colours(run).items()},
        models=_models(run),
        seeds=seeds_of(run),
        claims=records(run.verdicts),
        headline=HEADLINE,
        columns=columns(run),
        groups=overview(run),
        floors=floors(run),
        study_figures=_figures(_of_architectures(run), "", pictures),
        compared=published_comparison(run) if compared else None,
        tally=tally(run),
        published=[] if compared else [row for view in views.values() for row in published_table(view)],
        sections=[_section(view, name, pictures) for name, view in views.items()],
        environment=flat(run.env),
    )


def _models(run: RunTables) -> list[dict[str, Any]]:
    """Models with their parameters, which the number of symbols decides, and their colour where models have one."""
    found = []
    for name in next(iter(run.resolved["languages"].values()))["models"]:
        sizes = [language["models"][name]["parameters"] for language in run.resolved["languages"].values()]
        text = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
        colour = model_colours(run).get(name) if _models_coloured(run) else None
        found.append({"name": name, "parameters": text, "colour": colour})
    return found


def _models_coloured(run: RunTables) -> bool:
    """Whether colours are the models': also where in-context learning alone is shown, in which they are."""
    return by_model(run) or not (run.of_rules or of_tuning(run))


def _section(view: RunTables, name: str, pictures: dict[str, bytes | None]) -> dict[str, Any]:
    """What the page says of one language; `name` is empty where it is the only one."""
    return {
        "name": name,
        "language": view.language,
        "heldout": view.heldout,
        "probed": not view.trajectory.empty,
        "of_rules": view.of_rules,
        "in_context": in_context_section(view) if _context_pictures(view) else None,
        "fine_tuning": fine_tuning_section(view) if of_tuning(view) else None,
        "figures": _figures(_own(view), name, pictures),
        "context_figures": _figures(_context_pictures(view), name, pictures),
        "tuning_figures": _figures(_tuning_pictures(view), name, pictures),
        "sets": shown_sets(view),
        "main": main_table(view),
        "every": every_measure(view),
        "each": each_seed(view),
        "prompts": prompt_table(view) if view.of_rules else [],
        "keys": [{"name": label(view, key), "colour": colours(view)[key]} for key in view.trained],
    }


def _figures(names: Iterable[str], language: str, pictures: dict[str, bytes | None]) -> list[dict[str, Any]]:
    found = []
    for name in names:
        png = pictures[f"{language}_{name}" if language else name]
        encoded = png and base64.b64encode(png).decode()
        full = f"{language}_{name}" if language else name
        found.append({"name": full, "stem": name, "caption": CAPTIONS[name], "data": encoded})
    return found
