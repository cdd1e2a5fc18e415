"""The command line: verbs, no logic. Exit codes: 0 fine, 1 failed, 2 wrong usage or file, 130 interrupted, 3 refuted, 4 undecided."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from lmtest import __version__
from lmtest.errors import Interrupted, LmtestError, UsageError

if TYPE_CHECKING:
    from lmtest.languages import Language

app = typer.Typer(
    name="lmtest",
    help="What the loss does not decide: language models on languages whose distribution is known exactly.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
CommandLineError: Any = typer.BadParameter.__base__
"""Unknown options, missing arguments and the like; typer brings a click of its own, so it is taken from typer."""

console = Console(stderr=True)
output = Console()

LanguageArgument = Annotated[
    str, typer.Argument(help="A shipped language (see `lmtest languages`) or a language file.")
]
Directory = Annotated[Path, typer.Argument(help="A run directory, such as runs/out/NAME-….", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A study file, such as runs/rule_extrapolation.toml.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/out/NAME-HASH.")] = None,
    set_: Annotated[
        list[str],
        typer.Option("--set", help="Override a key, such as training.steps=200. Repeatable.", metavar="KEY=VALUE"),
    ] = [],  # noqa: B006
    seeds: Annotated[str | None, typer.Option(help="Seeds, inclusive: 0-7, or 0,2,5.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes, one thread each. Default: one a core.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where a run stopped; what is done is not redone.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show cells, cost and whether the seeds can support each claim; run nothing."),
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Run a study: train, certify, evaluate, judge its claims, write the report.

    Ctrl-C saves and stops; the same command with --resume goes on. Verdicts do not change the exit code: see `lmtest claims`.
    """
    from lmtest import pipeline
    from lmtest.display import Bars

    if dry_run:
        _show_dry_run(file, set_, seeds, jobs, device, as_json)
        return
    display = pipeline.Silent() if quiet else Bars(console)
    done = pipeline.run_study(
        file, out=out, overrides=set_, seeds=seeds, jobs=jobs, device=device, resume=resume, display=display
    )
    if as_json:
        _print_json({"directory": str(done.directory), "verdicts": _records(done.verdicts)})
    elif not quiet:
        _show_verdicts(done.verdicts)
        output.print(f"report: {done.directory / 'report.html'}")


@app.command()
def languages(as_json: Json = False) -> None:
    """List the shipped languages."""
    from lmtest.languages import shipped_languages

    rows: list[dict[str, Any]] = []
    for name in shipped_languages():
        language = _load(name)
        entropy = language.exact_entropy()
        rows.append(
            {
                "name": name,
                "title": language.title,
                "symbols": " ".join(language.symbols),
                "mean_length": language.mean_length(),
                "entropy": entropy,
                "rules": list(language.rules),
            }
        )
    if as_json:
        _print_json(rows)
        return
    _print_table(
        ["name", "title", "symbols", "mean length", "entropy (nats)", "rules"],
        [
            [
                r["name"],
                r["title"],
                _shorten(r["symbols"]),
                f"{r['mean_length']:.4g}",
                "sampled" if r["entropy"] is None else f"{r['entropy']:.4f}",
                " ".join(r["rules"]),
            ]
            for r in rows
        ],
    )


