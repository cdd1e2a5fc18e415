"""From a TOML table to a checked pydantic model, with errors that a user can act on."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lmtest.errors import UsageError, nearest


class Table(BaseModel):
    """A table of a TOML file: unknown keys are errors, values are not coerced, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; UsageError where it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}") from None


def validate(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """`data` as a `model`; UsageError with one line for each thing that is wrong, and the nearest known key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(model, data, dict(problem)) for problem in error.errors()]
        raise UsageError(f"{where}: " + "; ".join(lines)) from None


def _line(model: type[BaseModel], data: Any, problem: dict[str, Any]) -> str:
    place = [part for part in problem["loc"] if not _is_tag(part, data)]
    path = ".".join(map(str, place))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}; {nearest(str(place[-1]), _known_keys(model, data, place[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path!r}: {message}, found {problem['input']!r}"


def _is_tag(part: object, data: Any) -> bool:
    """Discriminated unions put the tag's value into the path; the user never wrote a key of that name."""
    del data
    return isinstance(part, str) and part.startswith(("function-", "tagged-union"))


def _known_keys(model: type[BaseModel], data: Any, place: list[Any]) -> list[str]:
    """Field names of the table at `place`, walking through optional, list, dict and union annotations."""
    candidates: list[type[BaseModel]] = [model]
    for part in place:
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                following += _models(field.annotation)
        # A list index, a name chosen by the user, or a union's tag: the same tables still apply.
        candidates = following or candidates
        tagged = [c for c in candidates if any(_tag(c, key) == part for key in ("kind", "law", "objective"))]
        candidates = tagged or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _tag(model: type[BaseModel], key: str) -> object:
    field = model.model_fields.get(key)
    arguments = getattr(field.annotation, "__args__", ()) if field else ()
    return arguments[0] if len(arguments) == 1 else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models(argument)
    return found
