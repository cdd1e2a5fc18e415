"""From a TOML table to a checked pydantic model, with errors that a user can act on."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lmtest import limits
from lmtest.errors import UsageError, nearest


class Table(BaseModel):
    """A table of a TOML file: unknown keys are errors, values are not coerced, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; UsageError where it is missing, too large or no TOML."""
    try:
        # Devices and pipes have no size, and may have no end.
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {path}: expected a file")
        limits.check(f"bytes in {path}", path.stat().st_size, limits.MOST_BYTES, "make it smaller")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a TOML file: {error}") from None
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of TOML text; UsageError, with `where` in front, where it is none."""
    try:
        tables = tomllib.loads(text)
    except ValueError as error:  # beside TOMLDecodeError, numbers of too many digits and dates that are none
        raise UsageError(f"{where} is not a TOML file: {error}") from None
    except RecursionError:
        raise UsageError(
            f"{where} is not a TOML file that can be read: its tables or lists are nested too deeply"
        ) from None
    _check_plain(tables, where)
    return tables


DEEPEST, LARGEST = 100, 2**63


def _check_plain(tables: Any, where: str) -> None:
    """Raises UsageError on what Python itself cannot print: tables in tables without end, numbers of thousands of digits."""
    waiting = [(tables, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise UsageError(
                f"{where}: expected tables and lists nested at most {DEEPEST} deep, found more; flatten them"
            )
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UsageError(
                f"{where}: expected whole numbers between -2^63 and 2^63, found one of {value.bit_length()} bits"
            )
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(part, depth + 1) for part in inner]


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; UsageError where it is missing, no file, damaged, or holds something else."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {path}: expected a file, found a folder, a device or a pipe")
        value = json.loads(path.read_bytes().decode("utf-8"))
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half of a surrogate pair is no text that could be written again
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error})") from None
    if not isinstance(value, dict):
        raise UsageError(f"expected an object in {path}, found a {type(value).__name__}")
    return value


def validate(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """`data` as a `model`; UsageError with one line for each thing that is wrong, and the nearest known key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(model, data, dict(problem)) for problem in error.errors()]
        raise UsageError(f"{where}: " + "; ".join(lines)) from None


def _line(model: type[BaseModel], data: Any, problem: dict[str, Any]) -> str:
    place = _written(problem["loc"], data, problem["type"] == "missing")
    path = ".".join(map(str, place))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}; {nearest(str(place[-1]), _known_keys(model, list(problem['loc'])[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing"
    if problem["type"].startswith("union_tag"):  # a table whose kind is missing, or unknown
        key = problem["ctx"]["discriminator"].strip("'")
        known = _kinds(model, list(problem["loc"]), key)
        if problem["type"] == "union_tag_not_found":
            return f"the key {f'{path}.{key}'!r} is missing (known: {', '.join(known)})"
        return f"unknown {key} {problem['ctx']['tag']!r} in {path!r}; {nearest(str(problem['ctx']['tag']), known)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path!r}: {message}, found {problem['input']!r}"


def _written(loc: tuple[Any, ...], data: Any, missing: bool) -> list[Any]:
    """The path as the user wrote it: a union puts its member's name in, which is no key of the data.

    A last part that is no key of the data either is one that the user should have written, or again a member's name.
    """
    place: list[Any] = []
    for i, part in enumerate(loc):
        last = i + 1 == len(loc)
        if isinstance(data, dict) and part not in data and not (last and missing):
            continue
        if not isinstance(data, dict | list):
            break
        place.append(part)
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
    return place


def _known_keys(model: type[BaseModel], loc: list[Any]) -> list[str]:
    """Field names of the table at `loc`."""
    return sorted({name for candidate in _tables(model, loc)[1] for name in candidate.model_fields})


def _kinds(model: type[BaseModel], loc: list[Any], key: str) -> list[str]:
    """What `key` may say in the tables at `loc`."""
    fields = [candidate.model_fields[key] for candidate in _tables(model, loc)[0] if key in candidate.model_fields]
    return [str(value) for field in fields for value in getattr(field.annotation, "__args__", ())]


def _tables(model: type[BaseModel], loc: list[Any]) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    """The tables that may stand at `loc`, and those of the union's tag that `loc` names (all where it names none).

    Walks through optional, list, dict and union annotations.
    """
    every = chosen = [model]
    for part in loc:
        following = [
            inner
            for candidate in chosen
            if (field := candidate.model_fields.get(str(part))) is not None
            for inner in _models(field.annotation)
        ]
        if following:
            every = chosen = following
        # A list index or a name chosen by the user leaves it at that; the name may be a tag's by chance, so the last wins.
        chosen = [candidate for candidate in every if part in _tags(candidate)] or chosen
    return every, chosen


def _tags(model: type[BaseModel]) -> list[Any]:
    """Values of the fields that can only have one: the tags by which unions tell their members apart."""
    arguments = (getattr(field.annotation, "__args__", ()) for field in model.model_fields.values())
    return [value for values in arguments if len(values) == 1 for value in values]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models(argument)
    return found
