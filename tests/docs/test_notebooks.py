"""The reading clubs' notebooks, run as scripts from the first cell to the verdict; what they train is reduced."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import lmtest
from lmtest.pipeline import run_study

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
SMALLER = {
    "rule_extrapolation": ["training.steps=20", "training.probe_every=20"],
    "in_context": [
        "training.steps=4", "training.probe_every=4", "training.batch=2", "saturation.draws=10", "saturation.epsilon=9.0",
        "derived.exchanged.draws=40", "evaluators.in_context.prompts=10",
    ],
    "fine_tuning": [
        "training.steps=4", "training.probe_every=4", "saturation.epsilon=9.0", "evaluators.fine_tuning.steps=2",
        "evaluators.fine_tuning.evaluate_at=[]",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALLER)
def test_the_story_ends_in_a_verdict(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("marimo")

    def smaller(file: Path, **options: Any) -> Any:
        options |= {"out": tmp_path / "run", "overrides": [*options["overrides"], *SMALLER[name]], "seeds": "0-1"}
        return run_study(file, **options, jobs=1)

    monkeypatch.setattr(lmtest, "run_study", smaller, raising=False)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(NOTEBOOKS / f"{name}.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert told.startswith("# ")
    assert "## Verdict" in told
    assert any(word in told.split("## Verdict")[1] for word in ("**Supported**", "**Refuted**", "**Undecided**"))


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == set(SMALLER)
