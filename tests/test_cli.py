"""The command line: verbs, exit codes, machine-readable output, errors in one line."""

import json
from pathlib import Path

import pytest
from tiny import MAIN, TINY

from lmtest import cli
from lmtest.pipeline import run_study


def lmtest(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["lmtest", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    return run_study(MAIN, out=out, overrides=TINY, seeds="0-1", jobs=1).directory


def test_version_and_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lmtest(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == "0.1.0"
    assert lmtest(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for verb in ("run", "languages", "describe", "sample", "report", "claims", "compare"):
        assert verb in text


def test_languages_lists_what_is_shipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lmtest(monkeypatch, "languages", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"anbn", "anbn_small", "anbn_geometric", "dyck2", "palindromes", "sums", "english_small"} <= set(rows)
    assert rows["anbn"]["entropy"] == pytest.approx(4.852030263919617)
    assert lmtest(monkeypatch, "languages") == 0


def test_describe_tells_prompts_and_floor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lmtest(monkeypatch, "describe", "anbn", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["prompts"] == {
        "length": 8,
        "in_distribution": 5,
        "out_of_distribution": 251,
        "broken": {"R2": 247, "joint": 4},
    }
    assert facts["entropy"]["exact"] is True
    assert lmtest(monkeypatch, "describe", "anbn") == 0
    assert "ln" not in capsys.readouterr().err


def test_sample_draws_the_same_strings_for_the_same_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for _ in range(2):
        assert lmtest(monkeypatch, "sample", "dyck2", "-n", "5", "--seed", "3", "--json") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])) == 5


def test_claims_exits_with_4_where_one_is_undecided(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    assert lmtest(monkeypatch, "claims", finished, "--json") == 4
    assert len(json.loads(capsys.readouterr().out)) == 7


@pytest.mark.parametrize(
    ("verdicts", "code"), [(["supported"], 0), (["supported", "undecided"], 4), (["undecided", "refuted"], 3)]
)
def test_claims_exit_code_is_the_worst_verdict(
    monkeypatch: pytest.MonkeyPatch, finished: Path, tmp_path: Path, verdicts: list[str], code: int
) -> None:
    import pandas as pd

    table = pd.read_parquet(finished / "verdicts.parquet").head(len(verdicts)).assign(verdict=verdicts)
    table.to_parquet(tmp_path / "verdicts.parquet")
    assert lmtest(monkeypatch, "claims", tmp_path) == code


def test_report_and_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    (finished / "report.html").unlink()
    assert lmtest(monkeypatch, "report", finished) == 0
    assert (finished / "report.html").is_file()
    capsys.readouterr()
    assert lmtest(monkeypatch, "compare", finished, finished, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["difference"] in (0.0, None) for row in rows)


def test_dry_run_shows_cells_cost_and_attainability(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [word for key in TINY for word in ("--set", key)]
    assert lmtest(monkeypatch, "run", MAIN, "--dry-run", "--json", "--seeds", "0-3", *sets) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["cells"]) == 6
    assert plan["seconds"] > 0
    attainable = {row["claim"]: row["attainable"] for row in plan["claims"]}
    assert not attainable["rule_extrapolation/normal_beats_chance"]  # 4 seeds: 1/16 at best
    assert attainable["rule_extrapolation/equal_loss"]
    assert lmtest(monkeypatch, "run", MAIN, "--dry-run", "--json", *sets) == 0
    assert all(row["attainable"] for row in json.loads(capsys.readouterr().out)["claims"])
    assert not list(tmp_path.iterdir())  # nothing was run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nope.toml"], "cannot read nope.toml"),
        (["describe", "abnn"], "did you mean 'abn'?"),
        (["claims", "nowhere"], "no run directory 'nowhere'"),
        (["run", "MAIN", "--set", "training.stepz=5"], "unknown key 'training.stepz'; did you mean 'steps'?"),
        (["run", "MAIN", "--set", "training.steps=0"], "training.steps"),
        (["run", "MAIN", "--set", "nonsense"], "write key=value"),
        (["run", "MAIN", "--set", "models.transformer.width=30"], "expected heads to divide width"),
        (["run", "MAIN", "--set", "models.transformer.architecture=gru"], "architecture"),
        (["run", "MAIN", "--set", "variants.oracle.objective=orakel"], "orakel"),
        (["run", "MAIN", "--set", "claims.0.marginn=1"], "did you mean 'margin'?"),
        (["run", "MAIN", "--set", 'claims.0.variants=["normal","orcale"]'], "did you mean 'oracle'?"),
        (["run", "MAIN", "--set", "models.transformer.architecture=lstn"], "did you mean 'lstm'?"),
        (
            ["run", "MAIN", "--set", "models.lstm.architecture=mamba", "--set", "models.lstm.stat=8"],
            "did you mean 'state'?",
        ),
        (["run", "MAIN", "--set", "exceptions=[{languages=[],training={steps=3}}]"], "exceptions.0.languages"),
        (
            ["run", "MAIN", "--set", "exceptions=[{training={stepz=3}}]"],
            "exceptions.0, for transformer on anbn_small: unknown key",
        ),
        (["run", "MAIN", "--set", 'exceptions=[{models=["lstm"],training={steps=3}}]'], "unknown model 'lstm'"),
        (["run", "MAIN", "--set", "training.batch=many"], "error: MAIN: 'training.batch'"),
        (["run", "MAIN", "--set", "models.transformer.heads=5"], "error: MAIN: models.transformer: expected heads"),
        (["run", "MAIN", "--set", 'languages=["anbn_small"]'], "expected either language = NAME or languages"),
        (["run", "MAIN", "--set", "claims.6.measure=R1_finished"], "heterogeneity needs an outcome per prompt"),
        (
            [
                *("run", "MAIN", "--set", "models.l.architecture=linear", "--set", "models.l.context=40", "--set"),
                *("language=anbn", "--set", "claims=[]", "--set", "published=[]"),
            ],
            "l on anbn: strings (and prompts with their completions) of up to 256 symbols do not fit a context of 40",
        ),
        (["run", "MAIN", "--set", "models.other.layers=1"], "'models.other.architecture' is missing"),
        (["run", "MAIN", "--set", "variants.normal.objective=orcale"], "did you mean 'oracle'?"),
        (["run", "MAIN", "--set", "evaluators.rule_extrapolation.prompt_length=0"], "prompt length of at least 1"),
        (["run", "MAIN", "--set", "language=palindromes", "--set", "training.batch=8"], "none is out of distribution"),
        (["run", "MAIN", "--set", "claims.1.prompt_set=odd"], "unknown prompt_set 'odd'; did you mean 'ood'?"),
        (["run", "MAIN", "--set", "claims.6.decoding=beam"], "unknown decoding 'beam'"),
        (["run", "MAIN", "--set", "published.1.measure=R9"], "unknown 'R9'"),
        (["run", "MAIN", "--set", "variants.adversarial.rule=R9"], "breaks rule 'R9'"),
        (["run", "MAIN", "--set", "language=anbn_geometric"], 'batch = "support" needs'),
        (["run", "MAIN", "--set", "language=dyck2", "--set", "claims=[]", "--set", "published=[]"], "too many"),
        (
            ["run", "MAIN", "--set", "models.transformer.positions=learned", "--set", "models.transformer.context=20"],
            "do not fit a context of 20",
        ),
        (["describe", "anbn", "--length", "0"], "whole number ≥ 1, found 0"),
        (["sample", "anbn", "--seed", "-3"], "found -3"),
        (["run", "MAIN", "--out", "/proc/nope"], "cannot write to /proc/nope"),
        (["run", "MAIN", "--seeds", "7-"], "cannot read the seeds"),
        (["run", "MAIN", "--seeds", "3,3"], "distinct seeds"),
        (["run", "MAIN", "--device", "tpu"], "expected auto, cpu or cuda"),
        (["run", "MAIN", "--jobs", "0"], "at least 1, found 0"),
        (["sample", "anbn", "-n", "-3"], "found -3"),
        (["frobnicate"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lmtest(monkeypatch, *(str(MAIN) if word == "MAIN" else word for word in words)) == 2
    errors = capsys.readouterr().err
    assert message.replace("MAIN", str(MAIN)) in " ".join(errors.split())
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_an_existing_output_folder_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    assert lmtest(monkeypatch, "run", MAIN, "--out", finished) == 2


def test_describe_says_all_that_a_language_file_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "mine"\nkind = "pcfg"\ngrammar = """S -> S S [0.2] | \'a\' [0.8]"""\n[rules]\nR = { regex = "a+" }\n',
        "utf-8",
    )
    picture = tmp_path / "lengths.png"
    assert lmtest(monkeypatch, "describe", str(file), "--json", "--picture", str(picture)) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["class"]["class"] == "context-free"
    assert facts["ambiguity"] == "ambiguous: 'aaa' has more than one derivation"
    assert facts["length"]["mean"] == pytest.approx(4 / 3, abs=1e-6)
    assert facts["length"]["law"]["1"] == pytest.approx(0.8)
    assert facts["likeliest"]["aa"] == pytest.approx(0.2 * 0.64)
    assert len(facts["likeliest"]) == 10
    assert facts["rules"]["R"].startswith("regex a+: holds on 10000 draws")
    assert (
        facts["rules"]["all rules"] == "are the language, for strings of at most 49999 symbols"
        or "at most" in (facts["rules"]["all rules"])
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert lmtest(monkeypatch, "describe", str(file)) == 0
    shown = capsys.readouterr().out
    assert "likeliest" in shown
    assert "law" not in shown.split("length")[1].split("entropy")[0]


def test_a_language_file_by_path_works_in_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    language = tmp_path / "ab.toml"
    grammar = "S -> 'a' S 'b' [0.5] | 'a' 'b' [0.5]"
    language.write_text(f'title = "ab"\nkind = "pcfg"\nmax_length = 8\ngrammar = "{grammar}"\n', "utf-8")
    assert lmtest(monkeypatch, "sample", str(language), "-n", "2") == 0
    assert lmtest(monkeypatch, "describe", str(language), "--length", "4") == 0
    assert (
        lmtest(monkeypatch, "export", "lm-eval", str(language), "--out", str(tmp_path / "task")) == 2
    )  # it has no rules
    named = ("--set", f'language="{language}"', "--set", "claims=[]", "--dry-run", "--seeds", "0", "--json")
    assert lmtest(monkeypatch, "run", str(MAIN), *named, "--set", "variants={normal={objective='maximum_likelihood'}}",
                  "--set", "published=[]", "--set", "published_tables=[]") == 0  # fmt: skip
    capsys.readouterr()
    study = tmp_path / "study.toml"
    study.write_text(MAIN.read_text("utf-8").replace('language = "anbn_small"', 'language = "ab.toml"'), "utf-8")
    monkeypatch.chdir("/")  # a path in a study is relative to the study
    code = lmtest(monkeypatch, "run", str(study), "--set", "claims=[]", "--set", "published=[]", "--dry-run", "--seeds", "0",
                  "--set", "variants={normal={objective='maximum_likelihood'}}", "--set", "published_tables=[]")  # fmt: skip
    assert code == 0
