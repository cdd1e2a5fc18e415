"""Derived variants in the pipeline: waves, certificates, costs, resumption to the bit, refusals."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import IN_CONTEXT_TINY, MAIN, ROOT, TINY

from lmtest.cells import Cell
from lmtest.directory import Run
from lmtest.errors import Interrupted, UsageError
from lmtest.pipeline import Silent, run_study
from lmtest.study import load_study

STUDY, PAPER = ROOT / "runs" / "in_context.toml", ROOT / "runs" / "in_context_paper.toml"
TABLES = ("certificates", "measurements", "trajectory", "completions", "verdicts")


class StopAmongTheDerived(Silent):
    """Stops the run, as Ctrl-C does, when the first derived cell is trained."""

    def step(self, cell: Cell, step: int, excess: float) -> None:
        if cell.variant == "fail_held_10":
            os.kill(os.getpid(), signal.SIGTERM)


def small(out: Path, **more: object) -> Run:
    options = {"overrides": IN_CONTEXT_TINY, "seeds": "0-1", "jobs": 1, **more}
    return run_study(STUDY, out=out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small(tmp_path_factory.mktemp("derived") / "run")


def chosen(table: pd.DataFrame, **equal: object) -> pd.DataFrame:
    for column, value in equal.items():
        table = table[table[column] == value]
    return table


def test_every_model_is_derived_and_the_exact_law_too(run: Run) -> None:
    found = set(zip(run.certificates["model"], run.certificates["variant"], strict=True))
    models = {"transformer", "transformer_deep", "lstm"}
    assert {(model, "normal") for model in models} <= found
    assert {("transformer", "exchanged"), ("lstm", "exchanged")} <= found
    assert ("transformer", "fail_held_10") in found
    assert ("lstm", "fail_held_10") not in found  # models = [...] names others
    exchanges = {
        "exchanged",
        "exchanged_k5",
        "exchanged_n2",
        "exchanged_n4",
        "exchanged_n8",
        "exchanged_n16",
        "exchanged_anywhere",
    }
    assert {(name, "reference") for name in exchanges} <= found
    assert set(run.measurements["evaluator"]) == {"in_context", "perturbation"}


def test_the_cost_of_an_exchange_is_added_to_the_certificate(run: Run) -> None:
    added = chosen(run.measurements, measure="kl_added")
    for model, variant, parent in (("lstm", "exchanged", "normal"), ("exchanged_n4", "reference", "reference")):
        cost = chosen(added, model=model, variant=variant)["value"].to_numpy()
        after = chosen(run.certificates, model=model, variant=variant)["kl"].to_numpy()
        before = chosen(run.certificates, model=model if parent == "normal" else "language", variant=parent)["kl"]
        assert (cost != 0).all()
        assert after == pytest.approx(np.maximum(before.to_numpy() + cost, 0), rel=1e-12)
    learned = chosen(added, variant="fail_held_10")
    assert np.isfinite(learned[["value", "lower", "upper"]].to_numpy()).all()
    after = chosen(run.certificates, model="transformer", variant="fail_held_10")["kl"].to_numpy()
    before = chosen(run.certificates, model="transformer", variant="normal")["kl"].to_numpy()
    assert learned["value"].to_numpy() == pytest.approx(after - before, abs=1e-9)  # on the certificate's own strings


def test_an_exchange_changes_answers_on_its_contexts_alone(run: Run) -> None:
    accuracy = chosen(run.measurements, measure="accuracy")
    for n, changed in ((0, False), (2, True), (4, False)):
        one = chosen(accuracy, model="language", prompt_set=f"seen.k3.n{n}")["value"].item()
        two = chosen(accuracy, model="exchanged_n2", prompt_set=f"seen.k3.n{n}")["value"].item()
        assert (two < one - 0.2) if changed else two == one


def test_an_interrupted_run_resumes_among_the_derived_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small(tmp_path / "run", display=StopAmongTheDerived())
    resumed = small(tmp_path / "run", resume=True, jobs=2)
    for name in TABLES:
        pd.testing.assert_frame_equal(run.table(name), resumed.table(name), check_exact=True)


def test_the_report_shows_it(run: Run) -> None:
    names = {path.stem for path in (run.directory / "figures").glob("*.png")}
    assert {"in_context", "perturbation"} <= names


def test_improbable_prefixes_of_any_language_are_contexts_of_rule_extrapolation(tmp_path: Path) -> None:
    derived = 'derived={rare={kind="exchange",of="normal",contexts={kind="improbable",length=3,below=0.9}}}'
    done = run_study(MAIN, out=tmp_path / "run", overrides=[*TINY, derived], seeds="0-1", jobs=1)
    cost = chosen(done.measurements, measure="kl_added", model="rare")
    # The only live prefixes of 3 symbols are aaa (n ≥ 3: 14/16) and aab (1/16); behind aaa an a follows in 13 of 14 cases.
    p = 13 / 14
    assert cost["value"].item() == pytest.approx(14 / 16 * (2 * p - 1) * math.log(p / (1 - p)), rel=1e-9)
    assert chosen(done.certificates, model="rare")["exact"].item()
    assert set(chosen(done.measurements, variant="rare")["evaluator"]) == {"rule_extrapolation", "perturbation"}


def test_a_variant_that_preserves_the_function_says_how_well(tmp_path: Path) -> None:
    derived = 'derived={wide={kind="widen",of="normal"},deep={kind="deepen",of="normal",models=[]}}'
    done = run_study(MAIN, out=tmp_path / "run", overrides=[*TINY, derived], seeds="0-1", jobs=1)
    rows = chosen(done.measurements, evaluator="function", variant="wide")
    assert set(rows["prompt_set"]) == {"id", "ood"}
    assert (chosen(rows, measure="function_difference")["value"] < 3e-4).all()
    assert (chosen(rows, measure="function_difference_float64")["value"] < 1e-10).all()
    kl = {variant: chosen(done.certificates, variant=variant)["kl"].to_numpy() for variant in ("normal", "wide")}
    assert kl["wide"] == pytest.approx(kl["normal"], abs=1e-4)
    assert chosen(done.certificates, variant="deep").empty


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('derived={x={kind="deepen",of="normal",layers=1}}', "derived.x, of transformer"),
        ('derived={x={kind="exchange",of="nrmal",contexts={kind="improbable",length=3,below=0.9}}}', "did you mean"),
        ('derived={x={kind="exchange",contexts={kind="improbable",length=3,below=0.9}}}', "expected of = "),
        (
            'derived={x={kind="exchange",of="normal",models=["tranformer"],'
            'contexts={kind="improbable",length=3,below=0.9}}}',
            "unknown model",
        ),
        ('derived={uniform={kind="exchange",of="normal",contexts={kind="improbable",length=3,below=0.9}}}', "is taken"),
        ('derived={x={kind="exchnge",of="normal"}}', "exchange"),
        ('derived={x={kind="exchange",of="normal",contexts={kind="prompts",k=3,examples=[2]}}}', "hmm_mixture"),
        ('derived={x={kind="taught",of="normal",lesson="fail",penalty=1.0}}', "hmm_mixture"),
        ('derived={x={kind="exchange",of="normal",contexts={kind="improbable",length=3,below=1e-9}}}', "derived.x"),
        ("evaluators={in_context={}}", "hmm_mixture"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_study(MAIN, [override, "claims=[]"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluators.in_context.examples=[40]", "no room for an answer"),
        ("evaluators.in_context.lengths=[200]", "do not fit documents"),
        ('models.transformer={architecture="transformer",positions="learned",context=60}', "context of 60"),
        ("derived.exchanged_n2.contexts.examples=[1]", "greater than or equal to 2, found 1"),
        ("derived.fail_held_10.penalty=0.0", "penalty"),
    ],
)
def test_what_does_not_fit_an_in_context_study_is_refused(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_study(STUDY, [override])


def test_the_published_sizes_are_those_of_the_paper_and_run_reduced(tmp_path: Path) -> None:
    study, languages = load_study(PAPER)
    sizes = {name: model.n_parameters(languages["ginc_released"].vocabulary) for name, model in study.models.items()}
    assert sizes["transformer_12"] == pytest.approx(85e6, rel=0.03)
    assert sizes["transformer_16"] == pytest.approx(115e6, rel=0.03)
    assert sizes["lstm"] == pytest.approx(28e6, rel=0.05)
    widths = (f"models.{name}.{key}" for name in study.models for key in ("layers=1", "width=12"))
    feeds = (f"models.{name}.feed_forward=16" for name in study.models if name != "lstm")
    reduced = (
        *('languages=["ginc_released"]', "training.steps=2", "training.probe_every=2", "training.batch=1", "claims=[]"),
        *(*widths, *feeds, "saturation.draws=2", "derived.exchanged.draws=12", "derived.exchanged.models=[]"),
        *(
            "evaluators.in_context.prompts=3",
            "evaluators.in_context.order_sets=0",
            "evaluators.in_context.lengths=[10]",
        ),
        *("evaluators.in_context.examples=[0,64]", 'evaluators.in_context.families=["seen"]'),
        *("derived.exchanged.contexts.examples=[2]", "training.stack=2"),
        'published_tables=[{table="ginc_iclr2022",languages={ginc_released="ginc_released"}}]',
    )
    done = run_study(PAPER, out=tmp_path / "run", overrides=reduced, seeds="0-1", jobs=1)
    assert set(done.published["model"]) == set(study.models)
    assert (done.published["seeds"] == 5).all()
    shares = chosen(done.measurements, model="language", measure="zero_share").set_index("prompt_set")["value"]
    assert shares["seen.k10.n64"] > shares["seen.k10.n0"]


def test_training_on_starts_where_it_ended_and_keeps_its_own_steps(tmp_path: Path) -> None:
    derived = 'derived={more={kind="longer",of="normal",steps=6,learning_rate=1e-9}}'
    done = run_study(MAIN, out=tmp_path / "run", overrides=[*TINY, derived, "training.batch=8"], seeds="0-1", jobs=1)
    kl = {name: chosen(done.certificates, variant=name)["kl"].to_numpy() for name in ("normal", "more")}
    assert kl["more"] == pytest.approx(kl["normal"], rel=1e-3)  # at such a rate nothing moves
    assert chosen(done.trajectory, variant="more")["step"].max() == 6
    assert (abs(chosen(done.measurements, variant="more", measure="kl_added")["value"]) < 1e-3).all()
