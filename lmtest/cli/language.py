"""Verbs about a language: what there is, what it is, what it says."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmtest import limits
from lmtest.cli.app import Json, app, console, output, print_json, print_table
from lmtest.errors import LmtestError
from lmtest.terminal import plain

if TYPE_CHECKING:
    from lmtest.languages import Language

LanguageArgument = Annotated[
    str, typer.Argument(help="A shipped language (see `lmtest languages`) or a language file.")
]


@app.command()
def languages(as_json: Json = False) -> None:
    """List the shipped languages."""
    from lmtest.languages import shipped_languages

    rows: list[dict[str, Any]] = []
    for name in shipped_languages():
        language = load(name)
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
        print_json(rows)
        return
    print_table(
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
    draws: Annotated[int, typer.Option(help="Strings drawn where nothing exact will do.")] = 10_000,
    picture: Annotated[Path | None, typer.Option(help="Draw the law of the length as a PNG.", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Describe a language: its class, law, floor of the loss, likeliest strings, rules, prompts in and out of distribution."""
    from lmtest.describe import facts as facts_of

    loaded = load(language)
    facts: dict[str, Any] = {}
    with console.status(plain(f"describing {loaded.name}")) if console.is_terminal else nullcontext():
        for name, fact in facts_of(loaded, length, draws):
            facts[name] = fact
            if not as_json:
                output.print(f"[bold]{name.replace('_', ' ')}[/bold]  ", end="", markup=True)
                # The picture of the law of lengths is shown, and --json has the law.
                shown = {k: v for k, v in fact.items() if k != "law"} if isinstance(fact, dict) else fact
                output.print(_told(shown), highlight=False, soft_wrap=True)
    if as_json:
        print_json(facts)
    if picture is not None:
        from lmtest import atomic
        from lmtest.report.lengths import length_picture

        if isinstance(facts["length"], str):
            raise LmtestError(f"no picture of the lengths, with --draws {draws}: {facts['length']}")
        atomic.write_bytes(picture, length_picture(loaded.title, facts["length"]))


@app.command()
def sample(
    language: LanguageArgument,
    number: Annotated[int, typer.Option("--number", "-n", help="How many strings.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed draws the same strings.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw strings from a language's exact law, each with its log-probability (nats)."""
    loaded = load(language)
    with limits.within(f"drawing {number} strings of {loaded.name}"):
        strings = loaded.sample(number, seed)
        log_probs = loaded.log_prob(strings).tolist() if strings else []
    texts = [loaded.vocabulary.text(string) for string in strings]
    if as_json:
        print_json([{"string": t, "log_prob": p} for t, p in zip(texts, log_probs, strict=True)])
    else:
        for text, log_prob in zip(texts, log_probs, strict=True):
            typer.echo(f"{log_prob:10.4f}  {plain(text)}")


def load(language: str) -> Language:
    """A shipped name or a path → the language."""
    import torch

    from lmtest.languages import load_language

    torch.set_num_threads(1)  # charts are many small operations: a second thread only waits
    with limits.within(f"reading {language}"):
        return load_language(language)


def _told(value: Any, indent: str = "  ") -> str:
    """A fact as text; what has parts, a line each."""
    if isinstance(value, dict):
        return "".join(f"\n{indent}{name}: {_told(part, indent + '  ')}" for name, part in value.items())
    if isinstance(value, list):
        return (
            ", ".join(map(_told, value))
            if not any(isinstance(part, dict) for part in value)
            else _told(dict(enumerate(value, 1)), indent)
        )
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
