"""The report of a synthetic run: 3 variants × 8 seeds, the 251 OOD prompts of aⁿbⁿ, reference models and claims."""

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

from lmtest import atomic
from lmtest.errors import LmtestError, UsageError
from lmtest.report import figures, tables, write_report
from lmtest.report.marks import spread
from lmtest.report.page import each_seed, main_table, num, published_table, short
from lmtest.report.tables import load, modal_completions

SEEDS = range(8)
REFERENCES = ("language", "rule_keeper", "uniform", "stop")
COLUMN = {measure: measure for measure in ("R1", "R2_completion", "grammatical")}
COLUMN |= {"R1_finished": "R1", "finish_rate": "finished"}
RATE = {"normal": 0.43, "adversarial": 0.0, "oracle": 1.0}
EVIL = '<script>alert("&")</script>'
PROMPTS = ["".join(p) for p in itertools.product("ab", repeat=8)]


def is_id(prompt: str) -> bool:
    return "ba" not in prompt and prompt.count("a") >= prompt.count("b")


OOD = [prompt for prompt in PROMPTS if not is_id(prompt)]
SETS = {
    "id": [prompt for prompt in PROMPTS if is_id(prompt)],
    "ood": OOD,
    "ood_trained": OOD[::2],
    "ood_heldout": OOD[1::2],
    "empty": [""],
}


def resolved() -> dict[str, Any]:
    published = {"measure": "R1_finished", "prompt_set": "ood", "decoding": "greedy", "source": "paper, table 1"}
    return {
        "schema_version": 2,
        "name": "rule_extrapolation",
        "title": f"Rule extrapolation {EVIL}",
        "config": {"claims": [{"id": "same_loss", "kind": "equivalence", "measure": "kl", "margin": 0.02}]},
        "languages": {
            "anbn": {
                "name": "anbn",
                "title": "aⁿbⁿ, n uniform on 1…128",
                "source": "position paper, section 3",
                "symbols": ["a", "b"],
                "rules": {"R1": 'count = "a == b"', "R2": 'regex = "a*b*"'},
                "entropy": {"value": math.log(128), "half_width": 0.0, "exact": True},
                "mean_length": 129.0,
                "models": {"transformer": {"layers": 5, "width": 10, "parameters": 110_076}},
                "epsilon": 0.01,
                "prompt_sets": {name: {"count": len(of), "mass": float(name == "id")} for name, of in SETS.items()},
            }
        },
        "published": [
            {"label": "Normal", "variant": "normal", "value": 0.437, "spread": 0.045, "seeds": 46, **published},
            {"label": "Normal, larger", "variant": "normal", "value": 0.462, "spread": 0.076, "seeds": 34, **published},
            {"label": "Adversarial", "variant": "adversarial", "value": 0.0, "spread": 0.0, "seeds": 50, **published},
            {"label": "Oracle", "variant": "oracle", "value": 0.83, "spread": 0.105, "seeds": 44, "note": EVIL}
            | published,
        ],
    }


