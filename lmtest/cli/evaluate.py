"""Verbs about strangers' models: measure any model on any language, and give ours and our prompts to other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmtest import limits
from lmtest.cli.app import Json, app, cell, console, output, print_json, print_table, records
from lmtest.cli.language import LanguageArgument, load
from lmtest.terminal import plain

export = typer.Typer(no_args_is_help=True, help="Write models and prompts for other tools.")
app.add_typer(export, name="export")

DETAILS = ("_completion", "_finished")
"""Measures that would make a screen's table five times as long."""

Settings = Annotated[
    list[str],
    typer.Option(
        "--set", help="A key of the evaluator's table, such as prompt_length=6. Repeatable.", metavar="KEY=VALUE"
    ),
]
ModelName = Annotated[str | None, typer.Option(help="Which model of a run directory, where it has several.")]
Variant = Annotated[str | None, typer.Option(help="Which variant of a run directory, where it has several.")]


@app.command()
def evaluate(
    language: Annotated[str, typer.Option(help="A shipped language (see `lmtest languages`) or a language file.")],
    model: Annotated[
        str,
        typer.Option(
            help="A run directory, a local folder of a Hugging Face causal model, or module:factory.",
            metavar="PATH|MODULE:FACTORY",
        ),
    ],
    evaluator: Annotated[
        str, typer.Option(help="rule_extrapolation, string_mass, in_context, flatness, fine_tuning.")
    ] = ("rule_extrapolation"),
    kind: Annotated[str | None, typer.Option(help="run, hf or python. Default: seen from --model.")] = None,
    model_name: ModelName = None,
    variant: Variant = None,
    set_: Settings = [],  # noqa: B006
    draws: Annotated[int, typer.Option(help="Fresh strings, where the certificate cannot be summed exactly.")] = 2000,
    epsilon: Annotated[float, typer.Option(help="Saturated: excess loss below it, nats per string.")] = 0.01,
    out: Annotated[Path | None, typer.Option(help="A new folder for the two tables, as parquet.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure any model on any language: its certificate (excess loss), and what one evaluator says of it.

    The model is read as it is, nothing is trained; `module:factory` runs your code, from the current folder or installed.
    """
    from lmtest.evaluate import check_new, load_model
    from lmtest.evaluate import evaluate as measure
    from lmtest.pipeline import pick_device

    if out is not None:
        check_new(out)
    loaded = load(language)
    given = load_model(
        model,
        loaded,
        kind=kind,  # type: ignore[arg-type] # what it may be is said there
        model_name=model_name,
        variant=variant,
        device=pick_device(device),
    )
    with console.status(plain(f"{given.name} on {loaded.name}")):
        found = measure(loaded, given, evaluator, set_, draws=draws, epsilon=epsilon)
    if out is not None:
        found.write(out)
    if as_json:
        tables = {"certificates": records(found.certificates), "measurements": records(found.measurements)}
        print_json({"model": given.name, "note": found.note, **tables})
        return
    output.print(f"{given.name} on {loaded.name}" + (f": {found.note}" if found.note else ""), soft_wrap=True)
    _show(found.certificates, found.measurements, epsilon)
    if out is not None:
        output.print(f"tables: {out}", soft_wrap=True)


@export.command("hf")
def hugging_face(
    directory: Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="FOLDER")],
    seed: Annotated[int, typer.Option(help="Which of the run's seeds.")] = 0,
    model_name: ModelName = None,
    variant: Variant = None,
    language: Annotated[str | None, typer.Option(help="Which language of the run, where it has several.")] = None,
) -> None:
    """Write a trained transformer as a Hugging Face folder: the same logits, with its tokenizer."""
    from lmtest.export.hugging_face import export_hugging_face
    from lmtest.trained import trained_model

    loaded = None if language is None else load(language)
    given = trained_model(directory, loaded, model=model_name, variant=variant)
    done = export_hugging_face(given.model, seed, out, f"{given.note}, seed {seed}")
    output.print(f"{done.folder}: {done.architecture}, logits within {done.difference:.1e} of ours", soft_wrap=True)


@export.command("lm-eval")
def lm_eval(
    language: LanguageArgument,
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="FOLDER")],
    evaluator: Annotated[str, typer.Option(help="Whose prompts: rule_extrapolation.")] = "rule_extrapolation",
    rule: Annotated[str, typer.Option(help="The rule that one of the two completions breaks.")] = "R1",
    start: Annotated[str, typer.Option(help="How the model's tokenizer writes the start of a string.")] = "<eos>",
    end: Annotated[str, typer.Option(help="How it writes the end of a string.")] = "<eos>",
    set_: Settings = [],  # noqa: B006
) -> None:
    """Write the prompts of an evaluator as a task of lm-evaluation-harness: which of two completions keeps a rule?"""
    from lmtest.evaluate import evaluator_of
    from lmtest.export.lm_eval import export_lm_eval

    loaded = load(language)
    with limits.within(f"exporting prompts of {loaded.name}"):
        done = export_lm_eval(loaded, evaluator_of(loaded, evaluator, set_), out, rule=rule, start=start, end=end)
    for task, count in done.tasks.items():
        output.print(f"{task}: {count} items", soft_wrap=True)
    output.print(f"{done.folder}: its README.md says how to run it; {done.left_out} prompts left out")


def _show(certificates: Any, measurements: Any, epsilon: float) -> None:
    print_table(
        ["seed", "excess loss, nats per string [95 %]", "per token", "exact", f"saturated (< {epsilon:g})"],
        [
            [
                str(r.seed),
                _interval(r.kl, r.kl_lower, r.kl_upper),
                cell(r.kl_per_token),
                _yes(r.exact),
                _yes(r.saturated),
            ]
            for r in certificates.itertuples()
        ],
    )
    several = len(certificates) > 1
    details = measurements["measure"].str.endswith(DETAILS)
    rows = []
    for key, part in measurements[~details].groupby(["measure", "prompt_set", "decoding"], sort=False):
        first, values = part.iloc[0], part["value"]
        ends = (values.min(), values.max()) if several else (first["lower"], first["upper"])
        mean = (values / values.count()).sum(min_count=1)  # the sum of what has diverged may be no number
        rows.append([*map(str, key), _interval(mean, *ends), str(int(first["count"])), cell(first["chance"])])
    spread = "mean of seeds [least, most]" if several else "value [95 % over prompts]"
    print_table(["measure", "prompt set", "decoding", spread, "count", "chance"], rows)
    if details.any():
        names = " and ".join(f"…{suffix}" for suffix in DETAILS)
        output.print(f"measures called {names} are in --json and --out", soft_wrap=True)


def _interval(value: float, lower: float, upper: float) -> str:
    return f"{value:.4g} [{lower:.4g}, {upper:.4g}]"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
