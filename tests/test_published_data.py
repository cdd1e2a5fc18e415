"""Published tables: read without loss, refused where they are none, and set beside what is exact about their languages."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny import MAIN, TINY

from lmtest.claims.published import CANDIDATE_COLUMNS
from lmtest.columns import PUBLISHED
from lmtest.directory import Run
from lmtest.errors import UsageError
from lmtest.evaluators.chance import uniform_chance
from lmtest.evaluators.rule_extrapolation import RuleExtrapolationConfig
from lmtest.languages import load_language
from lmtest.models.reference import StopAtOnce
from lmtest.pipeline import run_study
from lmtest.published import (
    COLUMNS,
    PublishedTable,
    load_published,
    match_published,
    published_rows,
    published_tables,
    trivial_levels,
)
from lmtest.saturation import SaturationConfig
from lmtest.study import load_study

LANGUAGES = ["ban", "bban", "anbn", "brackets_nested", "anbncn", "brackets_shuffled"]
MODELS = ["linear", "lstm", "mamba", "transformer", "xlstm"]
GINC, NEURIPS, ICML = "ginc_iclr2022", "rule_extrapolation_neurips2024", "understanding_icml2024"
HERE = Path()


def cell(table: pd.DataFrame, language: str, model: str, measure: str, prompt_set: str = "ood") -> pd.Series:
    rows = table[(table["language"] == language) & (table["model"] == model) & (table["measure"] == measure)]
    [(_, row)] = rows[(rows["prompt_set"] == prompt_set) & (rows["decoding"] == "greedy")].iterrows()
    return row


def test_every_published_cell_is_there_once() -> None:
    assert published_tables() == [GINC, NEURIPS, ICML]
    table = load_published(NEURIPS)
    assert list(table.columns) == [*COLUMNS, "value_rounding", "loss_rounding"]
    assert len(table) == 6 * 5 * 5 + 4 + (3 + 2) * 4
    assert not table.duplicated(["language", "model", "measure", "prompt_set", "decoding", "source"]).any()
    for language in LANGUAGES:
        first = "R1_released_finished" if language == "bban" else "R1_finished"
        wanted = {(first, "id"), ("R2_finished", "id"), (first, "ood"), ("R2_completion_finished", "ood")}
        for model in MODELS:
            rows = table[(table["language"] == language) & (table["model"] == model) & (table["decoding"] == "greedy")]
            assert set(zip(rows["measure"], rows["prompt_set"], strict=True)) == wanted | {("finish_rate", "ood")}
            assert len(rows) == 5
            assert rows[["loss", "loss_spread", "n", "source"]].nunique().eq(1).all()
            assert (rows["positions"] == 257).all()
    assert len(load_published(ICML)) == 6 * 3
    ginc = load_published(GINC)
    assert len(ginc) == 3 * 4
    assert not ginc.duplicated(["language", "model"]).any()


def test_all_published_numbers_can_be_what_they_say() -> None:
    for name in published_tables():
        table = load_published(name)
        assert table["value"].between(0, 1).all()
        counted = table["n"] > 1
        # A standard deviation on [0, 1] is largest where all runs are 0 or 1.
        largest = np.sqrt(table["value"] * (1 - table["value"]) * table["n"] / (table["n"] - 1)) + 5e-3
        assert (table["spread"] <= largest)[counted & table["spread"].notna()].all()
        assert (table["loss"].isna() == table["positions"].isna()).all()


def test_anchors_are_those_of_the_released_results() -> None:
    table = load_published(NEURIPS)
    row = cell(table, "anbn", "transformer", "R1_finished")
    assert row[["value", "spread", "n"]].tolist() == [0.657, 0.162, 268]
    assert row[["loss", "loss_spread", "value_rounding", "loss_rounding"]].tolist() == [0.0217, 0.0020, 0.0005, 0.00005]
    assert cell(table, "ban", "lstm", "R1_finished")[["value", "spread", "n"]].tolist() == [0.862, 0.143, 11]
    assert cell(table, "bban", "transformer", "R1_released_finished", "id")["value"] == 0.175
    assert cell(table, "anbncn", "mamba", "R1_finished")[["value", "n", "loss"]].tolist() == [0.099, 2, 0.0173]
    assert cell(table, "brackets_shuffled", "xlstm", "R2_completion_finished")["spread"] == 0.121
    assert cell(table, "brackets_nested", "linear", "finish_rate")[["loss", "loss_spread"]].tolist() == [6.14, 0.65]
    assert "11 of 15 runs finish nothing" in cell(table, "bban", "transformer", "R1_released_finished")["note"]
    people = cell(table, "anbn", "people", "R1_finished")
    answers = np.repeat([1.0, 0.0], [22, 31])
    assert people[["value", "spread"]].tolist() == pytest.approx([answers.mean(), answers.std(ddof=1)], abs=5e-4)
    assert people["n"] == 53
    sampled = table[table["decoding"] == "sampled"]
    assert sorted(sampled.loc[sampled["language"] == "anbn", "value"])[-1] == 0.255
    ginc = load_published(GINC).set_index(["language", "model"])
    assert ginc.loc[("ginc_released_150", "transformer_12"), "value"] == 0.984
    half = ginc.loc[("ginc_released", "transformer_12"), "spread"] / 5**0.5 * stats.t.ppf(0.975, 4)
    assert half == pytest.approx(0.071, abs=5e-4)
    table = load_published(ICML)
    first = table[(table["variant"] == "normal") & (table["measure"] == "R1_finished")].iloc[0]
    assert first[["value", "spread", "n", "loss"]].tolist() == [0.437, 0.045, 46, 0.0215]


def write(path: Path, **keys: str) -> Path:
    row = dict.fromkeys(COLUMNS, "") | {"language": "anbn", "model": "lstm", "variant": "normal", "decoding": "greedy"}
    row |= {"measure": "R1", "prompt_set": "ood", "value": "0.5", "source": "mine"} | keys
    pd.DataFrame([row]).to_csv(path, index=False)
    return path


def test_an_own_table_is_read_and_a_faulty_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    table = load_published(write(path, spread="0.1", n="3"))
    assert table.loc[0, ["value", "spread", "n", "value_rounding"]].tolist() == [0.5, 0.1, 3, 0.05]
    assert table.loc[0, ["loss", "loss_spread", "positions"]].isna().all()
    for keys, message in (
        ({"valeu": "1"}, "unknown column 'valeu'; did you mean 'value'"),
        ({"value": "high"}, "line 2, value: expected a finite number or nothing, found 'high'"),
        ({"value": ""}, "line 2, value: expected something"),
        ({"value": "inf"}, "value: expected a finite number"),
        ({"source": " "}, "source: expected something"),
        ({"spread": "-0.1"}, "spread: expected a number ≥ 0"),
        ({"n": "2.5"}, "n: expected a whole number"),
        ({"loss": "0.1"}, "positions: expected a number ≥ 1 beside a loss"),
    ):
        with pytest.raises(UsageError, match=message):
            load_published(write(path, **keys))
    pd.read_csv(write(path)).drop(columns="note").to_csv(path, index=False)
    with pytest.raises(UsageError, match="the column 'note' is missing"):
        load_published(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no CSV file"):
        load_published(path)
    with pytest.raises(UsageError, match=f"no published table .*did you mean '{ICML}'"):
        load_published("understanding_icml")


def match(models: list[str], variants: list[str], /, **keys: object) -> pd.DataFrame:
    asked = PublishedTable.model_validate({"table": NEURIPS, "languages": {"anbn_small": "anbn"}} | keys)
    return match_published(asked, ["anbn_small", "ban_small"], models, variants, HERE)


def test_cells_are_matched_by_name_or_as_told() -> None:
    cells = match(["lstm", "gla", "xlstm"], ["normal"])
    assert set(cells["model"]) == {"lstm", "xlstm", "people"}
    assert set(cells["language"]) == {"anbn_small"}
    assert set(cells["label"]) == {"lstm on anbn", "xlstm on anbn", "people on anbn"}
    assert cells["model"].value_counts().to_dict() == {"lstm": 7, "xlstm": 5, "people": 2}
    told = match(["a", "b"], ["normal", "oracle"], variant="oracle", models={"a": "mamba", "b": "mamba"})
    assert set(told["variant"]) == {"oracle"}
    assert told["model"].value_counts().to_dict() == {"a": 7, "b": 7, "people": 2}
    keys = {"table": ICML, "their_variant": "oracle"}
    oracle = match(["transformer"], ["normal"], **keys)
    assert set(oracle["label"]) == {"transformer on anbn, oracle"}
    assert len(oracle) == 3


def test_unknown_names_are_told_before_a_run() -> None:
    for keys, message in (
        ({"table": "rule_extrapolation_neurips"}, f"did you mean '{NEURIPS}'"),
        ({"languages": {"anbn_smal": "anbn"}}, "unknown language 'anbn_smal'; did you mean 'anbn_small'"),
        ({"languages": {"anbn_small": "abnb"}}, "unknown language of the table 'abnb'"),
        ({"models": {"lstn": "lstm"}}, "unknown model 'lstn'; did you mean 'lstm'"),
        ({"models": {"lstm": "lsmt"}}, "unknown model of the table 'lsmt'"),
        ({"variant": "nomal"}, "unknown variant 'nomal'; did you mean 'normal'"),
        ({"their_variant": "oracle"}, "unknown variant of the table 'oracle'"),
        (
            {"table": ICML, "models": {"lstm": "transformer"}},
            "expected their_variant, one of adversarial, normal, oracle",
        ),
        ({"table": ICML}, "no model of the study has the name of one of the table"),
    ):
        with pytest.raises(UsageError, match=message):
            match(["lstm"], ["normal"], **keys)
    with pytest.raises(UsageError, match="expected variant, one of normal, oracle"):
        match(["lstm"], ["normal", "oracle"])


def test_a_study_names_its_tables_and_is_refused_where_they_do_not_fit() -> None:
    asked = f'published_tables=[{{table="{ICML}",languages={{anbn_small="anbn"}},variant="%s",their_variant="normal"}}]'
    study, languages = load_study(MAIN, [asked % "normal"])
    [cells] = study.published_cells(languages, MAIN.parent)
    assert len(cells) == 9
    with pytest.raises(UsageError, match=r"rule_extrapolation.toml: published_tables, .*unknown variant 'nromal'"):
        load_study(MAIN, [asked % "nromal"])


def rows_of(languages: list[str], saturation: SaturationConfig | None = None) -> pd.DataFrame:
    asked = PublishedTable(table=NEURIPS, languages={name: name for name in languages})
    cells = match_published(asked, languages, MODELS, ["normal"], HERE)
    return published_rows([cells], saturation or SaturationConfig())


def test_their_excess_is_their_loss_of_a_string_above_the_entropy() -> None:
    rows = rows_of(["anbn", "ban"])
    assert list(rows.columns) == list(CANDIDATE_COLUMNS)
    row = cell(rows, "anbn", "transformer", "R1_finished")
    assert row["their_excess"] == pytest.approx(0.0217 * 257 - math.log(128))
    half = stats.t.ppf(0.975, 267) * 0.0020 / math.sqrt(268)
    assert row["their_excess_lower"] == pytest.approx((0.0217 - half - 0.00005) * 257 - math.log(128))
    assert row["epsilon"] == 0.01
    assert cell(rows, "anbn", "mamba", "R1_finished")["their_excess_lower"] < 0  # 0.0189 is 0.018879 in four decimals
    assert rows.loc[rows["decoding"] == "sampled", "their_excess"].isna().all()
    per_token = rows_of(["anbn"], SaturationConfig(epsilon=0.001, per="token"))
    assert per_token["epsilon"].unique() == pytest.approx([0.001 * 130])


def test_trivial_levels_stand_beside_ood_rules_alone() -> None:
    rows = rows_of(["anbn", "bban"])
    assert cell(rows, "anbn", "lstm", "R1_finished")["trivial"] == pytest.approx(69 / 251)
    assert cell(rows, "anbn", "lstm", "R2_completion_finished")["trivial"] == 1
    # After an even number of a the walk of the uniform law ends even with 3/4, after an odd one with 1/2; half of each.
    assert cell(rows, "bban", "lstm", "R1_released_finished")["trivial"] == pytest.approx(5 / 8)
    known = rows["trivial"].notna()
    assert set(rows.loc[known, "prompt_set"]) == {"ood"}
    assert "finish_rate" not in set(rows.loc[known, "measure"])
    assert rows.loc[(rows["prompt_set"] == "ood") & (rows["measure"] != "finish_rate"), "trivial"].notna().all()


@pytest.mark.parametrize("name", ["ban_small", "bban_small", "anbn_small", "anbncn_small"])
def test_trivial_levels_are_those_of_the_evaluator(name: str) -> None:
    language = load_language(name)
    config = RuleExtrapolationConfig(prompts="published", heldout=1.0, max_new_tokens=300, decodings=["greedy"])
    table, _ = config.evaluator(language).evaluate(StopAtOnce(language.vocabulary), [0], 0)
    table = table[table["prompt_set"] == "ood"].set_index("measure")
    measures = [measure for measure in table.index if measure.startswith("R")]
    found = trivial_levels(language, [*measures, "finish_rate", "grammatical", "unknown_finished"])
    assert list(found) == measures
    assert found == pytest.approx(table.loc[measures, ["value", "chance"]].max(axis=1).to_dict())


def test_a_language_without_published_prompts_has_no_trivial_level() -> None:
    assert trivial_levels(load_language("dyck2"), ["R1_finished"]) == {}
    bare = load_language("anbn_small")
    bare.prompts = []
    assert trivial_levels(bare, ["R1_finished"]) == {}


def test_chance_is_computed_of_the_rules_asked_alone() -> None:
    language = load_language("anbn_small")
    rows = [(0, 1, 0), (1,)]
    some, everything = uniform_chance(language, rows, 20, ["R2"]), uniform_chance(language, rows, 20)
    assert list(some) == ["finish_rate", "R2", "R2_completion", "grammatical"]
    for key, values in some.items():
        assert (values == everything[key]).all()


def test_a_run_writes_its_published_cells(tmp_path: Path) -> None:
    asked = f'published_tables=[{{table="{NEURIPS}",languages={{anbn_small="anbn"}},variant="normal"}}]'
    run = run_study(MAIN, out=tmp_path / "out", overrides=[*TINY, "claims=[]", asked], seeds="0-1", jobs=1)
    assert list(run.published.columns) == list(PUBLISHED)
    assert set(run.published["model"]) == {"transformer", "people"}
    greedy = run.published[(run.published["decoding"] == "greedy") & (run.published["model"] == "transformer")]
    assert len(greedy) == 5
    assert (greedy["verdict"] == "was not saturated").all()
    assert greedy["comment"].str.contains("ours is anbn_small, theirs anbn").all()
    assert (run.published["ours_saturated"] == 0).all()
    assert Run(run.directory).published.equals(run.published)


def test_no_table_asked_is_an_empty_one() -> None:
    rows = published_rows([], SaturationConfig())
    assert rows.empty
    assert list(rows.columns) == list(CANDIDATE_COLUMNS)