@app.command()
def describe(
    language: LanguageArgument,
    length: Annotated[int, typer.Option(help="Length of the prompts to split into ID and OOD.")] = 8,
    draws: Annotated[int, typer.Option(help="Strings drawn where the entropy has no closed form.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Describe a language: symbols, law, floor of the loss, rules, prompts in and out of distribution."""
    from lmtest.describe import describe as facts_of

    facts = facts_of(_load(language), length, draws)
    if as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
        output.print(f"[bold]{key.replace('_', ' ')}[/bold]  ", end="")
        output.print(str(text), markup=False, highlight=False, soft_wrap=True)


@app.command()
def sample(
    language: LanguageArgument,
    number: Annotated[int, typer.Option("--number", "-n", help="How many strings.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed draws the same strings.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw strings from a language's exact law, each with its log-probability (nats)."""
    loaded = _load(language)
    strings = loaded.sample(number, seed)
    log_probs = loaded.log_prob(strings).tolist() if strings else []
    texts = [loaded.vocabulary.text(string) for string in strings]
    if as_json:
        _print_json([{"string": t, "log_prob": p} for t, p in zip(texts, log_probs, strict=True)])
    else:
        for text, log_prob in zip(texts, log_probs, strict=True):
            typer.echo(f"{log_prob:10.4f}  {text}")


@app.command()
def report(directory: Directory) -> None:
    """Draw the figures and write report.html of a finished run again."""
    from lmtest.report import write_report

    _check_directory(directory)
    typer.echo(str(write_report(directory)))


@app.command()
def claims(directory: Directory, as_json: Json = False) -> None:
    """Print a run's verdicts; exit code 3 where a claim is refuted, else 4 where one is undecided."""
    from lmtest.directory import Run

    _check_directory(directory)
    verdicts = Run(directory).verdicts
    if as_json:
        _print_json(_records(verdicts))
    else:
        _show_verdicts(verdicts)
    found = set(verdicts["verdict"])
    raise typer.Exit(3 if "refuted" in found else 4 if "undecided" in found else 0)


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")],
    right: Annotated[Path, typer.Argument(help="Another one.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Compare two runs: the difference of each measure with its 95 % interval over seeds."""
    from lmtest.claims import compare_runs
    from lmtest.directory import Run

    for directory in (left, right):
        _check_directory(directory)
    table = compare_runs(Run(left).measurements, Run(right).measurements)
    if as_json:
        _print_json(_records(table))
        return
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    _print_table(list(table.columns), rows)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The console script: every error a user can cause is one clear line and an exit code."""
    sys.exit(_run())


def _run() -> int:
    # Outside training there is nothing to save, but the exit code is the same as for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except Interrupted as error:
        return _say(f"{error}; --resume continues", 130)
    except (KeyboardInterrupt, typer.Abort):
        return _say("what a run had saved is whole, and --resume continues it", 130)
    except UsageError as error:
        return _say(str(error), 2)
    except CommandLineError as error:
        error.show()
        return 2
    except (LmtestError, OSError) as error:
        return _say(str(error), 1)
    if code == 130:  # how typer reports Ctrl-C
        return _say("what a run had saved is whole, and --resume continues it", 130)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    console.print(
        "interrupted:" if code == 130 else "error:", message, style="red", markup=False, highlight=False, soft_wrap=True
    )
    return code


def _load(language: str) -> Language:
    import torch

    from lmtest.languages import load_language

    torch.set_num_threads(1)  # charts are many small operations: a second thread only waits
    return load_language(language)


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(f"no run directory {str(directory)!r}; `lmtest run FILE --out DIR` makes one")


def _show_dry_run(
    file: Path, overrides: list[str], seeds: str | None, jobs: int | None, device: str, as_json: bool
) -> None:
    from lmtest import pipeline
    from lmtest.dryrun import dry_run
    from lmtest.study import load_study

    with console.status("reading the study") as status:
        study, languages = load_study(file, overrides, seeds)
        chosen = pipeline.pick_device(device)
        n_jobs = pipeline.pick_jobs(jobs, chosen)
        plan = dry_run(file.stem, study, languages, n_jobs, chosen, status.update)
    if as_json:
        _print_json({"cells": _records(plan.cells), "claims": _records(plan.claims), "seconds": plan.seconds})
        return
    for table in (plan.cells, plan.claims):
        _print_table(list(table.columns), [[_cell(value) for value in row] for row in table.itertuples(index=False)])
    untimed = int(plan.cells["training_seconds"].isna().sum())
    output.print(
        f"training: about {plan.seconds:.0f} s on {n_jobs} job(s), device {chosen}; probes and evaluation come on top"
        + (
            f"; {untimed} of {len(plan.cells)} cells are too large to be timed on a CPU and not counted"
            if untimed
            else ""
        )
    )


def _show_verdicts(verdicts: Any) -> None:
    if not len(verdicts):
        output.print("the study declares no claims")
        return
    rows = [
        [
            r.verdict,
            r.claim,
            f"{r.effect:.4g} [{r.lower:.4g}, {r.upper:.4g}]",
            f"{r.p_value:.3g}",
            f"{r.seeds_used}/{r.seeds_asked}",
            r.note,
        ]
        for r in verdicts.itertuples()
    ]
    _print_table(["verdict", "claim", "effect [95 %]", "p (Holm)", "seeds", "note"], rows)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    table = RichTable(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # names are there to be copied: never cut
    for row in rows:
        table.add_row(*row)
    Console(width=None if output.is_terminal else 200).print(table, markup=False, highlight=False)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _records(table: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return records


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
