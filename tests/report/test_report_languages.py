"""The report of a synthetic study of several languages and architectures: its tables, its pictures, its page."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from scipy import stats
from synthetic_run import LANGUAGES, MODELS, write_comparison, write_study

from lmtest import atomic
from lmtest.report.architecture_figures import FIGURES
from lmtest.report.figures import FIGURES as LANGUAGE_FIGURES
from lmtest.report.marks import PALETTE, colours, panels
from lmtest.report.overview import columns, excess, floors, overview, published_comparison, tally, trivial
from lmtest.report.page import render
from lmtest.report.prompts import modal_completions
from lmtest.report.rows import every_measure, main_table, published_table
from lmtest.report.tables import RunTables, load, select
from lmtest.report.text import mean_interval, num

REFERENCES = ["the language", "rule keeper", "normative", "3-gram", "uniform law (chance)", "stop at once"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


def undrawn(run: RunTables) -> dict[str, bytes | None]:
    """No picture at all: for a page of which the words alone matter."""
    return dict.fromkeys([*FIGURES, *(f"{name}_{figure}" for name in run.languages for figure in LANGUAGE_FIGURES)])


def greedy(run: RunTables, **equal: object) -> pd.Series:
    wanted = {"measure": "R1", "prompt_set": "ood", "decoding": "greedy"}
    return select(run.measurements, **(wanted | equal))["value"]


def test_the_table_has_every_architecture_and_reference_model_in_every_language(run: RunTables) -> None:
    groups = overview(run)
    assert [group["language"] for group in groups] == list(LANGUAGES)
    for group in groups:
        assert [row["label"] for row in group["rows"]] == [*MODELS, *REFERENCES]
        assert [row["reference"] for row in group["rows"]] == [False] * len(MODELS) + [True] * len(REFERENCES)


def test_a_cell_is_the_mean_over_seeds_with_students_interval(run: RunTables) -> None:
    values = greedy(run, language="ban_small", model="lstm").to_numpy()
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    row = overview(run)[1]["rows"][1]
    assert row["cells"][0] == f"{num(values.mean())}\n{num(low)} to {num(high)}"
    kl = select(run.certificates, language="ban_small", model="lstm")["kl"].to_numpy()
    low, high = stats.t.interval(0.95, 4, kl.mean(), stats.sem(kl))
    assert row["excess"] == f"{num(kl.mean())}\n{num(low)} to {num(high)}"


def test_a_value_is_marked_where_a_trivial_policy_is_as_good(run: RunTables) -> None:
    stop = 0.275
    for group in overview(run):
        for row in group["rows"][: len(MODELS)]:
            mean = greedy(run, language=group["language"], model=row["label"]).mean()
            assert ("‡" in row["cells"][0]) == (mean <= stop)
        assert not any("‡" in cell for row in group["rows"] for cell in (*row["cells"][2:4], row["excess"]))
        assert not any("‡" in cell for row in group["rows"][len(MODELS) :] for cell in row["cells"])
    view = run.of("anbn_small")
    assert trivial(view, "R1", "greedy") == stop
    assert trivial(view, "R1_finished", "greedy") == pytest.approx(0.11)  # stop-at-once was not measured there
    assert math.isnan(trivial(view, "unknown", "greedy"))


def test_seeds_that_are_not_saturated_are_counted_and_marked(run: RunTables) -> None:
    for group in overview(run):
        flags = select(run.certificates, language=group["language"]).groupby("model")["saturated"].sum()
        for row in group["rows"][: len(MODELS)]:
            assert row["saturated"] == f"{flags[row['label']]} of 5"
            assert row["dagger"] == (flags[row["label"]] < 5)


def test_reference_rows_are_exact_and_chance_is_that_of_the_uniform_law(run: RunTables) -> None:
    rows = {row["label"]: row for row in overview(run)[0]["rows"]}
    assert rows["uniform law (chance)"]["cells"][0] == "0.110"  # not the 0.1 of its drawn completions
    assert rows["stop at once"]["cells"][0] == "0.275"
    assert rows["stop at once"]["excess"] == "∞"
    assert rows["the language"]["cells"][0] == "–"
    assert rows["rule keeper"]["excess"] == "0.000"
    assert {(row["chance"], row["stop"]) for row in rows.values()} == {("0.110", "0.275")}


def test_one_seed_has_the_interval_of_its_certificate(tmp_path: Path) -> None:
    run = load(write_study(tmp_path, ["anbn_small"], seeds=1))
    [row] = select(run.certificates, model="lstm").to_dict("records")
    assert excess(run, ("lstm", "normal")) == f"{num(row['kl'])}\n{num(row['kl_lower'])} to {num(row['kl_upper'])}"
    assert overview(run)[0]["rows"][1]["cells"][0] == num(greedy(run, model="lstm").iloc[0])


def test_the_heading_of_the_sampled_column_states_the_temperature(run: RunTables, page: str) -> None:
    assert columns(run)[-1]["title"] == "OOD R1, sampled at temperature 0.8"
    assert "sampled at temperature 0.8" in page
    assert "at temperature\n0.8 (its logits" in page


def test_floors_are_those_of_the_languages(run: RunTables) -> None:
    first, _, last = floors(run)
    assert (first["entropy"], first["exact"], first["per_token"]) == ("4.8520", "exact", num(math.log(128) / 130, 4))
    assert (last["entropy"], last["exact"]) == ("40.2000 ± 0.31", "from draws")
    assert (first["id"], first["ood"], first["heldout"]) == (5, 42, None)
    assert (first["chance"], first["stop"], first["finish"]) == ("0.110", "0.275", "0.110")


def test_a_view_holds_one_language_alone(run: RunTables) -> None:
    view = run.of("ban_small")
    assert view.languages == ["ban_small"]
    for frame in (view.certificates, view.measurements, view.trajectory, view.completions):
        assert set(frame["language"]) == {"ban_small"}
    assert view.published_values() == []
    assert run.of("anbn_small").published_values() == run.resolved["published"]


def test_measures_of_another_evaluator_have_a_table_of_their_own(run: RunTables) -> None:
    view = run.of("anbn_small")
    assert [section["decoding"] for section in main_table(view)] == ["greedy", "sampled"]
    prompts, strings = every_measure(view)
    assert list(prompts["sets"]) == ["ood", "id", "empty"]
    assert (strings["evaluator"], list(strings["sets"])) == ("string mass", ["strings"])
    assert [part["measure"] for part in strings["sections"]] == ["mass_R1_R2", "mass_R1", "mass_R2", "mass_none"]
    assert {(part["decoding"], *part["chance"]) for part in strings["sections"]} == {("exact", "0.200")}


def test_a_language_without_the_headline_rule_has_no_such_numbers(directory: Path, tmp_path: Path) -> None:
    write_study(tmp_path)
    for name in ("measurements", "trajectory", "completions"):
        frame = pd.read_parquet(tmp_path / f"{name}.parquet")
        here = frame["language"] == "ban_small"
        if name == "completions":
            frame["R1"] = frame["R1"].astype(object).where(~here, None)
        else:
            frame = frame[~(here & frame["measure"].str.startswith("R1"))]
        atomic.write_parquet(tmp_path / f"{name}.parquet", frame)
    run = load(tmp_path)
    rows = overview(run)[1]["rows"]
    assert {row["cells"][0] for row in rows} == {"–"}
    assert all(math.isnan(cell[3]) for _, _, cells in modal_completions(run.of("ban_small")) for cell in cells.values())
    assert LANGUAGE_FIGURES["prompts"](run.of("ban_small")) is None
    assert LANGUAGE_FIGURES["prompts"](run.of("anbn_small")) is not None
    assert "Not drawn: ban small prompts" in render(run, undrawn(run))


def test_every_picture_is_written_once_and_under_its_language(directory: Path, page: str) -> None:
    expected = [*FIGURES, *(f"{name}_{figure}" for name in LANGUAGES for figure in LANGUAGE_FIGURES)]
    assert sorted(path.stem for path in (directory / "figures").iterdir()) == sorted(expected)
    assert page.count("data:image/png;base64,") == len(expected)
    for name in FIGURES:
        pixels = image.imread(directory / "figures" / f"{name}.png")
        assert pixels.shape[1] == 1600
        assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, pixels.shape[2]).tolist()}) > 20


def test_the_page_is_self_contained_small_and_escaped(directory: Path, page: str) -> None:
    loads = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert all(first.startswith(("data:image/png;base64,", "#language-")) for first, _ in loads)
    assert "<script" not in page
    assert str(directory) not in page
    assert len(page) < 3_000_000
    assert "nan" not in re.sub(r"base64,[^\"]*|title=\"[^\"]*\"", "", page).lower()


def test_the_page_begins_with_the_table_and_names_every_language_once_below(page: str) -> None:
    order = ["<h2>Claims", 'id="overview"', 'id="floors"', 'id="rule_extrapolation_by_architecture"',
             "<h2>Beside published", '<details class="language">', "<h2>How to read"]  # fmt: skip
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert page.count('<details class="language">') == len(LANGUAGES)
    assert page.count("<h2>Environment") == 1


def test_pictures_have_a_panel_a_language_or_cell(run: RunTables) -> None:
    found = {name: picture(run) for name, picture in FIGURES.items()}
    assert [len(figure.axes) for figure in found.values() if figure is not None] == [4, 4, 21]
    assert [axes.get_title() for axes in found["rule_extrapolation_by_architecture"].axes[:3]] == [*LANGUAGES]


def test_one_variant_gives_colours_to_the_models_in_one_panel(run: RunTables) -> None:
    view = run.of("anbn_small")
    [(title, group)] = panels(view).items()
    assert title == ""
    assert [series.name for series in group] == list(MODELS)
    assert list(colours(view).values()) == list(PALETTE[: len(MODELS)])
    assert colours(view) == colours(run.of("ban_small"))
    for picture in LANGUAGE_FIGURES.values():
        figure = picture(view)
        assert figure is not None
        assert len(figure.axes) == 1


def test_one_language_of_one_model_has_no_pictures_of_architectures(run: RunTables) -> None:
    view = run.of("anbn_small")
    kept = {}
    for name in ("certificates", "measurements", "trajectory"):
        frame = getattr(view, name)
        kept[name] = frame[(frame["model"] == "lstm") | (frame["variant"] == "reference")]
    alone = dataclasses.replace(view, **kept)
    assert FIGURES["rule_extrapolation_by_architecture"](alone) is None
    assert FIGURES["loss_by_architecture"](alone) is None
    assert FIGURES["string_mass"](alone) is not None


def test_published_values_are_shown_with_their_verdicts(tmp_path: Path) -> None:
    frame = write_comparison(write_study(tmp_path))
    run = load(tmp_path)
    rows = published_comparison(run)
    assert [row["verdict"] for row in rows] == list(frame["verdict"])
    assert rows[0]["theirs"] == "0.400 ± 0.100"
    assert rows[0]["our"] == "0.450 ± 0.060"
    assert [row["badge"] for row in rows[:4]] == ["supported", "refuted", "undecided", "undecided"]
    assert (rows[4]["model"], rows[4]["theirs"], rows[4]["our"]) == ("people", "0.400", "–")
    assert tally(run) == "1 reproduced, 1 not reproduced, 1 was not saturated, 1 was below a trivial policy"
    groups = {group["language"]: group["rows"][-1]["label"] for group in overview(run)}
    assert "people" in groups[rows[4]["language"]]
    assert sum("people" in last for last in groups.values()) == 1
    page = render(run, undrawn(run))
    for badge, verdict in zip(("supported", "refuted", "undecided", "undecided"), frame["verdict"], strict=False):
        assert f'<span class="badge {badge}">{verdict}</span>' in page
    assert "comment on xlstm" in page
    assert "ours − theirs" in page


def test_without_a_comparison_the_values_of_the_study_stand_there(run: RunTables, page: str) -> None:
    first, people = published_table(run.of("anbn_small"))
    ours = select(run.measurements, language="anbn_small", model="lstm", measure="R1_finished", prompt_set="ood",
                  decoding="greedy")["value"]  # fmt: skip
    assert first["difference"] == pytest.approx(ours.mean() - 0.376)
    assert (people["n"], people["ours"]) == (0, "–")
    assert "<td>anbn_small</td><td>L3</td>" in page


@pytest.mark.parametrize("several", [True, False])
def test_old_studies_that_state_no_temperature_sampled_at_one(directory: Path, several: bool) -> None:
    run = load(directory)
    assert run.temperature == 0.8
    resolved = json.loads(json.dumps(run.resolved)) | {"config": {"evaluators": {}} if several else {}}
    assert type(run)(resolved, run.env, *[pd.DataFrame()] * 6).temperature == 1.0


def test_an_interval_is_left_out_where_there_is_none() -> None:
    assert mean_interval(pd.Series([], dtype=float)) == "–"
    assert mean_interval(pd.Series([np.nan, 0.5])) == "0.500"
    assert mean_interval(pd.Series([0.5, 0.5])) == "0.500\nevery seed"
    assert mean_interval(pd.Series([0.5, np.inf])) == "∞"
