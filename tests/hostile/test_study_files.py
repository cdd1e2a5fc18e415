"""Study files: refused in one line before anything is written, or run to whole files."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hostile_inputs import TEXTS, changed, changed_bytes, examples, lmtest, nothing_half_written, toml
from hypothesis import given
from hypothesis import strategies as st
from tiny import FINE_TUNING_TINY, IN_CONTEXT_TINY, LANGUAGES_TINY, MAIN, ROOT, TINY

from lmtest.overrides import apply_override


def tiny(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    table = tomllib.loads((ROOT / "runs" / name).read_text("utf-8"))
    for override in (*overrides, "training.steps=2", "seeds=2"):
        apply_override(table, override)
    return table


STUDIES = [
    tiny("rule_extrapolation.toml", TINY),
    tiny("rule_extrapolation_languages.toml", LANGUAGES_TINY),
    tiny("in_context.toml", IN_CONTEXT_TINY),
    tiny("fine_tuning.toml", FINE_TUNING_TINY),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@examples(0.6)
@given(st.sampled_from(STUDIES).flatmap(lambda study: st.one_of(changed(study).map(toml), changed_bytes(toml(study)))))
def test_a_faulty_study_is_one_clear_line(folder: Path, data: bytes) -> None:
    (folder / "mine.toml").write_bytes(data)
    lmtest("run", folder / "mine.toml", "--dry-run")
    assert {path.name for path in folder.iterdir()} <= {"mine.toml", "odd.toml"}


@examples(0.15)
@given(changed(STUDIES[0]))
def test_a_changed_study_is_refused_or_run_to_the_end(folder: Path, table: dict[str, Any]) -> None:
    """Exit code 1 is that of a run which failed: of a loss that is no number, say."""
    (folder / "mine.toml").write_bytes(toml(table))
    done = lmtest("run", folder / "mine.toml", "--out", folder / "out", "--jobs", "1", "--quiet", codes=(0, 1, 2))
    nothing_half_written(folder)
    if done.code == 0:
        assert len(pd.read_parquet(folder / "out" / "measurements.parquet"))
        lmtest("report", folder / "out")
    shutil.rmtree(folder / "out", ignore_errors=True)


@examples(0.6)
@given(
    st.sampled_from(
        ["seeds", "training.steps", "claims.0.id", "claims.99.x", "models.transformer", "a.b.c", "", "title.x", "x."]
    ),
    st.one_of(
        TEXTS, st.sampled_from(["[" * 2000, "9" * 5000, "{a=1}", "2020-01-01", "'", '"a', "1_0", "0-99999999", "²"])
    ),
)
def test_any_override_is_applied_or_refused(key: str, value: str) -> None:
    lmtest("run", MAIN, "--dry-run", "--set", f"{key}={value}", "--set", "training.stepz=1", codes=(2,))


@pytest.mark.parametrize("seeds", ["0-99999999", "9" * 5000, "0-", "-1", "0,0", "", "1-0", "٣", "5" * 30, "x", "0-3,2"])
def test_faulty_seeds_are_one_clear_line(seeds: str) -> None:
    assert "seeds" in lmtest("run", MAIN, "--dry-run", f"--seeds={seeds}", codes=(2,)).err
