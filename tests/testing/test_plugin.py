"""Claims as tests: a user's own suite in a fresh folder, with its own language and study."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from lmtest.directory import Run
from lmtest.testing import Refuted, Undecided, assert_supported, judge_claim

LANGUAGE = """title = "a or b"
kind = "pcfg"
grammar = "S -> 'a' [0.5] | 'b' [0.5]"
[rules]
one = { max_length = 1 }
nonempty = { min_length = 1 }
"""
STUDY = """title = "a small study"
language = "ab.toml"
seeds = "0-5"
[models.linear]
architecture = "linear"
width = 4
context = 7
[training]
steps = 20
learning_rate = 1e-2
batch = 4
stack = 6
probe_every = 20
[saturation]
epsilon = 100.0
[variants.normal]
objective = "maximum_likelihood"
[evaluators.rule_extrapolation]
prompt_length = 2
max_new_tokens = 4
[[claims]]
id = "mine/loss"
statement = "The loss is within 50 nats of the floor."
kind = "threshold"
measure = "kl"
direction = "below"
variants = ["normal"]
bound = 50.0
published = 3.5
source = "nobody"
"""
SUITE = '''
import pytest

pytestmark = pytest.mark.lmtest_study("mine.toml")

@pytest.mark.lmtest_claim("mine/loss")
def test_declared(verdict):
    assert verdict.verdict == "supported"

@pytest.mark.lmtest_claim(kind="threshold", measure="kl", direction="below", variants=["normal"], bound=0.0)
def test_refuted(verdict):
    """Better than the floor."""

@pytest.mark.lmtest_claim(kind="threshold", measure="kl", direction="below", variants=["normal"], bound=50.0)
@pytest.mark.lmtest_study("mine.toml", seeds="0-1")
def test_undecided(verdict): ...

def test_by_hand(lmtest_run):
    from lmtest.testing import assert_supported
    assert_supported(lmtest_run("mine.toml"), kind="threshold", measure="kl", direction="below", variants=["normal"], bound=60.0)
'''


def suite(folder: Path, tests: str = SUITE) -> Path:
    for name, text in (
        ("ab.toml", LANGUAGE),
        ("mine.toml", STUDY),
        ("test_mine.py", tests),
        ("pytest.ini", "[pytest]\n"),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run_suite(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    known = any(found.name == "lmtest" for found in entry_points(group="pytest11"))
    plugin = [] if known else ["-p", "lmtest.testing.plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, *options, "--lmtest-runs", "runs", "--junitxml", "out.xml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def properties(folder: Path) -> dict[str, dict[str, str]]:
    """By test."""
    cases = ET.parse(folder / "out.xml").iter("testcase")
    return {case.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")} for case in cases}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite whose studies have been run once, by two workers."""
    folder = suite(tmp_path_factory.mktemp("suite"))
    done = run_suite(folder, "-n", "2")
    assert "1 failed, 2 passed, 1 undecided" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    return folder


def test_workers_run_a_study_once(folder: Path) -> None:
    runs = [path for path in (folder / "runs").iterdir() if path.is_dir()]
    assert len(runs) == 2  # six seeds, and two
    for path in runs:
        assert (path / "log.jsonl").read_text("utf-8").count('"start"') == 1


@pytest.fixture(scope="module")
def second(folder: Path) -> subprocess.CompletedProcess[str]:
    """A session after the first; it trains nothing."""
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.safetensors")}
    done = run_suite(folder)
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.safetensors")}
    return done


def test_a_second_session_says_what_was_found(second: subprocess.CompletedProcess[str]) -> None:
    assert "1 failed, 2 passed, 1 undecided" in second.stdout
    assert "lmtest verdicts" in second.stdout
    assert "Holm's correction over 2 claims on mine.toml" in second.stdout
    assert "refuted: Better than the floor." in second.stdout
    assert "Traceback" not in second.stdout + second.stderr
    assert "judging.py" not in second.stdout


@pytest.mark.usefixtures("second")
def test_junit_has_the_verdicts(folder: Path) -> None:
    found = properties(folder)
    declared = found["test_declared"]
    assert declared["verdict"] == "supported"
    assert declared["claim"] == "mine/loss"
    assert (declared["seeds_used"], declared["seeds_asked"], declared["published"]) == ("6", "6", "3.5")
    assert float(declared["lower"]) < float(declared["effect"]) < float(declared["upper"]) < 50
    assert float(declared["p_value"]) == pytest.approx(2 * 0.5**6)  # 1/64 by sign flips, Holm over two claims
    assert found["test_refuted"]["verdict"] == "refuted"
    assert found["test_undecided"]["seeds_asked"] == "2"
    cases = {case.attrib["name"]: case for case in ET.parse(folder / "out.xml").iter("testcase")}
    assert "undecided" in cases["test_undecided"].find("skipped").attrib["message"]  # type: ignore[union-attr]


def test_strictly_the_undecided_fail(folder: Path) -> None:
    done = run_suite(folder, "--lmtest-strict", "-k", "undecided or declared")
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "1 undecided" in done.stdout
    loose = run_suite(folder, "-k", "undecided or declared")
    assert loose.returncode == 0
    # What is left out today is corrected for all the same.
    assert "Holm's correction over 2 claims on mine.toml" in loose.stdout


