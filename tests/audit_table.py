"""Hand-made tables for the audit."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, *rows: Mapping[str, str]) -> Path:
    """A CSV file of these rows, in the order of their columns; what a row lacks is empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
