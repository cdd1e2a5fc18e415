"""The report of a synthetic study of fine-tuning: models of one function, alone and beside rule extrapolation."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from scipy import stats
from synthetic_fine_tuning import DERIVED, MODELS, RATES, SAME, SEEDS, curve, steps_to_threshold, write_fine_tuning_run
from synthetic_run import Undrawn, write_run

from lmtest.errors import UsageError
from lmtest.report.fine_tuning_figures import FIGURES as TUNED
from lmtest.report.fine_tuning_tables import control_words, gap_tables, rate_tables, transfer_tables
from lmtest.report.function_tables import flatness_table, function_table
from lmtest.report.lanes import CONTROLS, Lane, baseline, control, hues, lanes, preserving, rates, tuned
from lmtest.report.page import render
from lmtest.report.tables import RunTables, load, select
from lmtest.report.text import num
from lmtest.report.transfer import COLUMNS, PREDICTORS, flips, predictor_table, sentences, spearman
from lmtest.report.transfer_figures import FIGURES as PREDICTED
from lmtest.variants.preserve.tables import PreservingConfig

OWN = TUNED | PREDICTED
ALL = Lane("anbnan", "full", "all")
SMALL = ("small", "normal")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fine_tuning_run(tmp_path_factory.mktemp("fine_tuning"))


def kept(run: RunTables, **columns: list[Any]) -> RunTables:
    """The run with those measurements alone whose columns have one of these values."""
    rows = run.measurements
    for column, values in columns.items():
        rows = rows[rows[column].isin(values)]
    return dataclasses.replace(run, measurements=rows)


def few(run: RunTables) -> RunTables:
    """The run with one lane, and what is known before."""
    return kept(run, prompt_set=[ALL.at(), *(ALL.at(rate) for rate in RATES), "support", "id", "ood", "documents"])


def one_seed(run: RunTables) -> RunTables:
    first = {name: getattr(run, name) for name in ("certificates", "measurements", "completions")}
    return dataclasses.replace(run, **{name: table[table["seed"] == 0] for name, table in first.items()})


def rows_of(table: dict[str, Any], section: int = 0) -> dict[str, dict[str, Any]]:
    rows = table["sections"][section]["rows"] if "sections" in table else table["rows"]
    return {row["label"]: row for row in rows}


def interval(values: np.ndarray, digits: int = 3, *, log: bool = False) -> str:
    ends = (values.mean(), *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)))
    mean, low, high = (num(math.exp(end) if log else end, digits) for end in ends)
    return f"{mean}\n{low} to {high}"


def losses(kind: str, task: str, n: int | str, rate: float) -> list[dict[int, float]]:
    return [curve(kind, seed, task, "full", n, rate) for seed in SEEDS]


def test_lanes_and_rates_are_read_off_the_names(run: RunTables) -> None:
    found = lanes(run.measurements)
    assert [str(lane) for lane in found[:4]] == [
        "anbnan.full.8",
        "anbnan.full.64",
        "anbnan.full.all",
        "anbnan.probe.64",
    ]
    assert len(found) == 8
    assert rates(run.measurements) == list(RATES)
    assert ALL.at(3e-4) == "anbnan.full.all@0.0003"
    assert [lane.from_examples for lane in (ALL, ALL._replace(examples="1"))] == ["all strings", "1 string"]


def test_every_preserving_kind_has_words_and_controls_are_told(run: RunTables) -> None:
    for model in get_args(get_args(PreservingConfig)[0]):
        kind = get_args(model.model_fields["kind"].annotation)[0]
        needed = {"pad": {"coordinates": 4}, "extra_units": {"units": 8}, "extra_heads": {"heads": 2}}
        config = model(kind=kind, **needed.get(kind, {"alpha": 7.0} if kind == "rescale" else {})).model_dump()
        words = preserving({name: value for name, value in config.items() if value is not None})
        assert words is not None
        assert "None" not in words
    assert preserving({"kind": "longer"}) is None
    expected = {"copied": "copies", "blank": "zero", "rescaled": "rescale"}
    assert {name: control(config) for name, config in DERIVED.items()} == dict.fromkeys(DERIVED) | expected
    assert control({"kind": "split", "share": 0.5}) == "copies"
    assert control({"kind": "split", "share": 0.3}) is None
    assert control({"kind": "permute_heads"}) == "permute"
    assert control_words(run) == [CONTROLS[name] for name in ("copies", "zero", "rescale")]


def test_the_baseline_is_what_a_variant_was_made_from(run: RunTables) -> None:
    assert baseline(run, SMALL) is None
    assert baseline(run, ("small", "widened")) == SMALL
    assert baseline(run, ("large", "normal")) == SMALL
    other = copy.deepcopy(run.resolved)
    other["config"]["derived"]["widened"] |= {"of": None}
    assert baseline(dataclasses.replace(run, resolved=other), ("small", "widened")) == SMALL
    assert len(set(hues(run).values())) == len(tuned(run)) == 8


def test_gaps_are_paired_by_seed_and_agree_with_scipy(run: RunTables) -> None:
    [table, *_] = gap_tables(run)
    rate = SAME["anbnan"]
    ours, base = losses("large", "anbnan", 64, rate), losses("normal", "anbnan", 64, rate)
    logs = [np.log([steps_to_threshold(one) for one in each]) for each in (ours, base)]
    last = [np.array([one[300] for one in each]) for each in (ours, base)]
    assert table["title"] == "anbnan, full fine-tuning"
    assert [part["examples"] for part in table["sections"]] == ["8 strings", "64 strings", "all strings"]
    row = rows_of(table, 1)["large, normal"]
    assert row["ratio"] == interval(logs[0] - logs[1], 2, log=True)
    assert row["loss"] == interval(last[0])
    assert row["loss_gap"] == interval(last[0] - last[1])
    assert row["right_gap"] == interval(1 / (1 + last[0]) - 1 / (1 + last[1]))
    assert (row["rate"], row["edge"], row["control"]) == ("0.001", False, False)
    first, *_, final = table["sections"][1]["rows"]
    assert (first["label"], first["baseline"], first["ratio"]) == ("small, normal", True, "")
    assert (final["label"], final["control"]) == ("small, rescaled", True)
    assert rows_of(table, 2)["small, blank"]["ratio"] == "1.00\nevery seed"


def test_a_threshold_that_was_never_reached_is_a_dash_with_its_count(run: RunTables) -> None:
    [table, *_] = gap_tables(run)
    row = rows_of(table, 0)["small, widened"]
    assert (row["steps"], row["ratio"]) == ("–\n0 of 4 reached", "–\n0 of 4 pairs")
    rows = run.measurements.copy()
    lost = (rows["variant"] == "widened") & (rows["seed"] == 2) & rows["measure"].str.endswith("steps_to_threshold")
    rows.loc[lost, "value"] = math.nan
    [table, *_] = gap_tables(dataclasses.replace(run, measurements=rows))
    assert rows_of(table, 2)["small, widened"]["ratio"] == "0.50\nevery seed\n3 of 4 pairs"


def test_accuracies_stand_beside_the_majority_rate_and_edges_are_marked(run: RunTables, page: str) -> None:
    table = next(table for table in gap_tables(run) if table["title"] == "root, full fine-tuning")
    assert table["right"] == "Accuracy, share of strings"
    assert table["sections"][0]["majority"] == "0.400"
    assert all(row["edge"] for row in table["sections"][0]["rows"])
    assert "at the edge" in page
    assert "majority rate" in page


def test_every_rate_has_its_own_gaps_and_the_chosen_one_is_known(run: RunTables) -> None:
    table = next(t for t in rate_tables(run) if t["title"] == "root, full fine-tuning, all strings")
    assert table["rates"] == ["0.0003", "0.001", "0.003"]
    cells = rows_of(table)["small, widened"]["cells"]
    assert [cell["chosen"] for cell in cells] == [False, False, True]
    for rate, cell in zip(RATES, cells, strict=True):
        last = [np.array([one[300] for one in losses(kind, "root", "all", rate)]) for kind in ("widened", "normal")]
        assert cell["gap"] == interval(last[0] - last[1])
    assert "small, normal" not in rows_of(table)


def test_functions_are_compared_by_the_worst_seed(run: RunTables) -> None:
    rows = {row["label"]: row for row in function_table(run)}
    assert list(rows) == [f"small, {name}" for name in DERIVED if name != "longer"]
    assert rows["small, widened"]["differences"] == ["8.0e−06", "8.0e−06", "1.2e−13", "1.2e−13"]
    assert rows["small, blank"]["differences"] == ["0"] * 4
    assert rows["small, widened"]["what"] == "width × 2, copies that differ, σ = 0.5"
    assert rows["small, widened"]["parameters"] == f"{2 * MODELS['small']:,}"
    assert rows["small, widened"]["before"] == interval(0.004 * (1 + 0.2 * np.arange(4)))
    unknown = function_table(kept(run, evaluator=["function"]))
    assert unknown[0]["parameters"] == "–"


def test_flatness_has_intervals_over_seeds_or_of_the_only_seed(run: RunTables) -> None:
    table = flatness_table(run)
    cells = dict(zip(table["titles"], rows_of(table)["small, normal"]["cells"], strict=True))
    values = select(run.measurements, model="small", variant="normal", measure="relative_sharpness")["value"]
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert cells["Relative sharpness, nats"] == f"{values.mean():.3g}\n{low:.3g} to {high:.3g}"
    alone = rows_of(flatness_table(one_seed(run)))["small, normal"]["cells"]
    assert alone[:3] == ["40.0", "0.400\n−0.400 to 1.20", "40.0\n39.2 to 40.8"]
    assert "36,000" in " ".join(rows_of(flatness_table(one_seed(run)))["small, rescaled"]["cells"])
    assert not flatness_table(kept(run, evaluator=["fine_tuning"]))["rows"]


def test_weighted_rank_correlations_are_those_of_the_repeated_sample() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(5), 4)
    x, y = rng.integers(0, 6, 20).astype(float), rng.integers(0, 5, 20).astype(float)
    y[y == 4] = math.inf
    times = rng.multinomial(5, [0.2] * 5, size=40).astype(float)
    found = spearman(x, y, groups, times)
    for rho, drawn in zip(found, times, strict=True):
        picks = np.concatenate([np.tile(np.flatnonzero(groups == g), int(n)) for g, n in enumerate(drawn)])
        ranks = [stats.rankdata(values[picks]) for values in (x, y)]
        assert rho == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    constant = spearman(np.ones(20), y, groups, np.ones((1, 5)))
    assert np.isnan(constant).all()
    assert np.isnan(spearman(x[:2], y[:2], np.array([0, 1]), np.ones((1, 2)))).all()


def test_the_table_of_predictors_agrees_with_scipy(run: RunTables) -> None:
    table = predictor_table(few(run).measurements, run.certificates)
    assert tuple(table.columns) == COLUMNS
    assert set(table["predictor"]) == {*list(PREDICTORS)[:7]}  # no probe was kept
    assert set(table["rate"]) == {"chosen", "0.0003", "0.001", "0.003"}
    item = ["model", "variant", "seed"]
    for predictor, rate in itertools.product(("gn_trace", "relative_sharpness"), (None, *RATES)):
        measured = select(run.measurements, measure=predictor).set_index(item)["value"]
        steps = select(run.measurements, measure="log_steps_to_threshold", prompt_set=ALL.at(rate)).set_index(item)[
            "value"
        ]
        both = pd.DataFrame({"x": measured.map(lambda value: float(f"{value:.3g}")), "y": steps.fillna(1e9)})
        name = "chosen" if rate is None else f"{rate:g}"
        [row] = select(
            table, predictor=predictor, rate=name, outcome=f"log_steps_to_threshold {ALL}"
        ).to_dict("records")  # fmt: skip
        assert row["rho"] == pytest.approx(stats.spearmanr(both["x"], both["y"]).statistic, abs=1e-9)
        within = [stats.spearmanr(part["x"], part["y"]).statistic for _, part in both.groupby("seed")]
        assert row["within"] == pytest.approx(np.mean(within), abs=1e-9)
        assert row["count"] == len(both) == 32
        assert row["lower"] <= row["rho"] + 1e-9
        assert row["rho"] <= row["upper"] + 1e-9
    assert table.equals(predictor_table(few(run).measurements, run.certificates))


def test_a_probe_predicts_its_own_task_alone(run: RunTables) -> None:
    lanes_kept = [name for name in set(run.measurements["prompt_set"]) if name.split("@")[0].endswith(".64")]
    table = predictor_table(kept(run, prompt_set=lanes_kept).measurements, run.certificates)
    of = {str(name): set(part["predictor"]) for name, part in table.groupby("outcome")}
    assert of["excess anbnan.full.64"] == {"kl", "probe_excess", "probe_exact_match"}
    assert of["cross_entropy root.full.64"] == {"kl", "probe_cross_entropy", "probe_accuracy"}


def test_rounding_between_models_of_one_function_is_no_difference(run: RunTables) -> None:
    noisy = run.certificates.assign(kl=run.certificates["kl"] * (1 + 1e-7 * np.arange(len(run.certificates))))
    rows = few(run).measurements
    one, other = (predictor_table(rows, table) for table in (run.certificates, noisy))
    pd.testing.assert_frame_equal(one, other)


def test_one_seed_has_correlations_without_intervals(run: RunTables) -> None:
    table = predictor_table(one_seed(few(run)).measurements, one_seed(run).certificates)
    row = table[(table["predictor"] == "gn_trace") & (table["rate"] == "chosen")].iloc[0]
    assert row["rho"] == row["within"]
    assert row[["lower", "upper", "within_lower", "within_upper"]].isna().all()
    assert row["count"] == 8


def test_tables_of_two_languages_are_refused(run: RunTables) -> None:
    other = run.certificates.assign(language="another")
    with pytest.raises(UsageError, match="one language, found anbn_small, another; select"):
        predictor_table(run.measurements, pd.concat([run.certificates, other]))


def _correlations(**by_predictor: list[tuple[float, float, float]]) -> pd.DataFrame:
    rows = [
        {"predictor": name, "outcome": "excess t.full.all", "rate": rate, "rho": rho, "lower": low, "upper": high}
        for name, found in by_predictor.items()
        for rate, (rho, low, high) in zip(("chosen", "0.001", "0.01"), found, strict=True)
    ]
    return pd.DataFrame(rows)


def test_a_sign_that_flips_over_rates_is_called_a_step_size_in_disguise() -> None:
    up, down, weak = (0.8, 0.6, 0.9), (-0.7, -0.8, -0.5), (-0.1, -0.4, 0.2)
    table = _correlations(gn_trace=[up, up, down], parameter_norm=[(0.3, 0.1, 0.5), up, up])
    [text] = sentences(table).values()
    assert text == (
        "Gauss–Newton trace (0.80, 0.60 to 0.90) has the largest |ρ| at the chosen rate; its sign flips over rates (0.80 at "
        "0.001, −0.70 at 0.01): a step size in disguise."
    )
    [text] = sentences(_correlations(gn_trace=[up, up, weak])).values()
    assert "perhaps, for not beyond the intervals, a step size in disguise" in text
    table = _correlations(kl=[(-0.9, -1.0, -0.8), down, down], gn_trace=[up, up, up], top_eigenvalue=[weak, up, down])
    [text] = sentences(table).values()
    assert text.startswith(
        "Excess of the loss (−0.90, −1.00 to −0.80) has the largest |ρ| at the chosen rate; its sign is the same"
    )
    assert "Of the measures of sharpness it is Gauss–Newton trace (0.80" in text
    assert text.endswith("Step sizes in disguise, too (their signs flip over rates): top eigenvalue.")
    assert not flips(table, "kl")
    nothing = _correlations(kl=[(math.nan,) * 3] * 3)
    assert list(sentences(nothing).values()) == ["At the chosen rate either nothing differs before, or nothing after."]


def test_every_figure_is_written_and_shows_more_than_a_blank(directory: Path, page: str) -> None:
    shown = ["certificates", *OWN]
    assert sorted(path.stem for path in (directory / "figures").iterdir()) == sorted(shown)
    assert page.count("data:image/png;base64,") == len(shown)
    for name in shown:
        pixels = image.imread(directory / "figures" / f"{name}.png")
        assert pixels.shape[1] == 1600
        assert len({tuple(pixel) for pixel in pixels[::9, ::9].reshape(-1, pixels.shape[2]).tolist()}) > 20


def test_figures_have_a_panel_a_task_and_controls_below_a_rule(run: RunTables) -> None:
    found: dict[str, Any] = {name: picture(run) for name, picture in OWN.items()}
    assert {name: len(figure.axes) for name, figure in found.items()} == {
        "fine_tuning_curves": 2, "fine_tuning_gap": 2, "fine_tuning_examples": 2, "transfer_predictors": 4,
    }  # fmt: skip
    [ax, _] = found["fine_tuning_gap"].axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[-3:] == ["small, copied", "small, blank", "small, rescaled"]
    assert {"controls", "threshold not reached"} <= {text.get_text() for text in ax.texts}
    widths = {line.get_label(): line.get_linewidth() for line in found["fine_tuning_curves"].legends[0].get_lines()}
    assert max(widths, key=lambda name: widths[name]) == "small, normal"
    assert "△ threshold never reached" in [text.get_text() for text in found["transfer_predictors"].axes[0].texts]


def test_curves_are_means_over_seeds_at_the_chosen_rate(run: RunTables) -> None:
    figure = TUNED["fine_tuning_curves"](run)
    assert figure is not None
    [line] = [line for line in figure.axes[0].lines if line.get_label() == "small, widened"]
    expected = pd.DataFrame(losses("widened", "anbnan", "all", SAME["anbnan"])).mean()
    assert np.asarray(line.get_ydata(), dtype=float) == pytest.approx(expected.to_numpy())


def test_an_excess_below_zero_can_be_drawn(run: RunTables) -> None:
    done = run.completions.assign(task_loss=run.completions["task_loss"] - 0.0045)
    figure = TUNED["fine_tuning_curves"](dataclasses.replace(run, completions=done))
    assert figure is not None
    assert figure.axes[0].get_yscale() == "symlog"


def test_figures_of_what_is_not_there_are_none(run: RunTables) -> None:
    def drawn(run: RunTables) -> list[str]:
        return [name for name, picture in OWN.items() if picture(run) is not None]

    assert drawn(kept(run, evaluator=["flatness", "function"])) == []
    assert drawn(few(kept(run, evaluator=["fine_tuning"]))) == ["fine_tuning_curves", "fine_tuning_gap"]
    alone = few(kept(run, variant=["normal"], model=["small"]))
    alone = dataclasses.replace(alone, completions=run.completions.iloc[:0])
    assert drawn(alone) == ["transfer_predictors"]
    probed = [name for name in set(run.measurements["prompt_set"]) if ".probe." in name]
    assert drawn(kept(run, prompt_set=probed)) == []


def test_the_page_is_self_contained_escaped_and_without_rules(directory: Path, page: str) -> None:
    loads = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert all(first.startswith("data:image/png;base64,") for first, _ in loads)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") == 3  # the title twice, the language's title
    assert str(directory) not in page
    words = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"\bnan\b|\bNone\b", words)
    for absent in (
        "rule keeper",
        "Prompt by prompt",
        "Main results",
        "Perturbations",
        "In-context learning",
        "Prompt sets",
    ):
        assert absent not in words
    for present in (
        "Fine-tuning: the gap",
        "Same function",
        "Flatness before",
        "What predicts",
        "Loss above the floor",
    ):
        assert words.count(f"<h2>{present}") == 1


def test_names_are_escaped_too(run: RunTables) -> None:
    evil = "<b>wide</b>"
    config = copy.deepcopy(run.resolved["config"])
    config["derived"] = {evil if name == "widened" else name: of for name, of in DERIVED.items()}
    tables = {
        name: getattr(run, name).assign(variant=getattr(run, name)["variant"].replace("widened", evil))
        for name in ("certificates", "measurements", "completions")
    }
    renamed = dataclasses.replace(run, resolved=run.resolved | {"config": config}, **tables)
    page = render(few(renamed), Undrawn())
    assert evil not in page
    assert "small, &lt;b&gt;wide&lt;/b&gt;" in page


def test_one_seed_or_flatness_alone_or_one_protocol_is_a_page(run: RunTables) -> None:
    assert "Fine-tuning: the gap" in render(one_seed(few(run)), Undrawn())
    flat = render(kept(run, evaluator=["flatness"]), Undrawn())
    assert "Flatness before" in flat
    assert "Fine-tuning: the gap" not in flat
    assert "What predicts" not in flat
    unflat = render(few(kept(run, evaluator=["fine_tuning"])), Undrawn())
    assert "Flatness before" not in unflat
    assert len(transfer_tables(few(kept(run, evaluator=["fine_tuning"])))) == 2  # the excess alone predicts


def test_a_study_of_rules_may_have_fine_tuning_too(run: RunTables, tmp_path: Path) -> None:
    rules = load(write_run(tmp_path))
    own = few(kept(run, model=["small"])).measurements
    own = own[own["variant"] != "longer"]
    preserved = [name for name in DERIVED if name != "longer"]
    certificates = select(run.certificates, model="small")
    certificates = certificates[certificates["variant"].isin(preserved)]
    about = copy.deepcopy(rules.resolved)
    about["config"] |= {"derived": {name: DERIVED[name] for name in preserved}}
    same = {"language": "anbn", "model": "transformer"}
    headline = rules.measurements[rules.measurements["measure"] == "R1"]
    both = dataclasses.replace(
        rules, resolved=about,
        certificates=pd.concat([rules.certificates, certificates.assign(**same)], ignore_index=True),
        measurements=pd.concat([headline, own.assign(**same)], ignore_index=True),
    )  # fmt: skip
    page = render(both, Undrawn())
    for present in ("Prompt by prompt", "Main results", "Fine-tuning: the gap", "Same function"):
        assert present in page
    assert "Loss above the floor" not in page
    assert "Perturbations" not in page
