"""`lmtest evaluate`: a run, its export and a Python object get the same certificate and the same measurements."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import MAIN, TINY

from lmtest.adapters.given import Given
from lmtest.atomic import write_json
from lmtest.cli import main
from lmtest.columns import CERTIFICATES, MEASUREMENTS
from lmtest.directory import Run
from lmtest.errors import LmtestError, UsageError
from lmtest.evaluate import Evaluation, evaluate, load_model
from lmtest.export.hugging_face import export_hugging_face
from lmtest.languages import Language
from lmtest.models.reference import Uniform
from lmtest.models.stack import StackedModel
from lmtest.pipeline import run_study
from lmtest.trained import trained_model

SETTINGS = ("prompt_length=4", "max_new_tokens=12", "samples=40")
WIDE = 'derived.wide={of="normal",kind="widen"}'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return run_study(MAIN, out=out, overrides=(*TINY, "claims=[]", WIDE), seeds="0-2", jobs=1)


@pytest.fixture(scope="module")
def of_run(run: Run, anbn_small: Language) -> Evaluation:
    return evaluate(anbn_small, load_model(str(run.directory), anbn_small, variant="normal"), settings=SETTINGS)


def lmtest(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lmtest", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_a_run_has_the_certificate_and_greedy_measurements_that_it_had(run: Run, of_run: Evaluation) -> None:
    old = run.certificates[run.certificates["variant"] == "normal"].reset_index(drop=True)
    assert list(of_run.certificates.columns) == list(CERTIFICATES)
    assert list(of_run.measurements.columns) == list(MEASUREMENTS)
    assert set(of_run.certificates["seed"]) == {0, 1, 2}  # two stacks, all of them
    np.testing.assert_allclose(of_run.certificates["kl"], old["kl"], rtol=1e-5)
    assert (of_run.measurements["study"] == "evaluate").all()
    assert (of_run.measurements["variant"] == "given").all()
    keys = ["seed", "measure", "prompt_set"]
    before, after = (
        table[table["decoding"] == "greedy"].set_index(keys)["value"].sort_index()
        for table in (run.measurements[run.measurements["variant"] == "normal"], of_run.measurements)
    )
    pd.testing.assert_series_equal(before, after, check_index_type=False)


def test_an_export_has_the_certificate_and_measurements_of_the_run(
    tmp_path: Path, run: Run, of_run: Evaluation, anbn_small: Language
) -> None:
    model = trained_model(run.directory, variant="normal").model
    assert isinstance(model, StackedModel)
    export_hugging_face(model, 0, tmp_path / "made")
    found = evaluate(anbn_small, load_model(str(tmp_path / "made"), anbn_small), settings=SETTINGS)
    assert found.certificates["kl"].item() == pytest.approx(of_run.certificates["kl"][0], abs=1e-4)
    outside = found.measurements["measure"] == "mass_outside"
    assert found.measurements[outside]["value"].item() == 0.0
    ours = of_run.measurements[of_run.measurements["seed"] == 0].reset_index(drop=True)
    labels = ["study", "language", "model", "variant"]
    pd.testing.assert_frame_equal(ours.drop(columns=labels), found.measurements[~outside].drop(columns=labels))


def test_a_variant_of_the_same_function_is_made_again(run: Run, of_run: Evaluation, anbn_small: Language) -> None:
    wide = evaluate(anbn_small, load_model(str(run.directory), anbn_small, variant="wide"), settings=SETTINGS)
    np.testing.assert_allclose(wide.certificates["kl"], of_run.certificates["kl"], atol=1e-4)


def test_the_language_itself_has_no_excess_loss(anbn_small: Language) -> None:
    found = evaluate(anbn_small, Given("exact", anbn_small), settings=SETTINGS)
    assert found.certificates["kl"].item() == pytest.approx(0, abs=1e-12)
    assert found.certificates["saturated"].item()


def test_the_uniform_law_is_at_chance(anbn_small: Language) -> None:
    found = evaluate(
        anbn_small, Given("uniform", Uniform(anbn_small.vocabulary)), "string_mass", ("max_length=4",)
    ).measurements
    np.testing.assert_allclose(found["value"], found["chance"], atol=1e-12)


def test_evaluators_of_weights_want_a_run(run: Run, anbn_small: Language) -> None:
    task = 'tasks=[{kind="continuation",name="anbnan",language="anbnan_small"}]'
    for name, settings in (("flatness", ()), ("fine_tuning", (task,))):
        with pytest.raises(UsageError, match=f"{name} changes or differentiates weights, and needs a model of a run"):
            evaluate(anbn_small, Given("exact", anbn_small), name, settings)
    given = load_model(str(run.directory), anbn_small, variant="normal")
    assert (evaluate(anbn_small, given, "flatness", ("probes=2",)).measurements["evaluator"] == "flatness").all()


def test_a_law_that_ends_within_the_language_has_no_certificate(anbn_small: Language) -> None:
    class Short(Uniform):
        def next_log_probs(self, tokens: Any) -> Any:
            law = super().next_log_probs(tokens)
            law[:, :, 25:] = float("nan")
            return law

    with pytest.raises(LmtestError, match=r"short gives no law \(NaN\) behind some strings of anbn_small"):
        evaluate(anbn_small, Given("short", Short(anbn_small.vocabulary)), settings=SETTINGS)


def test_the_command_writes_tables_that_join_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run, of_run: Evaluation
) -> None:
    words = ["evaluate", "--language", "anbn_small", "--model", run.directory, "--variant", "normal"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    assert lmtest(monkeypatch, *words, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "transformer.normal on anbn_small" in shown
    assert "excess loss, nats per string" in shown
    for name in ("certificates", "measurements"):
        table = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(table, getattr(of_run, name))
        assert list(table.columns) == list(run.table(name).columns)
    assert lmtest(monkeypatch, *words, "--out", tmp_path / "out") == 2
    assert "is not empty: name another folder" in " ".join(capsys.readouterr().err.split())
    assert lmtest(monkeypatch, *words, "--json", "--epsilon", "1e9") == 0
    found = json.loads(capsys.readouterr().out)
    assert all(row["saturated"] for row in found["certificates"])
    assert len(found["measurements"]) == len(of_run.measurements)


def test_a_python_object_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_laws", raising=False)
    (tmp_path / "my_laws.py").write_text(
        "import torch\n"
        "def exact(language):\n    return language\n"
        "class Logits:\n"
        "    def next_log_probs(self, tokens):\n        return torch.ones(1, *tokens.shape, 3)\n"
        "def unnormalised(language):\n    return Logits()\n"
    )
    words = ["evaluate", "--language", "anbn_tiny", "--evaluator", "string_mass", "--set", "max_length=4", "--json"]
    assert lmtest(monkeypatch, *words, "--model", "my_laws:exact") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "exact"
    assert found["certificates"][0]["kl"] == pytest.approx(0, abs=1e-12)
    assert next(r["value"] for r in found["measurements"] if r["measure"] == "mass_grammatical") == pytest.approx(2 / 8)
    assert lmtest(monkeypatch, *words, "--model", "my_laws:unnormalised") == 2
    assert "behind '' its probabilities do not sum to 1" in " ".join(capsys.readouterr().err.split())


def test_exports_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    out = tmp_path / "made"
    assert lmtest(monkeypatch, "export", "hf", run.directory, "--variant", "oracle", "--seed", 2, "--out", out) == 0
    assert "OPTForCausalLM, logits within" in capsys.readouterr().out
    words = [
        "evaluate",
        "--language",
        "anbn_small",
        "--model",
        out,
        "--evaluator",
        "string_mass",
        "--set",
        "max_length=4",
    ]
    assert lmtest(monkeypatch, *words) == 0
    assert "mass_outside" in capsys.readouterr().out
    task = ["export", "lm-eval", "anbn_small", "--out", tmp_path / "task", "--set", "prompt_length=4"]
    assert lmtest(monkeypatch, *task) == 0
    assert "lmtest_anbn_small_R1_ood: 8 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere"], "cannot find the model 'nowhere': expected a run directory, a local folder"),
        (["--model", "RUN"], "has several variants: choose one with --variant (normal, adversarial, oracle, wide)"),
        (["--model", "RUN", "--variant", "orcale"], "unknown variant 'orcale'; did you mean 'oracle'?"),
        (["--model", "RUN", "--model-name", "lstm"], "unknown model 'lstm'"),
        (["--model", "nowhere:build", "--variant", "normal"], "choose among the models of a run directory"),
        (["--model", "RUN", "--kind", "rnn"], "unknown kind 'rnn'; did you mean 'run'?"),
        (["--model", "RUN", "--kind", "hf"], "no config.json"),
        (["--model", "nowhere", "--kind", "run"], "no run directory (no resolved.json)"),
        (["--model", "RUN", "--variant", "normal", "--evaluator", "flat"], "unknown evaluator 'flat'; did you mean"),
        (["--model", "RUN", "--variant", "normal", "--set", "prompt_lenth=3"], "did you mean 'prompt_length'?"),
        (["--model", "RUN", "--variant", "normal", "--epsilon", "0"], "'epsilon'"),
        (["--model", "RUN", "--variant", "normal", "--draws", "1"], "'draws'"),
        (
            ["--model", "RUN", "--variant", "normal", "--language", "anbncn_small"],
            "choose a language of the same symbols",
        ),
        (["--model", "RUN", "--variant", "normal", "--evaluator", "in_context"], "expected a language of kind"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Run,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(run.directory) if word == "RUN" else word for word in words]
    assert lmtest(monkeypatch, "evaluate", "--language", "anbn_small", *given, "--out", "out") == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert message in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_damaged_and_unfinished_runs_are_said(tmp_path: Path, run: Run, anbn_small: Language) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.directory, copy)
    resolved = json.loads((copy / "resolved.json").read_text())
    victim = next((copy / "checkpoints").glob("*normal*"))
    victim.unlink()
    with pytest.raises(UsageError, match=r"the training of anbn_small.transformer.normal.* is not finished"):
        trained_model(copy, anbn_small, variant="normal")
    for damaged in ("{", json.dumps({"name": "x"}), json.dumps(resolved | {"languages": 3}), "[]"):
        (copy / "resolved.json").write_text(damaged)
        with pytest.raises(UsageError, match=r"resolved.json"):
            trained_model(copy, anbn_small, variant="normal")
    write_json(copy / "resolved.json", resolved)
    assert trained_model(copy, anbn_small, variant="oracle").name == "transformer.oracle"


def test_a_variant_of_exchanged_laws_is_no_model(tmp_path: Path, run: Run, anbn_small: Language) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    resolved = json.loads((run.directory / "resolved.json").read_text())
    contexts = {"kind": "prompts", "k": 3, "examples": [2]}
    resolved["config"]["derived"]["swapped"] = {"of": "normal", "kind": "exchange", "contexts": contexts}
    write_json(copy / "resolved.json", resolved)
    with pytest.raises(UsageError, match=r"the variant 'swapped' exchanges next symbols .* is no model of its own"):
        trained_model(copy, anbn_small, variant="swapped")
