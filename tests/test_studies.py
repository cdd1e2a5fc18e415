"""The shipped studies of several languages, reduced to seconds: everything of theirs runs, stops and resumes."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tiny import LANGUAGES_QUICK, LANGUAGES_TINY, ROOT

from lmtest.directory import Run
from lmtest.errors import Interrupted
from lmtest.pipeline import Silent, run_study
from lmtest.study import load_study

STUDY = ROOT / "runs" / "rule_extrapolation_languages.toml"
PAPER = ROOT / "runs" / "rule_extrapolation_languages_paper.toml"
LARGE = (
    *("exceptions=[]", 'languages=["brackets_shuffled"]', "training.batch=2", "training.stack=1", *LANGUAGES_QUICK),
    *(
        "saturation.draws=4",
        "evaluators.rule_extrapolation.samples=8",
        "evaluators.rule_extrapolation.max_new_tokens=6",
    ),
    *(
        "models.lstm.layers=1",
        "models.mamba.layers=1",
        "models.xlstm.layers=2",
        "models.gated_linear_attention.layers=1",
    ),
    *(f"models.{name}.{key}" for name in ("transformer", "transformer_no_positions") for key in ("layers=1",)),
    "published_tables=[]",
)


class StopInTheMiddle(Silent):
    """Stops the run, as Ctrl-C does, when the third model is under way."""

    def step(self, cell: object, step: int, excess: float) -> None:
        if getattr(cell, "model", "") == "mamba":
            raise KeyboardInterrupt


def small(out: Path, **more: object) -> Run:
    options = {"overrides": LANGUAGES_TINY, "seeds": "0", "jobs": 1, **more}
    return run_study(STUDY, out=out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small(tmp_path_factory.mktemp("studies") / "run")


@pytest.mark.parametrize("path", [STUDY, PAPER], ids=lambda path: path.stem)
def test_the_table_has_six_languages_and_the_same_seeds_in_every_cell(path: Path) -> None:
    study, languages = load_study(path)
    assert len(languages) == 6
    assert {model.architecture for model in study.models.values()} >= {
        "linear",
        "lstm",
        "mamba",
        "xlstm",
        "transformer",
    }
    assert study.seed_list == list(range(8))
    assert len({study.training_of(name, model).learning_rate for name in languages for model in study.models}) == 1


def test_every_language_and_model_has_its_certificate_and_measurements(run: Run) -> None:
    study, _ = load_study(STUDY)
    trained = run.certificates[run.certificates["variant"] != "reference"]
    assert set(zip(trained["language"], trained["model"], strict=True)) == {
        (language, model) for language in ("ban_small", "brackets_nested_small") for model in study.models
    }
    references = run.certificates[run.certificates["variant"] == "reference"].groupby("language")["model"].agg(set)
    assert references.map(
        lambda names: names == {"language", "rule_keeper", "uniform", "stop", "ngram", "normative"}
    ).all()
    kept = run.measurements.groupby(["language", "model", "variant"])["evaluator"].agg(set)
    assert kept.map(lambda names: names == {"rule_extrapolation", "string_mass"}).all()
    masses = run.trajectory[run.trajectory["evaluator"] == "string_mass"]
    assert sorted(masses["step"].unique()) == sorted({0, *masses["step"], 2})
    assert len(run.published) > 0


def test_short_strings_are_weighed_once_at_the_end_of_training(run: Run) -> None:
    last = run.trajectory[(run.trajectory["evaluator"] == "string_mass") & (run.trajectory["step"] == 2)]
    key = ["language", "model", "seed", "measure"]
    final = run.measurements[run.measurements["evaluator"] == "string_mass"]
    both = last.merge(final, on=key, suffixes=("_last", "_final"))
    assert len(both) == len(last)
    assert (both["value_last"] == both["value_final"]).all()


def test_a_table_that_was_stopped_goes_on_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        small(tmp_path / "out", display=StopInTheMiddle())
    done = len(list((tmp_path / "out" / "cells").glob("*/certificates.parquet")))
    assert 0 < done < 14
    resumed = small(tmp_path / "out", resume=True)
    for name in ("certificates", "measurements", "trajectory", "completions", "verdicts", "published"):
        pd.testing.assert_frame_equal(run.table(name), resumed.table(name), check_exact=True)


def test_the_page_has_the_table_and_a_section_a_language(run: Run) -> None:
    page = (run.directory / "report.html").read_text(encoding="utf-8")
    assert page.index("L1, baN") < page.index("L4")
    assert "3-gram" in page
    assert "normative" in page
    resolved = json.loads((run.directory / "resolved.json").read_text(encoding="utf-8"))
    assert resolved["languages"]["ban_small"]["models"]["linear"]["training"]["steps"] == 2


def test_the_published_sizes_run_reduced(tmp_path: Path) -> None:
    run = run_study(PAPER, out=tmp_path / "out", overrides=LARGE, seeds="0", jobs=1)
    assert set(run.certificates["language"]) == {"brackets_shuffled"}
    assert not run.certificates.loc[run.certificates["language"] == "brackets_shuffled", "exact"].any()
