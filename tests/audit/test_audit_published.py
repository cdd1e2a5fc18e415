"""The shipped tables of both papers: each known mistake that can be computed is a finding; the page and the verb tell them."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from audit_table import write

from lmtest import cli
from lmtest.audit import FINDINGS, Audit, audit
from lmtest.audit.page import COLUMN_TEXTS, command, page
from lmtest.claims.published import NOT_SATURATED, TRIVIAL, compare_published
from lmtest.published import PublishedTable, match_published, published_rows, published_tables
from lmtest.result_table import EVERY
from lmtest.saturation import SaturationConfig

ROOT = Path(__file__).parent.parent.parent
ICML, NEURIPS = "understanding_icml2024", "rule_extrapolation_neurips2024"
PAGE = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(lmtest audit .*)\n```\n\n((?:- .*\n)+)", PAGE)


@pytest.fixture(scope="module")
def audits() -> dict[str, Audit]:
    return {name: audit(name) for name in published_tables()}


def told(done: Audit, finding: str, **where: str) -> pd.DataFrame:
    rows = done.findings[done.findings["finding"] == finding]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def test_the_negative_kl_of_the_first_paper_is_a_wrong_entropy(audits: dict[str, Audit]) -> None:
    rows = told(audits[ICML], "negative-kl")
    assert len(rows) == len(audits[ICML].rows)
    assert rows["sentence"].str.contains("is 0.0379, which is ln(128)/128 of its 128 strings", regex=False).all()
    excess = audits[ICML].rows["excess"]
    assert excess[0] == pytest.approx(0.0215 * 257 - math.log(128))
    assert (excess > 0.2).all()


def test_the_adversarial_models_are_broken_in_distribution(audits: dict[str, Audit]) -> None:
    rows = told(audits[ICML], "broken-in-distribution")
    assert set(rows["variant"]) == {"adversarial"}
    assert [sentence[:4] for sentence in rows["sentence"]] == ["0.12", "0.3 "]
    assert (
        rows["sentence"]
        .str.contains("where the language itself scores 1, and transformer/normal (line 4) 1", regex=False)
        .all()
    )


def test_variants_of_the_first_paper_have_other_losses_sizes_and_prompts(audits: dict[str, Audit]) -> None:
    done = audits[ICML]
    assert set(told(done, "losses-differ")["variant"]) == {"normal", "adversarial", "oracle"}
    assert not (done.comparisons["loss_verdict"] == "equal").any()
    trained = told(done, "trained-on-test")
    assert set(trained["variant"]) == {"adversarial", "oracle"}
    assert set(trained["sentence"]) == {"251 of the 251 prompts were trained on"}
    first = told(done, "sizes-differ", measure="R1_finished").iloc[0]
    assert first["sentence"].startswith("53294 parameters: transformer/normal (line 5) has 110076")
    early = told(done, "at-trivial", measure="R1_finished")
    assert early["sentence"].tolist() == ["0.2749, where stopping at once scores 0.2749"]


def test_statements_about_prompts_and_chance_are_checked(audits: dict[str, Audit]) -> None:
    prompts = told(audits[NEURIPS], "prompts-miscounted").set_index(["language", "prompt_set"])["sentence"]
    assert prompts["bban", "id"] == "stated 128, where 7 are distinct"
    assert prompts["bban", "ood"] == "stated 128, where 6 are distinct"
    assert prompts["anbncn", "all"] == "stated 125, where 243 are distinct: 5^3 in place of 3^5"
    assert {"ban", "anbn"}.isdisjoint(prompts.index.get_level_values(0))
    [sentence] = told(audits[NEURIPS], "chance-misstated")["sentence"]
    assert sentence == "stated 0.4445, where the uniform law scores 0.75"


def test_zero_filled_runs_show_in_mean_and_spread(audits: dict[str, Audit]) -> None:
    rows = told(audits[NEURIPS], "all-or-nothing", model="transformer").set_index("language")["sentence"]
    assert "11 runs at 1 and 4 at 0" in rows["ban"]
    assert "4 runs at 1 and 11 at 0" in rows["bban"]


def test_under_sampling_nobody_beats_stopping_at_once(audits: dict[str, Audit]) -> None:
    done = audits[NEURIPS]
    sampled = done.rows.query("language == 'anbn' and decoding == 'sampled'")
    levels = [
        set(told(done, name, language="anbn", decoding="sampled")["line"]) for name in ("below-trivial", "at-trivial")
    ]
    assert levels[0] | levels[1] == set(sampled["line"])
    [unsure] = levels[1]  # 0.174 ± 0.057 of an unknown number of runs
    assert sampled.set_index("line").loc[unsure, "spread"] == "0.057"


def test_no_printed_loss_is_impossible_and_no_difference_is_at_equal_loss(audits: dict[str, Audit]) -> None:
    done = audits[NEURIPS]
    assert told(done, "loss-below-floor").empty
    assert len(told(done, "too-few-digits")) == len(told(done, "pad-in-loss")) == 150
    assert not (done.comparisons["loss_verdict"] == "equal").any()
    assert len(told(done, "too-few-seeds")) > 10


@pytest.mark.parametrize(("table", "variant"), [(NEURIPS, "normal"), (ICML, "oracle")])
def test_the_audit_agrees_with_the_comparison_of_studies(audits: dict[str, Audit], table: str, variant: str) -> None:
    models = ["linear", "lstm", "mamba", "transformer", "xlstm"]
    asked = PublishedTable(table=table, languages={"anbn": "anbn"}, their_variant=variant)
    cells = match_published(asked, ["anbn"], models, ["normal"], Path())
    ours = pd.DataFrame(
        [{**{str(k): v for k, v in row.items()}, "seed": 0} for row in cells.to_dict("records")]
    ).drop_duplicates(["model", "measure", "prompt_set", "decoding"])
    compared = compare_published(published_rows([cells], SaturationConfig()), ours, pd.DataFrame())
    found = audits[table].findings
    for row in compared[compared["model"] != "people"].itertuples():
        match = found[
            (found["source"] == row.source) & (found["measure"] == row.measure) & (found["language"] == "anbn")
        ]
        match = match[(match["model"] == row.model) & (match["prompt_set"] == row.prompt_set)]
        names = set(match["finding"])
        assert ("not-saturated" in names) is (row.verdict == NOT_SATURATED)
        if row.verdict == TRIVIAL:
            assert names & {"at-trivial", "below-trivial", "at-chance", "below-chance"}


def test_the_page_is_written_from_the_tables() -> None:
    assert page() == PAGE
    assert list(COLUMN_TEXTS) == EVERY


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", [*map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_every_finding_of_a_table_has_its_command_on_the_page(audits: dict[str, Audit]) -> None:
    wanted = [command(name, finding) for name, done in audits.items() for finding in done.counts()["finding"]]
    assert [words for words, _ in COMMANDS] == wanted
    assert wanted


@pytest.mark.parametrize(("words", "lines"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_a_command_of_the_page_says_what_the_page_says(
    words: str,
    lines: str,
    audits: dict[str, Audit],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Each table is audited once for all commands; that the verb audits it anew is tested below.
    monkeypatch.setattr("lmtest.audit.audit", lambda table, epsilon: audits[table])
    assert run(monkeypatch, *shlex.split(words), "--json") == 0
    found = {row["line"]: row["sentence"] for row in json.loads(capsys.readouterr().out)["findings"]}
    told_lines = re.findall(r"^- line (\d+), .*?: (.*)$", lines, re.M)
    assert told_lines
    assert all(found[int(line)] == sentence for line, sentence in told_lines)
    more = int(match[1]) if (match := re.search(r"^- and (\d+) more", lines, re.M)) else 0
    assert len(found) == len(told_lines) + more
    assert run(monkeypatch, *shlex.split(words)) == 0
    output = capsys.readouterr().out
    assert FINDINGS[words.split()[-1]][:40] in output


def test_the_verb_prints_and_writes_an_own_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(
        'title = "mine"\nkind = "template"\ntemplate = "a^n"\nn = { law = "uniform", low = 1, high = 4 }\n',
        encoding="utf-8",
    )
    row = {"language": "mine.toml", "model": "m", "note": 'a "b", c', "loss": "1.30", "positions": "string"}
    path = write(tmp_path / "t.csv", row, row | {"loss": "1.50", "group": "apart"})
    out = tmp_path / "new" / "out.csv"
    assert run(monkeypatch, "lmtest", "audit", path, "--out", out) == 0
    assert "loss-below-floor  1" in capsys.readouterr().out
    written = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert written["findings"].tolist() == ["loss-below-floor", "not-saturated"]
    assert written.loc[0, ["language", "note", "loss"]].tolist() == ["mine.toml", 'a "b", c', "1.30"]
    assert float(written.loc[0, "floor"]) == pytest.approx(math.log(4))
    assert run(monkeypatch, "lmtest", "audit", path, "--epsilon", "0.5", "--json") == 0
    told_json = json.loads(capsys.readouterr().out)
    assert [row["finding"] for row in told_json["findings"]] == ["loss-below-floor"]
    assert told_json["counts"][0]["rows"] == 1
    before = path.read_bytes()
    for words, message in (
        (["--out", path], "is the table that was audited"),
        (["--finding", "negativ-kl"], "unknown finding 'negativ-kl'; did you mean 'negative-kl'?"),
        (["--epsilon", "0"], "expected an ε > 0"),
    ):
        assert run(monkeypatch, "lmtest", "audit", path, *words) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, "lmtest", "audit", tmp_path / "none.csv") == 2
    assert path.read_bytes() == before
