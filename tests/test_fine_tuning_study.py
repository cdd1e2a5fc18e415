"""The fine-tuning studies as they are shipped, reduced: cells, certificates, gaps, claims, report."""

from pathlib import Path

import pandas as pd
import pytest
from tiny import FINE_TUNING_TINY, ROOT

from lmtest.cells import cells
from lmtest.directory import Run
from lmtest.errors import UsageError
from lmtest.pipeline import run_study
from lmtest.report.transfer import predictor_table
from lmtest.study import load_study

STUDY, PAPER = ROOT / "runs" / "fine_tuning.toml", ROOT / "runs" / "fine_tuning_paper.toml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("tuning") / "run"
    at = 'claims=[{id="gap",statement="a gap",kind="order",model="transformer",variants=["normal","wide_uneven"],paired=true,'
    at += 'measure="exact_match_at_2",prompt_set="anbnan.full.all",decoding="exact"},{id="function",statement="equal",'
    at += 'kind="threshold",direction="below",model="transformer",variants=["padded","deeper_zero"],bound=1e-10,'
    at += 'measure="function_difference_float64",prompt_set="ood",decoding="exact"}]'
    return run_study(STUDY, out=out, overrides=[*FINE_TUNING_TINY, at], seeds="0-2", jobs=1)


def chosen(table: pd.DataFrame, **equal: object) -> pd.DataFrame:
    for column, value in equal.items():
        table = table[table[column] == value]
    return table


def test_variants_are_of_the_models_that_they_name() -> None:
    study, languages = load_study(STUDY)
    found = {(cell.model, cell.variant) for cell in cells(study, languages)}
    assert {variant for model, variant in found if model == "trained_by_sgd"} == {"normal"}
    assert {variant for model, variant in found if model == "wide_from_scratch"} == {"normal", "memorised"}
    assert ("transformer", "memorised") not in found
    assert len(found) == 15


def test_what_is_derived_follows_the_models_of_its_parent() -> None:
    more = 'derived.echo={kind="permute_neurons",of="memorised"}'
    study, _ = load_study(STUDY, [more])
    assert "echo" in study.variants_of("wide_from_scratch")
    assert "echo" not in study.variants_of("transformer")
    with pytest.raises(UsageError, match="'padded' is derived itself"):
        load_study(STUDY, ['derived.echo={kind="permute_neurons",of="padded"}'])
    with pytest.raises(UsageError, match=r"variants\.memorised: unknown model 'wide'"):
        load_study(STUDY, ['variants.memorised.models=["wide"]'])


def test_the_rewritten_are_one_function_and_the_controls_one_curve(run: Run) -> None:
    difference = chosen(run.measurements, measure="function_difference_float64")
    assert set(difference["prompt_set"]) == {"id", "ood"}
    assert difference["variant"].nunique() == 10
    assert (difference["value"] < 1e-10).all()
    steps = run.measurements[run.measurements["measure"].isin(["excess", "exact_match", "forgetting"])]
    for name, tolerance in (("deeper_zero", 1e-4), ("permuted", 1e-2)):
        before, after = (
            chosen(steps, model="transformer", variant=v).set_index(["seed", "measure", "prompt_set"])["value"]
            for v in ("normal", name)
        )
        assert len(before) > 0
        assert after.to_numpy() == pytest.approx(before.to_numpy(), abs=tolerance, rel=tolerance)


def test_claims_are_judged_and_the_report_is_written(run: Run) -> None:
    assert list(run.verdicts["claim"]) == ["gap", "function"]
    assert run.verdicts["effect"].notna().all()
    page = (run.directory / "report.html").read_text("utf-8")
    for name in ("wide_uneven", "deeper_zero", "relative_sharpness"):
        assert name in page or name.replace("_", " ") in page
    table = predictor_table(run.measurements, run.certificates)
    assert {"gn_trace", "relative_sharpness", "parameter_norm"} <= set(table["predictor"])


def test_the_published_sizes_run_reduced(tmp_path: Path) -> None:
    study, languages = load_study(PAPER, ["evaluators.fine_tuning.strings=1024"])
    vocabulary = languages["liu_pcfg_like"].vocabulary
    assert len(vocabulary.symbols) == 200
    assert study.models["transformer_1024"].n_parameters(vocabulary) == pytest.approx(202e6, rel=0.01)
    reduced = [
        'language="layered_small"',
        *(
            f"models.{name}.{key}"
            for name in study.models
            for key in ("layers=1", "width=8", "heads=2", "feed_forward=8")
        ),
        *(
            "training.steps=2",
            "training.probe_every=2",
            "training.batch=4",
            "training.stack=2",
            "derived.longer.steps=2",
        ),
        *("derived.deeper.layers=1", "derived.deeper_zero.layers=1", "saturation.draws=10", "claims=[]"),
        *(
            "evaluators.fine_tuning.steps=2",
            "evaluators.fine_tuning.evaluate_at=[]",
            "evaluators.fine_tuning.strings=40",
        ),
        *("evaluators.fine_tuning.examples=[20]", "evaluators.fine_tuning.learning_rates=[1e-3]"),
    ]
    done = run_study(PAPER, out=tmp_path / "run", overrides=reduced, seeds="0-1", jobs=1)
    accuracy = chosen(done.measurements, evaluator="fine_tuning", measure="accuracy")
    assert {name.split(".")[0] for name in accuracy["prompt_set"]} == {"A", "A_map", "B", "C"}
    assert accuracy["chance"].between(0, 1).all()
    rates = {name.split("@")[1] for name in accuracy["prompt_set"] if name.startswith("A.probe.20@")}
    assert rates == {"0.0003", "0.001", "0.003"}  # a grid of its own
