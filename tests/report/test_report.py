"""The report of a synthetic run of one language."""

from __future__ import annotations

import ast
import dataclasses
import errno
import itertools
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from synthetic_run import OOD, resolved, write_run

from lmtest import atomic
from lmtest.errors import LmtestError, UsageError
from lmtest.report import figures, tables, write_report
from lmtest.report.marks import draw, spread
from lmtest.report.prompts import modal_completions
from lmtest.report.rows import each_seed, main_table, published_table
from lmtest.report.tables import load
from lmtest.report.text import num, short


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    path = write_report(finished)
    assert path == finished / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A run directory to damage."""
    for file in finished.iterdir():
        if file.is_file() and file.suffix != ".html":
            shutil.copy(file, tmp_path)
    return tmp_path


def test_every_figure_is_written_and_shows_more_than_a_blank(finished: Path, page: str) -> None:
    names = sorted(path.name for path in (finished / "figures").iterdir())
    assert names == [
        "certificates.png", "loss_against_rule_extrapolation.png", "prompts.png", "rule_extrapolation_per_seed.png",
    ]  # fmt: skip
    for name in names:
        pixels = image.imread(finished / "figures" / name)
        assert pixels.shape[1] == 1600
        assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, pixels.shape[2]).tolist()}) > 20


def test_the_page_loads_nothing_from_elsewhere(finished: Path, page: str) -> None:
    loads = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert len(loads) == 4
    assert all(first.startswith("data:image/png;base64,") for first, _ in loads)
    assert "http://" not in page
    assert "https://" not in page
    assert str(finished) not in page


def test_the_page_holds_every_claim_with_its_verdict_and_every_dash(page: str) -> None:
    pattern = r'<span class="badge (\w+)">\1</span></td>\s*<td>.*?<span class="id mono">(.*?)</span>'
    assert re.findall(pattern, page) == [
        ("supported", "rule_extrapolation/same_loss"),
        ("supported", "rule_extrapolation/oracle_above_normal"),
        ("undecided", "rule_extrapolation/normal_above_chance"),
        ("refuted", "rule_extrapolation/adversarial_keeps"),
    ]
    assert "nan" not in re.sub(r"base64,[^\"]*|title=\"[^\"]*\"", "", page).lower()


def test_the_text_of_a_user_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") == 4  # title (twice), a claim's statement, a published note


def test_numbers_of_the_main_table_are_those_of_the_measurements(finished: Path, page: str) -> None:
    run = load(finished)
    greedy = main_table(run)[0]
    assert [row["label"] for row in greedy["rows"]][:4] == ["normal", "adversarial", "oracle", "the language"]
    table = run.measurements.query(
        "variant == 'normal' and measure == 'R1' and prompt_set == 'ood_heldout' and decoding == 'greedy'"
    )["value"]
    assert greedy["rows"][0]["values"][0] == f"{table.mean():.3f}\n{table.min():.3f} to {table.max():.3f}"
    assert greedy["rows"][0]["values"][0] in page
    assert greedy["rows"][3]["values"][:3] == ["–"] * 3  # the exact law has no answer to an impossible prompt


def test_unsaturated_seeds_are_marked_and_counted(finished: Path) -> None:
    run = load(finished)
    rows = {row["label"]: row for row in main_table(run)[0]["rows"]}
    assert (rows["adversarial"]["saturated"], rows["adversarial"]["dagger"]) == ("7 of 8", True)
    assert (rows["normal"]["saturated"], rows["normal"]["dagger"]) == ("8 of 8", False)
    assert [row["seed"] for row in each_seed(run) if row["dagger"]] == [3]
    assert len(each_seed(run)) == 24


def test_published_values_stand_beside_mean_and_sd_of_ours(finished: Path) -> None:
    run = load(finished)
    values = run.measurements.query(
        "variant == 'oracle' and measure == 'R1_finished' and prompt_set == 'ood' and decoding == 'greedy'"
    )["value"]
    row = published_table(run)[-1]
    assert row["ours"] == f"{values.mean():.3f} ± {np.std(values, ddof=1):.3f}"
    assert row["n"] == 8
    assert row["difference"] == pytest.approx(values.mean() - 0.83)


def test_the_most_frequent_completion_is_counted_over_seeds(finished: Path) -> None:
    run = load(finished)
    found = modal_completions(run)
    assert sorted(prompt for prompt, _, _ in found) == OOD
    for prompt, _, cells in found[::25]:
        rows = tables.select(run.completions, prompt=prompt, variant="normal")
        (_, times), *_ = Counter(zip(rows["completion"], rows["finished"], strict=True)).most_common(1)
        completion, ended, share, kept = cells["transformer", "normal"]
        assert share == times / 8
        assert ((rows["completion"] == completion) & (rows["finished"] == ended)).sum() == times
        assert kept == (rows["R1"] & rows["finished"]).mean()


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_study_without_probes_claims_and_completions_still_has_a_page(copy: Path, how: str) -> None:
    for name in ("trajectory", "completions", "verdicts"):
        path = copy / f"{name}.parquet"
        path.unlink()
        if how == "empty":
            atomic.write_parquet(path, pd.DataFrame())
    atomic.write_bytes(copy / "figures" / "prompts.png", b"of another run")
    text = write_report(copy).read_text(encoding="utf-8")
    assert "makes no claims" in text
    assert "not probed along training" in text
    assert "kept no completions" in text
    assert "Not drawn: prompts" in text
    assert sorted(p.stem for p in (copy / "figures").iterdir()) == [
        "certificates", "loss_against_rule_extrapolation", "rule_extrapolation_per_seed",
    ]  # fmt: skip


def test_several_models_get_a_panel_each(finished: Path) -> None:
    run = load(finished)
    double = {
        name: pd.concat([frame, frame[frame["model"] == "transformer"].assign(model="lstm")], ignore_index=True)
        for name, frame in {
            "certificates": run.certificates,
            "measurements": run.measurements,
            "trajectory": run.trajectory,
            "completions": run.completions,
        }.items()
    }
    two = dataclasses.replace(run, **double)
    for picture in figures.FIGURES.values():
        panels, panel = picture(two), picture(run)
        assert panels is not None
        assert panel is not None
        assert [len(panels.axes), len(panel.axes)] == [2, 1]
        assert panels.get_size_inches()[1] == 2 * panel.get_size_inches()[1]
    assert [row["label"] for row in main_table(two)[0]["rows"]][:4] == [
        "transformer, normal", "transformer, adversarial", "transformer, oracle", "lstm, normal",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["resolved.json", "env.json", "certificates.parquet", "measurements.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_damaged_file_is_a_usage_error_that_names_it(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:20]) if damage == "cut" else path.unlink()
    with pytest.raises(
        UsageError,
        match=rf"{re.escape(name)}.*({'another --out' if name == 'resolved.json' else 'lmtest run .*--resume'})",
    ):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_lacking_columns_and_keys_are_named(copy: Path) -> None:
    frame = pd.read_parquet(copy / "certificates.parquet")
    atomic.write_parquet(copy / "certificates.parquet", frame.drop(columns="kl_upper"))
    with pytest.raises(UsageError, match=r"certificates\.parquet lacks the column .kl_upper"):
        load(copy)
    atomic.write_json(copy / "resolved.json", {key: value for key, value in resolved().items() if key != "published"})
    with pytest.raises(UsageError, match=r"resolved\.json lacks published"):
        load(copy)


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no folder"):
        write_report(tmp_path / "nowhere")


def test_drawing_leaves_no_state_and_is_repeatable(finished: Path) -> None:
    before = dict(matplotlib.rcParams)
    run = load(finished)
    assert draw(figures.FIGURES, run) == draw(figures.FIGURES, run)
    assert dict(matplotlib.rcParams) == before


def test_the_report_touches_neither_torch_nor_pyplot() -> None:
    root = Path(tables.__file__).parent
    for path in root.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"torch", "matplotlib.pyplot"} & set(names)
            assert all(
                n.startswith(("lmtest.report", "lmtest.claims", "lmtest.columns", "lmtest.errors", "lmtest.validation"))
                or n in ("lmtest", "lmtest.seeds", "lmtest.evaluators.calibration")  # its bins, of numbers alone
                for n in names
                if "lmtest" in n
            )


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (math.nan, 3, "–"), (None, 3, "–"), (math.inf, 3, "∞"), (0.0, 3, "0.000"), (0.4367, 3, "0.437"),
        (0.004, 3, "0.0040"), (-0.41, 2, "−0.41"), (1e-5, 3, "1.0e−05"), ("0.437", 3, "0.437"), (12, 0, "12"),
    ],
)  # fmt: skip
def test_numbers_read_well(value: Any, digits: int, text: str) -> None:
    assert num(value, digits) == text


def test_a_long_completion_is_shortened_and_an_unfinished_one_says_so() -> None:
    assert short("", True) == "⟨stops⟩"
    assert short("ab" + "b" * 11 + "a", True) == "ab¹²a"
    assert short("b" * 40, False) == "b⁴⁰… (unfinished)"
    assert short("ab" * 40, True) == "ab" * 15 + "…"
    assert short("ab" * 40, False) == "ab" * 15 + "… (unfinished)"


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_labels_keep_their_order_and_their_distance(places: list[float]) -> None:
    moved = spread(sorted(places), 0.1, 0.0, 1.0)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(moved))
    assert all(-1e-9 <= y <= 1 + 1e-9 for y in moved)


# The files themselves: whole or not there, and nothing temporary left behind.


def test_what_is_written_is_read_back_and_nothing_else_lies_there(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["aⁿbⁿ", ""], "value": [np.nan, 1.0]}, index=[7, 3])
    atomic.write_parquet(tmp_path / "t.parquet", frame)
    atomic.write_json(tmp_path / "new" / "t.json", {"b": "é", "a": [1, 2.5]})
    atomic.write_text(tmp_path / "t.txt", "old")
    atomic.write_text(tmp_path / "t.txt", "aⁿ")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), frame.reset_index(drop=True))
    assert (tmp_path / "new" / "t.json").read_text() == '{\n  "b": "é",\n  "a": [\n    1,\n    2.5\n  ]\n}\n'
    assert (tmp_path / "t.txt").read_text() == "aⁿ"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "t.parquet", "t.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_names_the_file_keeps_the_old_one_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "certificates.parquet"
    atomic.write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(LmtestError, match=r"certificates\.parquet.*disk is full.*intact.*--resume") as caught:
        atomic.write_bytes(path, b"new")
    assert not isinstance(caught.value, UsageError)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_fills_while_data_are_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "open", lambda *_: open("/dev/full", "wb"), raising=False)  # noqa: SIM115
    with pytest.raises(LmtestError, match="disk is full"):
        atomic.write_bytes(tmp_path / "t.bin", bytes(1_000_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output error"), KeyboardInterrupt()])
def test_other_failures_pass_through_and_leave_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)) as caught:
        atomic.write_text(tmp_path / "t.txt", "text")
    assert str(caught.value).startswith(str(error))
    assert getattr(caught.value, "filename", None) in (None, str(tmp_path / "t.txt"))
    assert list(tmp_path.iterdir()) == []


def test_every_write_has_a_temporary_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        names.append(Path(source).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    for _ in range(20):
        atomic.write_text(tmp_path / "t.txt", "text")
    assert len(set(names)) == 20
    assert all(str(os.getpid()) in name for name in names)
