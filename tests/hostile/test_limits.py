"""Declared limits: what is too large or takes too long is refused in words, at once or when its time is up."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_inputs import lmtest

from lmtest import cells, columns, limits
from lmtest.errors import LmtestError, UsageError
from lmtest.languages import build_language, grammar, load_language
from lmtest.languages.laws import LEAST_P
from lmtest.training import config
from lmtest.validation import read_json, read_toml

ROOT = Path(__file__).parents[2]
UNIFORM = {"law": "uniform", "low": 1, "high": 3}


def language(**table: Any) -> Any:
    return build_language("mine", {"title": "", **table}, "mine.toml")


def pcfg(text: str, **more: Any) -> Any:
    return language(kind="pcfg", grammar=text, **more)


def template(text: str, n: dict[str, Any] = UNIFORM, **more: Any) -> Any:
    return language(kind="template", template=text, n=n, **more)


MANY = " | ".join(f"'a{i}' [{1 / (grammar.MOST_RULES + 1):.12f}]" for i in range(grammar.MOST_RULES + 1))
CHAIN = "\n".join(f"N{i} -> N{i + 1} [1.0]" for i in range(1100)) + "\nN1100 -> 'a' [1.0]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pcfg(f"S -> {MANY}"), "at most 50,000 rules, found 50,001"),
        (lambda: pcfg(CHAIN), "at most 1,000 nonterminals reached from 'N0', found 1,101"),
        (
            lambda: pcfg(f"S -> {'S ' * 6000}[0.0001] | 'a' [0.9999]").form,
            "at most 20,000,000 numbers in a table|took more than",
        ),
        (
            lambda: pcfg("S -> S S [0.4] | 'a' [0.6]", max_length=10**6).log_prob(["a"]),
            "took more than|numbers in a table",
        ),
        (lambda: pcfg("S -> 'a' S [0.5] | 'a' [0.5]", max_length=10**7), "max_length"),
        (lambda: pcfg("S -> S S [0.4] | 'a' [0.6]").log_prob(["a" * 10**5]), "which has 100000 symbols here"),
        (lambda: template("a^n b^9999999"), "at most 1,000,000 symbols in a template's number, found 9,999,999"),
        (lambda: template(f"a^n b^{'9' * 5000}"), "found infinitely many"),
        (lambda: template("a^1000n b^n", {"law": "uniform", "low": 10**6, "high": 10**6}), "in the shortest string"),
        (lambda: template("a^n", {"law": "geometric", "p": 1e-9}), "greater than or equal to 0.000001"),
        (lambda: template("a^n", {"law": "uniform", "low": 1, "high": 10**9}), "less than or equal to 1000000"),
        (lambda: template("a^n", {"law": "geometric", "p": LEAST_P}).sample(1000, 0), "drawn at once"),
        (lambda: load_language("ginc_paper").sample(10**6, 0), "drawn at once, found 1,024,000,000; draw fewer"),
        (lambda: template("a^n", rules={"R": {"regex": "((a{0,1000}){0,1000}b?){0,1000}"}}), "regex"),
    ],
)
def test_what_is_too_large_is_refused_with_the_number_found(make: Any, message: str) -> None:
    started = time.monotonic()
    token = limits.allowed_seconds.set(5.0)
    try:
        with (
            pytest.raises(LmtestError, match=re.escape(message) if "|" not in message else message),
            limits.within("this"),
        ):
            make()
    finally:
        limits.allowed_seconds.reset(token)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x = " + "9" * 5000, "not a TOML file"),
        ("x = 2020-99-99", "not a TOML file"),
        ("x = 1" + " " * limits.MOST_BYTES, "at most 4,000,000 bytes"),
        ("x = '\ufeff\x00'", "not a TOML file"),
    ],
)
def test_toml_that_python_chokes_on_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        read_toml(path)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A device or a pipe has no end, or waits for ever."""
    with pytest.raises(UsageError, match="expected a file"):
        read_toml(Path("/dev/zero"))
    with pytest.raises(UsageError, match="cannot read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="damaged"):
        read_json(tmp_path / "deep.json")


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.fixture
def short() -> Any:
    token = limits.allowed_seconds.set(0.2)
    yield
    limits.allowed_seconds.reset(token)


def test_what_takes_too_long_is_given_up(short: None) -> None:
    started = time.monotonic()
    with (
        pytest.raises(
            UsageError, match=r"this took more than 0\.2 s, and was given up: .* lmtest --time-limit SECONDS"
        ),
        limits.within("this"),
    ):
        spin(20)
    assert time.monotonic() - started < 10
    spin(0.4)  # nothing rings afterwards


def swallows_errors() -> None:
    for _ in range(100):
        with contextlib.suppress(Exception):
            spin(1)


def test_no_handler_of_errors_on_the_way_swallows_it(short: None) -> None:
    with pytest.raises(UsageError, match="took more"), limits.within("this"):
        swallows_errors()


def test_an_alarm_of_the_caller_goes_on(short: None) -> None:
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with limits.within("this"):
            spin(0.05)
        assert 0.1 < signal.getitimer(signal.ITIMER_REAL)[0] < 0.5
        spin(0.6)
        assert rung
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # sooner than ours: it is the caller's that rings
        with limits.within("this"):
            spin(0.1)
        assert len(rung) == 2
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)


def test_elsewhere_than_on_the_main_thread_there_is_no_limit(short: None) -> None:
    done = []

    def work() -> None:
        with limits.within("this"):
            time.sleep(0.3)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


SLOW = """
title = "prompts by the million"
kind = "template"
template = "a^n b^m c^{k+900} d^{k+900}"
n = { law = "uniform", low = 1, high = 1000 }
m = { law = "uniform", low = 1, high = 1000 }
k = { law = "uniform", low = 1, high = 1000 }
"""


def test_a_slow_language_is_described_as_far_as_time_allows(tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text(SLOW, "utf-8")
    done = lmtest("describe", tmp_path / "slow.toml", "--length", "2", "--draws", "100")
    assert "this fact took more than 3 s" in done.out
    assert "nats_per_string" in done.out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_limit_is_above_zero(seconds: str) -> None:
    assert "above 0 s" in lmtest(f"--time-limit={seconds}", "languages", codes=(2,)).err


def test_the_page_lists_the_limits_as_they_are() -> None:
    page = (ROOT / "docs" / "limits.md").read_text("utf-8")
    for number in (limits.MOST_BYTES, limits.MOST_LENGTH, limits.MOST_NUMBERS, limits.MOST_DRAWN, grammar.MOST_RULES,
                   cells.MOST_CELLS, columns.MOST_ROWS, config.MOST_STEPS):  # fmt: skip
        assert f"{number:,}" in page
    assert f"{cells.LONGEST_NAME} bytes" in page
    assert f"{limits.SECONDS:g} s" in page
