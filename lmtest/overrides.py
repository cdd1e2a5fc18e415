"""`--set key=value`: one dotted key of a study changed before it is read."""

from __future__ import annotations

from typing import Any

from lmtest.errors import UsageError
from lmtest.validation import parse_toml


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets a dotted key, as in `training.steps=200`; the value is read as TOML, or as text where it is none."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UsageError(f"cannot read --set {override!r}: write key=value, such as training.steps=200")
    try:
        tables = parse_toml(f"value = {text}", "")
    except UsageError:
        tables = {"value": text}
    value = tables.pop("value")
    if tables:
        raise UsageError(
            f"cannot read --set {override!r}: expected one key, found {', '.join(tables)} too; write a --set for each"
        )
    table: Any = data
    for i, part in enumerate(parts[:-1]):
        table = table[_index(table, part, override)] if isinstance(table, list) else table.setdefault(part, {})
        if not isinstance(table, dict | list):
            raise UsageError(f"cannot apply --set {override!r}: {'.'.join(parts[: i + 1])} is no table")
    if isinstance(table, list):
        table[_index(table, parts[-1], override)] = value
    else:
        table[parts[-1]] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(items):
        raise UsageError(f"cannot apply --set {override!r}: expected a number below {len(items)}, found {part!r}")
    return int(part)