def completions(rng: np.random.Generator, study: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for variant, seed in itertools.product(RATE, SEEDS):
        for prompt in [*PROMPTS, ""]:
            kind = "id" if is_id(prompt) else "ood_trained" if prompt in SETS["ood_trained"] else "ood_heldout"
            kind = "empty" if prompt == "" else kind
            d = prompt.count("a") - prompt.count("b")
            slope = 1.4 - 0.13 * abs(d) if variant == "normal" else 1.0
            good = kind in ("id", "empty") or rng.random() < RATE[variant] * slope
            excess = d if good else d + int(rng.integers(1, 4))
            finished = kind in ("id", "empty") or rng.random() < (0.97 if variant == "oracle" else 0.85)
            completion = "b" * max(excess, 0) + "a" * max(-excess, 0) if finished else "b" * 120
            total = prompt + completion
            r1 = total.count("a") == total.count("b")
            rows.append(
                {
                    **study, "model": "transformer", "variant": variant, "seed": seed, "prompt_set": kind,
                    "evaluator": "rule_extrapolation", "prompt": prompt, "decoding": "greedy", "replicate": 0,
                    "completion": completion, "finished": finished,
                    "grammatical": finished and r1 and "ba" not in total,
                    "broken": "" if not kind.startswith("ood") else "R2" if "ba" in prompt else "joint",
                    "R1": r1 and finished, "R2_completion": "ba" not in completion,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def measurements(done: pd.DataFrame, certificates: pd.DataFrame, study: dict[str, Any]) -> pd.DataFrame:
    chance = {"id": 0.031, "ood": 0.047, "ood_trained": 0.046, "ood_heldout": 0.048, "empty": 0.09}
    saturated = certificates.set_index(["variant", "seed"])["saturated"]
    common = {**study, "evaluator": "rule_extrapolation"}
    rows = []
    for (variant, seed), part in done.groupby(["variant", "seed"]):
        for name, decoding in itertools.product(SETS, ("greedy", "sampled")):
            items = part[part["prompt"].isin(SETS[name])]
            for measure, column in COLUMN.items():
                value, n = float(items[column].mean()), len(items)
                half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
                rows.append(
                    {
                        **common, "model": "transformer", "variant": variant, "seed": seed, "measure": measure,
                        "prompt_set": name, "decoding": decoding, "value": value, "lower": max(value - half, 0),
                        "upper": min(value + half, 1), "count": n, "chance": chance[name],
                        "saturated": bool(saturated[variant, seed]),
                    }
                )  # fmt: skip
    for model, name, decoding in itertools.product(REFERENCES, SETS, ("greedy", "sampled")):
        dead = model == "language" and name.startswith("ood")
        value = {"language": 1.0, "rule_keeper": 1.0, "uniform": chance[name], "stop": 69 / 251}[model]
        rows.append(
            {
                **common, "model": model, "variant": "reference", "seed": 0, "measure": "R1", "prompt_set": name,
                "decoding": decoding, "value": math.nan if dead else value, "lower": math.nan, "upper": math.nan,
                "count": 0 if dead else len(SETS[name]), "chance": chance[name], "saturated": model == "language",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def write_run(directory: Path) -> Path:
    """A whole run directory, as the pipeline would write it."""
    rng = np.random.default_rng(7)
    study = {"study": "rule_extrapolation", "language": "anbn"}
    rows = []
    for variant, seed in itertools.product(RATE, SEEDS):
        kl = float(rng.lognormal(math.log(0.004), 0.35))
        kl = 0.018 if (variant, seed) == ("adversarial", 3) else kl
        rows.append(
            {
                **study, "model": "transformer", "variant": variant, "seed": seed, "kl": kl, "kl_lower": 0.9 * kl,
                "kl_upper": 1.12 * kl, "kl_per_token": kl / 130, "exact": False, "saturated": 1.12 * kl < 0.01,
            }
        )  # fmt: skip
    certificates = pd.DataFrame(rows)
    done = completions(rng, study)
    table = measurements(done, certificates, study)
    ends = table.query("measure == 'R1' and prompt_set == 'ood' and decoding == 'greedy' and variant != 'reference'")
    paths = []
    for (_, end), kl in zip(ends.iterrows(), certificates.sort_values(["variant", "seed"])["kl"], strict=True):
        for i, share in enumerate(np.linspace(0, 1, 25)):
            noise = rng.normal(0, 0.08 if end["variant"] == "normal" else 0.03) * (1 - share)
            value = 0.27 * (1 - share) ** 3 + end["value"] * (1 - (1 - share) ** 3) + noise
            excess = kl * (90 / kl) ** ((1 - share) ** 1.3)
            paths.append(end.to_dict() | {"value": float(np.clip(value, 0, 1)), "step": 400 * i, "kl": excess})
    claims = [
        ("same_loss", f"The losses agree within 0.02 nats {EVIL}", "supported", 0.0004, -0.002, 0.003, 1e-5, ""),
        ("oracle_above_normal", "The oracle keeps R1 more often", "supported", 0.55, 0.48, 0.61, 2e-4, "two-sided"),
        ("normal_above_chance", "Normal lies above chance", "undecided", 0.38, math.nan, math.nan, math.nan, "7 of 8"),
        ("adversarial_keeps", "Adversarial keeps R1", "refuted", -0.41, -0.45, -0.36, 1.0, ""),
    ]
    verdicts = [
        {
            "claim": f"rule_extrapolation/{name}", "statement": statement, "verdict": verdict, "effect": effect,
            "lower": lower, "upper": upper, "p_value": p, "seeds_used": 8, "seeds_asked": 8, "published": "0.437",
            "source": "paper", "p_raw": p, "test": "Welch", "note": note,
        }
        for name, statement, verdict, effect, lower, upper, p, note in claims
    ]  # fmt: skip
    atomic.write_json(directory / "resolved.json", resolved())
    atomic.write_json(
        directory / "env.json",
        {
            "versions": {"python": "3.11.9", "torch": "2.11.0"}, "device": "cpu", "threads": 2, "seconds": 5025.4,
            "git": {"commit": "0123abc", "dirty": False}, "command": "lmtest run runs/rule_extrapolation.toml",
        },
    )  # fmt: skip
    for name, frame in {"certificates": certificates, "measurements": table, "trajectory": pd.DataFrame(paths),
                        "completions": done, "verdicts": pd.DataFrame(verdicts)}.items():  # fmt: skip
        atomic.write_parquet(directory / f"{name}.parquet", frame)
    return directory


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
    for draw in figures.FIGURES.values():
        panels, panel = draw(two), draw(run)
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
    with pytest.raises(UsageError, match=r"certificates\.parquet lacks the columns kl_upper"):
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
    assert figures.draw(run) == figures.draw(run)
    assert dict(matplotlib.rcParams) == before


def test_the_report_touches_neither_torch_nor_pyplot() -> None:
    root = Path(tables.__file__).parent
    for path in root.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"torch", "matplotlib.pyplot"} & set(names)
            assert all(
                n.startswith(("lmtest.report", "lmtest.errors")) or n == "lmtest" for n in names if "lmtest" in n
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
def test_other_failures_pass_through_unchanged_and_leave_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)) as caught:
        atomic.write_text(tmp_path / "t.txt", "text")
    assert caught.value is error
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
