"""Files that are either whole or not there: a temporary file in the same folder, fsync, then one rename."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtest.errors import LmtestError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_plain(path: Path) -> None:
    """UsageError where a link, a device or a pipe has the name: to replace it, or to write through it, would harm another."""
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UsageError(f"cannot write {path}: that is a link, a device or a pipe; name another place, or remove it")


def check_folder(path: Path) -> None:
    """UsageError where a folder that is written into is there, but a link, or no folder."""
    check_plain(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"cannot write into {path}: expected a folder, found a file; remove it")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` whole or not at all; missing parent folders are made.

    Raises LmtestError on a full disk (or quota) and where a folder has the name, UsageError where a link, a device or a pipe has
    it, OSError otherwise; the old file, if any, is then still there.
    """
    if not path.name:
        raise LmtestError(f"cannot write to {str(path)!r}: it is no name of a file; name one")
    check_plain(path)
    # A name of its own for every call, so that two processes that write the same file cannot mix their halves.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # an interrupt, too, must leave nothing behind
        # Removing may fail where the folder itself is the trouble; the first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise LmtestError(
                f"could not write {path}: the disk is full ({len(data):,} bytes wanted); what was written before is "
                "intact: free some space, then try again (a run continues with --resume)"
            ) from error
        if isinstance(error, IsADirectoryError):
            raise LmtestError(f"could not write {path}: a folder has that name; move it away") from None
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from None  # not the temporary file's name
        raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all (see `write_bytes`)."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON in the order given, whole or not at all; NaN and inf as Python reads them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Writes the columns of `frame` (not its index) as parquet, whole or not at all (see `write_bytes`)."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())
