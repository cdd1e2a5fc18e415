"""The command line: verbs, no logic. Exit codes: 0 fine, 1 failed, 2 wrong usage or file, 130 interrupted, 3 refuted, 4 undecided."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer

from lmtest import __version__
from lmtest.cli import audit, evaluate, language, power, study  # noqa: F401 (each adds its verbs)
from lmtest.cli.app import app, console
from lmtest.errors import Interrupted, LmtestError, UsageError

CommandLineError: Any = typer.BadParameter.__base__
"""Unknown options, missing arguments and the like; typer brings a click of its own, so it is taken from typer."""


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
