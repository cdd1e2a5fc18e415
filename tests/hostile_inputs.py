"""Hostile inputs: files with a few things wrong, and the command line, which is to take them all in good order.

`python -m pytest tests/hostile --hypothesis-profile long` tries fifty times as many, of random ones.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tomli_w
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lmtest import cli
from lmtest.errors import LmtestError

T = TypeVar("T")

SECONDS = 3
"""--time-limit of every command here."""


def examples(share: float) -> settings:
    """Settings for a share of the profile's examples (100): always the same ones, but in the long profile."""
    profile = settings.default
    assert profile is not None
    return settings(
        max_examples=max(1, round(share * profile.max_examples)),
        derandomize=profile.max_examples <= 100,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def lmtest(*words: object, codes: tuple[int, ...] = (0, 2)) -> Outcome:
    """A command, in this process: one of the exit codes, a line that says why where it is not 0, and never a traceback."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["lmtest", "--time-limit", str(SECONDS), *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli._run()
    finally:
        sys.argv = before
    done = Outcome(code, out.getvalue(), err.getvalue())
    assert "a fault of lmtest's own" not in done.err, done.err
    assert "Traceback" not in done.out + done.err
    assert code in codes, done
    assert code in (0, 3, 4) or len(done.err.strip()) > 10, done
    return done


def or_refused(make: Callable[[], T]) -> T | None:
    """What is made, or None where that is refused in words."""
    said = ""
    try:
        return make()
    except LmtestError as refusal:
        said = str(refusal)
    assert len(said) > 10
    return None


def nothing_half_written(folder: Path) -> None:
    """No temporary file, and no empty one, is left behind."""
    assert not list(folder.rglob("*.tmp"))
    assert all(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# What may stand anywhere in a file.

LAWS = st.one_of(
    st.fixed_dictionaries({"law": st.just("uniform"), "low": st.integers(-1, 9), "high": st.integers(0, 10**7)}),
    st.fixed_dictionaries({"law": st.just("geometric"), "p": st.sampled_from([0.5, 1.0, 1e-5, 1e-300, 0.0])}),
    st.fixed_dictionaries({"law": st.just("weights"), "weights": st.just([0.5, 0.5]), "low": st.integers(0, 10**12)}),
)
REGEXES = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "'a'"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{3}", "{0,9}", "{2,}", "{1000}", "{0,1000}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)
COUNTS = st.sampled_from(
    [
        "a == b",
        "a < b or a > 3",
        "2*a + 3 == b",
        "a % 7 == 3 and b % 1000 == 1",
        "a % 999 == 2 or b % 1000 == 3",
        "a ==",
        "1 == 1",
    ]
)
TEMPLATES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "(ab)", "(a b)", "'the'"]),
        st.sampled_from(["", "^n", "^m", "^2n", "^{n+1}", "^3", "^{m+1000}", "^9999999", "^" + "9" * 5000]),
    ).map("".join),
    max_size=5,
).map(" ".join)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "",
            " ",
            "a",
            "\x00",
            "\u202e",
            "[bold]",
            "[/]",
            "{{7*7}}",
            "<script>alert(1)</script>",
            "../../etc/passwd",
            "/dev/zero",
        ]
    ),
    st.sampled_from(["x" * 5000, "(" * 300, "__import__('os').system('touch hacked')", "nan", "a^n b^n"]),
    REGEXES,
    COUNTS,
    TEMPLATES,
)
NUMBERS = st.one_of(
    st.integers(-2, 3),
    st.sampled_from([10**6, 2**31, 2**63, -(2**63), 10**30]),
    st.sampled_from([0.5, -0.0, 1.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")]),
    st.booleans(),
)
VALUES = st.one_of(
    NUMBERS,
    TEXTS,
    LAWS,
    st.sampled_from(
        [[], {}, [[]], [{}], ["a", ["b"]], {"regex": "a*"}, {"count": "a == b"}, datetime.date(2020, 1, 1)]
    ),
).map(copy.deepcopy)
"""A copy each time: what is drawn is put into tables, and changed there again."""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested tables and lists."""
    if isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield (*place, key)
            yield from places(inner, (*place, key))


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


@st.composite
def changed(draw: st.DrawFn, table: dict[str, Any]) -> dict[str, Any]:
    """A table with one to three things put in, taken out, replaced, or moved."""
    table = copy.deepcopy(table)
    for _ in range(draw(st.integers(1, 3))):
        where = list(places(table))
        if not where:
            break
        place = draw(st.sampled_from(where))
        parent, key = at(table, place[:-1]), place[-1]
        how = draw(st.sampled_from(["replace", "replace", "text", "number", "delete", "insert", "move"]))
        if how == "delete":
            del parent[key]
        elif how == "insert" and isinstance(parent, dict):
            parent[
                draw(st.sampled_from(["x", "n", "law", "rules", "max_length", "prompts", "kind", "", f"{key}s"]))
            ] = draw(VALUES)
        elif how == "text" and isinstance(parent[key], str):
            parent[key] = draw(changed_text(parent[key]))
        elif how == "number" and type(parent[key]) in (int, float):
            parent[key] = parent[key] * draw(st.sampled_from([-1, 0, 2, 0.1, 1000, 10**6])) + draw(
                st.sampled_from([0, 1, -1, 0.5])
            )
        elif how == "move":
            parent[key] = copy.deepcopy(at(table, draw(st.sampled_from(where))))
        else:
            parent[key] = draw(VALUES)
    return table


PIECES = [
    "[0.5]",
    "'a'",
    "[1]",
    "S",
    " -> ",
    "|",
    "(",
    ")",
    "*",
    "{0,1000}",
    "^",
    "é",
    "😀",
    "\x00",
    "\n",
    '"',
    "=",
    "9" * 5000,
    "[" * 2000,
]


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    """A text with one to four pieces put in, cut out, or said again."""
    for _ in range(draw(st.integers(1, 4))):
        one, two = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        how = draw(st.sampled_from(["insert", "cut", "again"]))
        middle = (
            draw(st.sampled_from(PIECES)) + text[one:two]
            if how == "insert"
            else ""
            if how == "cut"
            else 2 * text[one:two]
        )
        text = text[:one] + middle + text[two:]
    return text


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes cut short, emptied, overwritten here and there, or of something else altogether."""
    how = draw(st.sampled_from(["cut", "cut", "overwrite", "overwrite", "other"]))
    if how == "other":
        return draw(st.one_of(st.binary(max_size=100), st.sampled_from([b"", b"PAR1", b"\x80\x04K*.", b"\xff" * 64])))
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 8))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def toml(table: dict[str, Any]) -> bytes:
    return tomli_w.dumps(table).encode("utf-8", "surrogatepass")
