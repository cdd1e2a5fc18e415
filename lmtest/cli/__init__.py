"""The command line: verbs, no logic. Exit codes: 0 fine, 1 failed, 2 wrong usage or file, 130 interrupted, 3 refuted, 4 undecided."""

from __future__ import annotations

import contextvars
import errno
import io
import logging
import math
import os
import re
import signal
import sys
import tempfile
import traceback
from typing import Annotated, Any

import typer

from lmtest import __version__, limits
from lmtest.cli import audit, evaluate, language, power, study  # noqa: F401 (each adds its verbs)
from lmtest.cli.app import app, console
from lmtest.errors import Interrupted, LmtestError, UsageError

CommandLineError: Any = typer.BadParameter.__base__
"""Unknown options, missing arguments and the like; typer brings a click of its own, so it is taken from typer."""


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            help="How long reading a study or a language, or one fact about it, may take, in seconds; inf: no limit. "
            "Stands before the verb. Training and evaluation have no limit.",
            metavar="SECONDS",
        ),
    ] = limits.SECONDS,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if not time_limit > 0:
        raise UsageError(f"expected a --time-limit above 0 s, found {time_limit:g}")
    limits.allowed_seconds.set(max(time_limit, 0.01) if time_limit < 1e8 else math.inf)


def main() -> None:
    """The console script: every error a user can cause is one clear line and an exit code."""
    sys.exit(_run())


def _run() -> int:
    return contextvars.copy_context().run(_command)  # a --time-limit is this command's alone


def _command() -> int:
    # Outside training there is nothing to save, but the exit code is the same as for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else nohup wants it ignored
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    os.environ["MPLBACKEND"] = "agg"  # pictures are files, and what the user has set may be no backend
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has an ε
    try:
        if odd := [word for word in sys.argv if not _is_text(word)]:
            raise UsageError(f"expected arguments and names in UTF-8, found {odd[0]!r}: rename what is called so")
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
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LmtestError as error:
        return _say(str(error), 1)
    except OSError as error:
        place = f"could not read or write {error.filename}" if error.filename else "could not read or write"
        # A name that no file can have is wrong usage; what fails with a file that could be there is a failure.
        code = 2 if error.errno == errno.ENAMETOOLONG else 1
        return _say(f"{place}: {error.strerror or error}; name another file or folder, or mend this one", code)
    except (Exception, limits.Overtime) as error:  # noqa: BLE001 (no traceback reaches a user; it is kept for whoever mends the fault)
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return _say("not enough memory: choose something smaller, or a machine that has more", 1)
        return _say(
            f"a fault of lmtest's own, {type(error).__name__}: {error}. Please report it with {_keep_traceback()}", 1
        )
    if code == 130:  # how typer reports Ctrl-C
        return _say("what a run had saved is whole, and --resume continues it", 130)
    return code if isinstance(code, int) else 0


LONGEST_MESSAGE = 2000
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory")
"""How torch says so."""


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 arrive as halves of surrogate pairs
        return False
    return True


def _keep_traceback() -> str:
    """Writes the traceback of the exception at hand to a file of its own; its path."""
    with tempfile.NamedTemporaryFile("w", prefix="lmtest-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return file.name


def _say(message: str, code: int) -> int:
    if len(message) > LONGEST_MESSAGE:  # it quotes what was found, which may be a whole file
        half = LONGEST_MESSAGE // 2
        message = f"{message[:half]} […] {message[-half:]}"
    console.print("interrupted:" if code == 130 else "error:", message, style="red", highlight=False, soft_wrap=True)
    return code
