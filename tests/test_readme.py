"""Every command and every snippet of the README runs (studies reduced by --set), and says what the README says."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FINE_TUNING_TINY, IN_CONTEXT_TINY, LANGUAGES_TINY, MAIN, ROOT, TINY

import lmtest
from lmtest import cli
from lmtest.pipeline import run_study
from lmtest.study import load_study, with_claims

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python|toml)\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.startswith("lmtest ")
]
PAPER_TINY = [
    f"models.{model}.{key}"
    for model in ("no_positions", "sinusoidal")
    for key in ("layers=1", "width=8", "heads=2", "feed_forward=8")
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_study(MAIN, out=tmp_path_factory.mktemp("readme") / "run", overrides=TINY, seeds="0-1", jobs=1).directory


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme(
    command: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lmtest.claims.power.COMPARISONS", 0)  # 100 studies
    places = {"DIR": str(finished), "FOLDER": str(tmp_path / "folder")}
    words = [places.get(word, word) for word in shlex.split(command)]
    if words[1] == "run":
        reduced = TINY if "rule_extrapolation.toml" in command else (*TINY[:3], *PAPER_TINY, *TINY[-3:])
        # Whole, if tiny, these studies are run in tests of their own.
        one = ('languages=["ban_small"]', "published_tables=[]")
        reduced = (*LANGUAGES_TINY, *one) if "languages.toml" in command else reduced
        reduced = (*IN_CONTEXT_TINY, "derived={}") if "in_context.toml" in command else reduced
        reduced = (*FINE_TUNING_TINY, "claims=[]", "derived={}") if "fine_tuning.toml" in command else reduced
        seeds = "0-1" if reduced[0] in (TINY[0], IN_CONTEXT_TINY[0]) else "0"
        words += [word for key in reduced for word in ("--set", key)] + ["--seeds", seeds, "--jobs", "1"]
        words += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code in ((3, 4) if words[1] == "claims" else (0, None))
    assert capsys.readouterr().out


def test_the_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reduced(file: str, **options: Any) -> Any:
        options |= {"out": tmp_path / "out", "overrides": [*options["overrides"], *TINY], "seeds": "0-1", "jobs": 1}
        return run_study(ROOT / file, **options)

    monkeypatch.setattr(lmtest, "run_study", reduced, raising=False)
    (code,) = (text for kind, text in BLOCKS if kind == "python" and "load_language" in text)
    names: dict[str, Any] = {}
    exec(code, names)
    language = names["language"]
    assert language.next_symbol_law("aaa") == pytest.approx({"a": 13 / 14, "b": 1 / 14, "<eos>": 0.0})
    np.testing.assert_allclose(language.log_prob(["aabb", "ba"]), [-np.log(16), -np.inf])
    assert len(names["run"].verdicts) == 7


def test_the_claim_of_the_readme_is_one() -> None:
    (code,) = (text for kind, text in BLOCKS if kind == "python" and "lmtest_claim" in text)
    names: dict[str, Any] = {"pytest": pytest}
    exec(code, names)
    (marks,) = (value.pytestmark for name, value in names.items() if name.startswith("test_"))
    claim = next(mark for mark in marks if mark.name == "lmtest_claim").kwargs
    study, languages = load_study(MAIN)
    assert with_claims(study, languages, [{"id": "x", "statement": "x"} | claim], "README").claims[0].kind == "order"


def test_the_language_file_of_the_readme(tmp_path: Path) -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "toml")
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    mine, shipped = lmtest.load_language(path), lmtest.load_language("anbn_small")
    assert mine.entropy() == shipped.entropy()
    assert list(mine.rules) == list(shipped.rules)


def test_the_picture_is_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 10_000
