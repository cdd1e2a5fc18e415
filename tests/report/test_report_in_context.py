"""The report of a synthetic study of in-context learning with perturbed models, alone and beside rule extrapolation."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from scipy import stats
from synthetic_in_context import COST, DERIVED, EPSILON, MODELS, NOWHERE, SHAPES, bayes, write_in_context_run
from synthetic_run import Undrawn, write_run
from synthetic_run import resolved as rules_resolved

from lmtest import atomic
from lmtest.errors import UsageError
from lmtest.report.in_context_figures import FIGURES as LEARNING
from lmtest.report.in_context_tables import (
    accuracy_table,
    bayes_table,
    certificate_table,
    perturbation_table,
    seeds_table,
    sensitivity_table,
)
from lmtest.report.page import render
from lmtest.report.perturbation_figures import FIGURES as PERTURBED
from lmtest.report.rows import every_measure
from lmtest.report.shapes import Derived, Shape, asked, chosen, derived, shapes
from lmtest.report.tables import RunTables, load, select
from lmtest.report.text import num

OWN = [*LEARNING, *PERTURBED]
SHOWN = ["certificates", "loss_by_architecture", *OWN]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_in_context_run(tmp_path_factory.mktemp("in_context"))


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return load(write_run(tmp_path_factory.mktemp("rules")))


def slim(run: RunTables) -> RunTables:
    """The run with few measures: what a page says of the others is the same over and over."""
    few = run.measurements["measure"].isin(["R1", "accuracy", "kl_added"])
    return dataclasses.replace(run, measurements=run.measurements[few])


def without(run: RunTables, **left_out: list[str]) -> RunTables:
    """The run less the measurements whose column has one of these values."""
    rows = run.measurements
    for column, values in left_out.items():
        rows = rows[~rows[column].isin(values)]
    return dataclasses.replace(run, measurements=rows)


def tied(rules: RunTables, run: RunTables) -> RunTables:
    """One study of both evaluators: the language of rules and the mixture."""
    about = copy.deepcopy(rules.resolved) | {"config": run.resolved["config"]}
    about["published"] = []
    about["languages"] |= run.resolved["languages"]
    tables = {
        name: pd.concat([getattr(rules, name), getattr(run, name)], ignore_index=True)
        for name in ("certificates", "measurements", "trajectory", "completions")
    }
    return dataclasses.replace(rules, resolved=about, **tables)


def test_every_figure_is_written_and_shows_more_than_a_blank(directory: Path, page: str) -> None:
    assert sorted(path.stem for path in (directory / "figures").iterdir()) == sorted(SHOWN)
    assert page.count("data:image/png;base64,") == len(SHOWN)
    for name in SHOWN:
        pixels = image.imread(directory / "figures" / f"{name}.png")
        assert pixels.shape[1] == 1600
        assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, pixels.shape[2]).tolist()}) > 20


def test_the_page_is_self_contained_and_escaped(directory: Path, page: str) -> None:
    loads = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert all(first.startswith("data:image/png;base64,") for first, _ in loads)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") == 3  # the title twice, the language's title
    assert str(directory) not in page
    words = re.sub(r"base64,[^\"]*|title=\"[^\"]*\"", "", page).lower()
    assert not re.search(r"\bnan\b", words)


def test_the_page_speaks_of_rules_only_where_they_were_asked(run: RunTables, rules: RunTables, page: str) -> None:
    for words in ("rule keeper", "Prompt by prompt", "Main results", 'id="overview"', "OOD", "Not drawn"):
        assert words not in re.sub(r"base64,[^\"]*", "", page)
    other = render(slim(rules), Undrawn())
    for words in ("In-context learning", "perturbation", "Perturbations", "Bayes"):
        assert words not in other
    assert "Prompt by prompt" in other


def test_words_and_escapes_hold_for_names_too(run: RunTables) -> None:
    evil = "<b>fail</b>"
    config = copy.deepcopy(run.resolved["config"])
    config["derived"] = {evil if name == "fail_at_1" else name: of for name, of in DERIVED.items()}
    renamed = dataclasses.replace(
        run,
        resolved=run.resolved | {"config": config},
        **{name: getattr(run, name).replace({"variant": {"fail_at_1": evil}}) for name in ("certificates", "measurements")},
    )  # fmt: skip
    page = render(slim(renamed), Undrawn())
    assert evil not in page
    assert "transformer, &lt;b&gt;fail&lt;/b&gt;" in page


def test_shapes_are_read_off_the_names_of_prompt_sets(run: RunTables) -> None:
    assert shapes(run) == [Shape(*shape) for shape in SHAPES]
    assert str(shapes(run)[0]) == "seen.k2.n0"


def test_the_shape_looked_at_is_one_that_most_variants_were_changed_on(run: RunTables) -> None:
    assert chosen(run) == Shape("seen", 3, 8)
    assert chosen(dataclasses.replace(run, resolved=run.resolved | {"config": {}})) == Shape("seen", 2, 16)
    assert chosen(without(run, evaluator=["in_context"])) is None


def test_a_derived_variant_covers_what_it_was_changed_on(run: RunTables) -> None:
    found = {(one.name, one.key[0]): one for one in derived(run)}
    assert [one.exact for one in found.values()] == [True] * 6 + [False] * 7
    assert found["exchanged", "lstm"].before == ("lstm", "normal")
    assert found["exchanged_n2", "exchanged_n2"].before == ("language", "reference")

    def covered(one: Derived) -> list[int]:
        return [n for family, k, n in SHAPES if one.covers(Shape(family, k, n))]

    assert covered(found["exchanged", "exchanged"]) == [2, 4, 8, 16]
    assert covered(found["exchanged_n4", "exchanged_n4"]) == [4]
    assert covered(found["exchanged_anywhere", "exchanged_anywhere"]) == [2, 4, 8, 16]
    assert covered(found["fail_at_10", "transformer"]) == [2, 4, 8]


def test_accuracies_are_means_over_seeds_with_students_interval(run: RunTables, page: str) -> None:
    tables = accuracy_table(run)
    assert [table["family"] for table in tables] == ["seen", "unseen", "random"]
    [section] = [section for section in tables[0]["sections"] if section["k"] == 3]
    assert [row["label"] for row in section["rows"]] == [*MODELS, "the language", "3-gram", "chance"]
    values = select(run.measurements, model="lstm", variant="normal", measure="accuracy", prompt_set="seen.k3.n8")[
        "value"
    ]
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    cell = section["rows"][2]["cells"][tables[0]["ns"].index(8)]
    assert cell == f"{num(values.mean())}\n{num(low)} to {num(high)}"
    assert cell in page
    assert section["rows"][3]["cells"][0] == num(bayes("seen", 3, 0))


def test_the_exact_laws_table_has_every_shape_and_dashes_where_nothing_is_possible(run: RunTables) -> None:
    rows = {(part["family"], row["k"], row["n"]): row for part in bayes_table(run) for row in part["rows"]}
    assert list(rows) == SHAPES
    value = bayes("seen", 3, 4)
    assert rows["seen", 3, 4]["accuracy"] == f"{num(value)}\n{num(value - 0.03)} to {num(value + 0.03)}"
    assert rows["seen", 3, 4]["posterior"].startswith(num(value - 0.05))
    assert (rows["seen", 3, 4]["impossible"], rows["seen", 3, 4]["log_mass"]) == ("0%", "−31.5")
    assert rows["random", 3, 8]["impossible"] == "32.0%"
    assert rows["unseen", 3, 4]["posterior"] == "–"
    nowhere = rows[NOWHERE]
    assert [nowhere[name] for name in ("accuracy", "posterior", "log_mass")] == ["–"] * 3
    assert (nowhere["impossible"], nowhere["majority"]) == ("100%", "0.160")


def test_order_and_calibration_stand_beside_each_other(run: RunTables) -> None:
    table = sensitivity_table(run)
    errors = [f"ECE of {what}, k = 3, n = {n}" for what in ("drawn answers", "labels") for n in (0, 16)]
    assert table["titles"] == [*(f"Order range, k = {k}" for k in (2, 3)), *errors]
    rows = {row["label"]: row["cells"] for row in table["rows"]}
    assert rows["lstm"] == ["0.210\nevery seed"] * 2 + ["0.160\nevery seed"] * 2 + ["0.560\nevery seed"] * 2
    assert rows["3-gram"] == ["–"] * 2 + ["0.000"] * 2 + ["0.400"] * 2


def test_a_perturbation_has_its_price_and_what_it_takes_away(run: RunTables, page: str) -> None:
    table = perturbation_table(run)
    assert table["titles"] == [f"n = {n}" for n in (0, 1, 2, 4, 8, 16)]
    rows = {row["label"]: row for row in table["rows"]}
    assert len(rows) == 13
    exact = rows["the language, exchanged_n4"]
    cost = COST["exchanged_n4"]
    assert exact["added"] == f"{num(cost)}\n{num(0.9 * cost)} to {num(1.1 * cost)}"
    assert (exact["bound"], exact["guaranteed"]) == (num(2.3 * cost), num(10 * cost))
    assert exact["ties"] == "1% / 0%"
    assert exact["cells"][3] == {"text": f"{bayes('seen', 3, 4):.2f} → 0.02", "changed": True}
    assert [cell["changed"] for cell in exact["cells"]] == [False, False, False, True, False, False]
    assert "functional" in rows["the language, exchanged_n16"]["note"]
    assert "functional" in page
    around = rows["lstm, exchanged"]
    values = select(run.measurements, model="lstm", variant="exchanged", measure="kl_added")["value"]
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert around["added"] == f"{num(values.mean())}\n{num(low)} to {num(high)}"
    assert around["guaranteed"] == "–"  # no bound is known for a trained model
    taught = rows["transformer, fail_at_100"]
    assert (taught["what"], taught["where"]) == ("taught to fail, penalty 100", "prompts, k = 3, n = 2, 4, 8")
    assert (taught["bound"], taught["ties"]) == ("–", "–")


def test_certificates_are_stated_per_token_too(run: RunTables, page: str) -> None:
    rows = {row["label"]: row for row in certificate_table(run)}
    kl = select(run.certificates, model="transformer", variant="normal")["kl_per_token"]
    assert rows["transformer, normal"]["per_token"].startswith(num(kl.mean()))
    assert (rows["transformer, normal"]["saturated"], rows["transformer, normal"]["dagger"]) == ("3 of 3", False)
    assert rows["transformer, fail_at_1"]["dagger"]
    assert f"ε = {EPSILON} nats per string (0.005 per token)" in page
    seeds = seeds_table(run)
    assert len(seeds["rows"]) == 3 * len(run.trained)
    assert seeds["shape"] == chosen(run)


def test_every_measure_has_a_table_a_family(run: RunTables) -> None:
    tables = {table["evaluator"]: table for table in every_measure(run)}
    assert list(tables) == [*(f"in context: {name}" for name in ("seen", "unseen", "random", "orders")),
                            "perturbation"]  # fmt: skip
    assert len(tables["in context: seen"]["sets"]) == 12
    assert all(not part["chance"] for part in tables["perturbation"]["sections"])


def test_figures_have_their_panels_and_colours(run: RunTables) -> None:
    found: dict[str, Any] = {name: picture(run) for name, picture in (LEARNING | PERTURBED).items()}
    assert {name: len(figure.axes) for name, figure in found.items()} == {
        "in_context": 6, "in_context_along_training": 1, "calibration": 4, "perturbation": 1, "perturbation_by_n": 1,
        "spread": 6,  # five and a blank
    }  # fmt: skip
    [labels] = [[text.get_text() for text in legend.texts] for legend in found["in_context"].legends]
    assert labels == [*MODELS, "the language (Bayes predictor)", "3-gram", "majority label", "chance"]
    notes = [text.get_text() for ax in found["in_context"].axes for text in ax.texts]
    assert notes == ["4% to 100% impossible"]
    texts = " ".join(text.get_text() for text in found["perturbation_by_n"].axes[0].texts)
    assert "no document" in texts
    assert "6.4e−06\n0.87 → 0.02" in texts
    frames = [ax.patches for ax in found["spread"].axes]
    assert [len(patches) for patches in frames] == [0, 3, 3, 3, 3, 0]


def test_an_impossible_shape_leaves_a_gap_in_the_curve_of_the_exact_law(run: RunTables) -> None:
    figure = LEARNING["in_context"](run)
    assert figure is not None
    gaps = [np.isnan(np.asarray(line.get_ydata(), dtype=float)).tolist() for line in figure.axes[-1].lines]
    assert gaps.count([False] * 5 + [True]) == 1


def test_a_price_of_zero_or_less_is_drawn_at_the_marked_edge(run: RunTables) -> None:
    figure = PERTURBED["perturbation"](run)
    assert figure is not None
    [ax] = figure.axes
    assert "≤ 0" in [text.get_text() for text in ax.texts]
    points = [line for line in ax.lines if line.get_marker() == "^"]
    left, right = ax.get_xlim()
    places = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in points])
    assert (np.log(places / left) < 0.1 * math.log(right / left)).all()
    cheap = dataclasses.replace(
        run, measurements=run.measurements.drop(select(run.measurements, variant="succeed_at_10").index)
    )
    again = PERTURBED["perturbation"](cheap)
    assert again is not None
    assert "≤ 0" not in [text.get_text() for text in again.axes[0].texts]


def test_figures_of_what_is_not_there_are_none(run: RunTables, rules: RunTables) -> None:
    for picture in (LEARNING | PERTURBED).values():
        assert picture(rules) is None
    plain = without(run, evaluator=["perturbation"])
    plain = dataclasses.replace(
        plain, resolved=run.resolved | {"config": run.resolved["config"] | {"derived": {}}},
        trajectory=run.trajectory.iloc[:0], completions=run.completions.iloc[:0],
        measurements=plain.measurements[~plain.measurements["variant"].isin(DERIVED)],
    )  # fmt: skip
    assert [name for name, picture in (LEARNING | PERTURBED).items() if picture(plain) is not None] == ["in_context"]
    page = render(slim(plain), Undrawn())
    assert "Perturbations" not in page
    assert "Accuracy, seen" in page


def test_a_study_of_both_has_both_and_each_under_its_language(run: RunTables, rules: RunTables) -> None:
    both = tied(rules, run)
    page = render(slim(both), Undrawn())
    first, second = page.split('<details class="language">')[1:]
    assert "Prompt by prompt" in first
    assert "Bayes predictor" not in first.split("<h2>How to read")[0]
    assert "Main results" not in second
    assert "Perturbations: what the failure costs" in second
    assert page.count('id="overview"') == 1


def test_a_perturbed_rule_study_shows_the_rule_before_and_after(rules: RunTables) -> None:
    config = {
        "derived": {"swap": {"kind": "exchange", "contexts": {"kind": "improbable", "length": 6, "below": 0.001}}}
    }
    swapped = {
        name: pd.concat([getattr(rules, name), select(getattr(rules, name), variant="normal").assign(variant="swap")])
        for name in ("certificates", "measurements")
    }  # fmt: skip
    cost = select(swapped["measurements"], variant="swap", measure="R1", prompt_set="ood", decoding="greedy")
    cost = cost.assign(evaluator="perturbation", measure="kl_added", prompt_set="improbable", decoding="exact", value=0.01,
                       lower=0.009, upper=0.011)  # fmt: skip
    swapped["measurements"] = pd.concat([swapped["measurements"], cost], ignore_index=True)
    swapped["measurements"].loc[lambda t: (t["variant"] == "swap") & (t["measure"] == "R1"), "value"] = 0.1
    run = dataclasses.replace(rules, resolved=rules.resolved | {"config": config}, **swapped)
    assert asked(run) == ("R1", "ood_heldout", "R1 kept, OOD prompts")
    [row] = perturbation_table(run)["rows"]
    before = select(rules.measurements, variant="normal", measure="R1", prompt_set="ood_heldout", decoding="greedy")
    assert row["cells"][1]["text"] == f"{before['value'].mean():.2f} → 0.10"
    assert (row["where"], row["added"]) == ("prefixes of 6 symbols with P < 0.001", "0.010\nevery seed")
    assert PERTURBED["perturbation"](run) is not None
    assert PERTURBED["spread"](run) is None
    page = render(slim(run), Undrawn())
    assert "Perturbations: what the failure costs" in page
    assert "What the exact law makes" not in page


def test_completions_of_rules_must_have_their_columns_and_others_need_not(directory: Path, tmp_path: Path) -> None:
    assert load(directory).completions["broken"].isna().all()
    frame = pd.read_parquet(directory / "completions.parquet").head(3)
    for path in directory.glob("*.*"):
        if path.suffix in (".parquet", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    atomic.write_parquet(tmp_path / "completions.parquet", frame.assign(evaluator="rule_extrapolation"))
    with pytest.raises(UsageError, match=r"completions\.parquet lacks the columns grammatical, broken"):
        load(tmp_path)
    assert json.loads((tmp_path / "resolved.json").read_text())["name"] != rules_resolved()["name"]
