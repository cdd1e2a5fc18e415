"""One self-contained page: tables in, HTML with its pictures inlined out."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from lmtest import atomic
from lmtest.report import architecture_figures, figures
from lmtest.report.marks import by_model, colours, draw
from lmtest.report.overview import columns, common, floors, overview, published_comparison, seeds_of, tally
from lmtest.report.prompts import prompt_table
from lmtest.report.rows import each_seed, every_measure, flat, label, main_table, published_table, shown_sets
from lmtest.report.tables import HEADLINE, RunTables, load, records
from lmtest.report.text import between, duration, num, percent

CAPTIONS = {
    "loss_against_rule_extrapolation": f"{HEADLINE} on all OOD prompts (greedy; an unfinished completion counts as "
    "broken) against the excess of the loss over the floor, along training: one thin line a seed, its end marked, "
    "hollow where the seed is not saturated; ticks on the left axis are published values, measured at other losses.",
    "rule_extrapolation_per_seed": f"{HEADLINE} on OOD prompts that no objective was shown (greedy): one point a seed "
    "with its 95 % interval over prompts, hollow where not saturated; the mean over seeds as a line, reference models "
    "dashed.",
    "prompts": "Greedy completions: one row a seed, one column a prompt, grouped by the rules that the prompt has "
    "already broken (joint: none of them alone, but together they can no longer hold).",
    "certificates": "Excess of the loss over the floor with its 95 % interval, one row a seed, hollow where not "
    "saturated; a margin of equivalence bounds the difference between two variants' means.",
    "rule_extrapolation_by_architecture": f"{HEADLINE} on OOD prompts that no objective was shown (greedy; an unfinished "
    "completion counts as broken): one dot a seed, hollow where not saturated; the mean over seeds as a bar and as the "
    "number on the right; vertical lines are the uniform law's exact level (dotted) and stop-at-once (dashed). Black "
    "ticks are published values with their spread (often of finished completions alone, and at other losses).",
    "loss_by_architecture": "Excess of the loss over the floor along training, both axes logarithmic: one thin line a "
    "seed, the mean over seeds thick; below ε lies saturation.",
    "string_mass": "Probability that a model gives to all short strings (EOS included, summed exactly), split by the rules "
    "that they keep, along training: means over seeds, both axes logarithmic; bars at the right edge are the language's "
    "own masses, and masses below the axis are drawn on it.",
}
SMALL = 110
"""Dots per inch of the pictures of one language among several: a page holds many of them."""


def write_report(directory: Path) -> Path:
    """Draws `figures/*.png` and writes `report.html` from the tables of a run directory; returns the page's path.

    Raises UsageError where a file is missing or unreadable, LmtestError on a full disk.
    """
    directory = Path(directory)
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
    pictures = draw(architecture_figures.FIGURES, run)
    if len(run.languages) == 1:
        return pictures | draw(figures.FIGURES, run)
    for name in run.languages:
        own = draw(figures.FIGURES, run.of(name), SMALL)
        pictures |= {f"{name}_{figure}": png for figure, png in own.items()}
    return pictures


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
        wide=len(run.languages) * len(run.models) > 1,
        languages=run.resolved["languages"],
        first=next(iter(run.resolved["languages"].values())),
        epsilon=common([float(language["epsilon"]) for language in run.resolved["languages"].values()]),
        variants=dict.fromkeys(run.variants) if by_model(run) else {key[1]: c for key, c in colours(run).items()},
        models=_models(run),
        seeds=seeds_of(run),
        claims=records(run.verdicts),
        headline=HEADLINE,
        columns=columns(run),
        groups=overview(run),
        floors=floors(run),
        study_figures=_figures(dict.fromkeys(architecture_figures.FIGURES), "", pictures),
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
        colour = next((c for key, c in colours(run).items() if key[0] == name), None) if by_model(run) else None
        found.append({"name": name, "parameters": text, "colour": colour})
    return found


def _section(view: RunTables, name: str, pictures: dict[str, bytes | None]) -> dict[str, Any]:
    """What the page says of one language; `name` is empty where it is the only one."""
    return {
        "name": name,
        "language": view.language,
        "heldout": view.heldout,
        "probed": not view.trajectory.empty,
        "figures": _figures(dict.fromkeys(figures.FIGURES), name, pictures),
        "sets": shown_sets(view),
        "main": main_table(view),
        "every": every_measure(view),
        "each": each_seed(view),
        "prompts": prompt_table(view),
        "keys": [{"name": label(view, key), "colour": colours(view)[key]} for key in view.trained],
    }


def _figures(names: dict[str, Any], language: str, pictures: dict[str, bytes | None]) -> list[dict[str, Any]]:
    found = []
    for name in names:
        png = pictures[f"{language}_{name}" if language else name]
        encoded = png and base64.b64encode(png).decode()
        found.append({"name": f"{language}_{name}" if language else name, "caption": CAPTIONS[name], "data": encoded})
    return found