WRONG = {
    '@pytest.mark.lmtest_study("none.toml")\n@pytest.mark.lmtest_claim("x")': "no study file",
    '@pytest.mark.lmtest_study("mine.toml")\n@pytest.mark.lmtest_claim("mine/los")': "did you mean 'mine/loss'?",
    '@pytest.mark.lmtest_study("mine.toml")\n@pytest.mark.lmtest_claim(kind="thresold")': "unknown kind 'thresold'",
    '@pytest.mark.lmtest_study("mine.toml", seed="0")\n@pytest.mark.lmtest_claim("x")': "unknown argument 'seed'",
    '@pytest.mark.lmtest_study("mine.toml")\n@pytest.mark.lmtest_claim(kind="threshold", measure="kl", bound=1.0, '
    'variants=["other"])': "unknown variant 'other'",
    '@pytest.mark.lmtest_run("nowhere")\n@pytest.mark.lmtest_claim("x")': "is no run directory",
    '@pytest.mark.lmtest_claim("x")': "found neither: add one",
    "": "expected @pytest.mark.lmtest_claim",
    '@pytest.mark.lmtest_study("mine.toml")\n@pytest.mark.lmtest_claim({"id": "x"})': "expected the id of a claim",
    '@pytest.mark.lmtest_study("mine.toml", seeds=object())\n@pytest.mark.lmtest_claim("mine/loss")': "expected seeds",
    '@pytest.mark.lmtest_study("mine.toml", set=[5])\n@pytest.mark.lmtest_claim("mine/loss")': "expected set =",
    '@pytest.mark.lmtest_study("mine.toml", set=5)\n@pytest.mark.lmtest_claim("mine/loss")': "expected set =",
    '@pytest.mark.lmtest_study("mine.toml", "0-1")\n@pytest.mark.lmtest_claim("mine/loss")': "expected one place",
    '@pytest.mark.lmtest_study(5)\n@pytest.mark.lmtest_claim("mine/loss")': "expected a path as text, found 5",
    '@pytest.mark.lmtest_study("mine.toml")\n@pytest.mark.lmtest_claim("x", "y")': "expected one claim of a test",
    '@pytest.mark.lmtest_study("mine.toml")\n@pytest.mark.lmtest_claim("x")\n@pytest.mark.lmtest_claim("y")': "expected one claim",
}


def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    tests = "\n".join(f"{marks}\ndef test_{i}(verdict): ..." for i, marks in enumerate(WRONG))
    done = run_suite(suite(tmp_path, f"import pytest\n\n{tests}\n"))
    assert done.returncode == 1
    assert f"{len(WRONG)} errors" in done.stdout
    cases = {case.attrib["name"]: case for case in ET.parse(tmp_path / "out.xml").iter("testcase")}
    for i, message in enumerate(WRONG.values()):
        assert message in (cases[f"test_{i}"].find("error").text or ""), i  # type: ignore[union-attr]
    assert "lmtest/testing" not in done.stdout
    assert "Traceback" not in done.stdout
    assert not list((tmp_path).glob("runs/*/checkpoints"))


CONFTEST = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if item.name == "test_marked_later":
            item.add_marker(pytest.mark.lmtest_study("mine.toml"))
            item.add_marker(pytest.mark.lmtest_claim("mine/loss"))
"""
LATE = """
import pytest

def test_marked_later(verdict):
    assert verdict.verdict == "supported"

def test_of_others(record_property):
    record_property("claim", 5)

@pytest.mark.lmtest_study("mine.toml")
@pytest.mark.lmtest_claim("mine/loss")
def test_without_the_fixture(): ...

@pytest.fixture
def too_late(request):
    request.applymarker(pytest.mark.lmtest_study("mine.toml"))
    request.applymarker(pytest.mark.lmtest_claim("mine/loss"))

def test_marked_too_late(too_late, verdict): ...

def test_nowhere(lmtest_run):
    lmtest_run("mine.toml", sed="0-1")
"""


def test_marks_of_a_conftest_count_and_marks_without_a_verdict_are_errors(folder: Path) -> None:
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_late.py").write_text(LATE, encoding="utf-8")
    done = run_suite(folder, "test_late.py")
    assert "2 failed, 2 passed, 1 warning, 1 error" in done.stdout, done.stdout + done.stderr
    assert "nothing has judged @pytest.mark.lmtest_claim" in done.stdout
    assert "the marks of test_marked_too_late were added after the tests were collected" in done.stdout
    assert "lmtest_run: unknown argument 'sed'; did you mean 'seeds'?" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    (folder / "test_late.py").unlink()


def test_claims_about_a_finished_run_are_functions_too(folder: Path) -> None:
    run = Run(
        next(path for path in (folder / "runs").iterdir() if path.is_dir() and len(list(path.glob("cells/*0-5"))))
    )
    claim = {"kind": "threshold", "measure": "kl", "direction": "below", "variants": ["normal"]}
    assert assert_supported(run, **claim, bound=50.0).seeds_used == 6
    assert judge_claim(run, **claim, bound=0.0).verdict == "refuted"
    with pytest.raises(Refuted, match="refuted: claim; effect"):
        assert_supported(run, **claim, bound=0.0)
    middle = float(run.certificates.query("variant == 'normal'")["kl"].mean())
    with pytest.raises(Undecided):
        assert_supported(run, **claim, bound=middle)


def test_the_plugin_loads_nothing_heavy() -> None:
    code = "import lmtest.testing.plugin, sys; print([m for m in ('torch', 'pandas', 'numpy', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
