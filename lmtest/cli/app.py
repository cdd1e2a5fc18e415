"""The application that every verb adds itself to, and what verbs share: arguments, tables, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from lmtest.errors import UsageError
from lmtest.terminal import plain

app = typer.Typer(
    name="lmtest",
    help="What the loss does not decide: language models on languages whose distribution is known exactly.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


class _Console(Console):
    """Names and titles are a stranger's: no markup but where it is asked for, no control characters."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(plain(o) if isinstance(o, str) else o for o in objects), **options)


console = _Console(stderr=True, emoji=False, markup=False)
output = _Console(emoji=False, markup=False)

Directory = Annotated[Path, typer.Argument(help="A run directory, such as runs/out/NAME-….", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(f"no run directory {str(directory)!r}; `lmtest run FILE --out DIR` makes one")


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    table = RichTable(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # names are there to be copied: never cut
    for row in rows:
        table.add_row(*map(plain, row))
    Console(width=None if output.is_terminal else 200, emoji=False).print(table, markup=False, highlight=False)


def cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def records(table: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return records


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
