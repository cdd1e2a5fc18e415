"""Run directories: every verb reads a damaged one, or says in one line what is the matter, and leaves it as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
from hostile_inputs import NUMBERS, TEXTS, VALUES, changed, changed_bytes, examples, lmtest, nothing_half_written
from hypothesis import given
from hypothesis import strategies as st
from tiny import MAIN, TINY

from lmtest.pipeline import run_study

OVERRIDES = (*TINY, "training.steps=2")
SETS = [word for override in OVERRIDES for word in ("--set", override)]
SMALLER = ["--set", "prompt_length=4", "--set", "max_new_tokens=12", "--set", "samples=40"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_study(
        MAIN, out=tmp_path_factory.mktemp("runs") / "whole", overrides=OVERRIDES, seeds="0-1", jobs=1
    ).directory


def damaged_table(data: st.DataObject, path: Path) -> None:
    table = pd.read_parquet(path)
    column = data.draw(st.sampled_from(list(table.columns)))
    how = data.draw(st.sampled_from(["empty", "drop", "fill", "twice", "half", "other"]))
    if how == "empty":
        table = table.iloc[:0]
    elif how == "drop":
        table = table.drop(columns=column)
    elif how == "fill":
        table = table.assign(
            **{column: data.draw(st.sampled_from(["x", -1, float("nan"), None, 10**12, True, "[bold]<b>"]))}
        )
    elif how == "twice":
        table = pd.concat([table, table])
    elif how == "half":
        table = table.iloc[::2]
    else:
        table = pd.DataFrame({"something": [1, 2], "else": ["a", None]})
    table.to_parquet(path, index=False)


def damaged_checkpoint(data: st.DataObject, path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, tensors = json.loads(file.metadata()["lmtest"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = data.draw(st.sampled_from(sorted(tensors)))
    how = data.draw(st.sampled_from(["drop", "double", "shape", "nan", "cut", "metadata", "none"]))
    changes: dict[str, Callable[[], Any]] = {
        "drop": lambda: tensors.pop(name),
        "double": lambda: tensors.update({name: tensors[name].double()}),
        "shape": lambda: tensors.update({name: torch.zeros(3, 3)}),
        "nan": lambda: tensors.update({name: torch.full_like(tensors[name], float("nan"))}),
        "cut": lambda: tensors.update({key: value[:1].clone() for key, value in tensors.items()}),
        "metadata": lambda: metadata.update(data.draw(changed(metadata))),
        "none": metadata.clear,
    }
    changes[how]()
    path.write_bytes(safetensors.torch.save(tensors, {"lmtest": json.dumps(metadata, default=str)}))


def damage(data: st.DataObject, run: Path) -> None:
    """One file taken away, turned into a folder, its bytes changed, or what it holds."""
    files = sorted(path for path in run.rglob("*") if path.suffix in (".parquet", ".json", ".safetensors", ".jsonl"))
    path = data.draw(st.sampled_from(files))
    how = data.draw(st.sampled_from(["gone", "folder", "bytes", "inside", "inside", "inside"]))
    if how in ("gone", "folder"):
        path.unlink()
        if how == "folder":
            path.mkdir()
    elif how == "bytes":
        path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    elif path.suffix == ".parquet":
        damaged_table(data, path)
    elif path.suffix == ".safetensors":
        damaged_checkpoint(data, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text("utf-8")))), default=str), "utf-8")


@examples(0.06)
@given(st.data())
def test_a_damaged_directory_is_read_or_refused(whole: Path, data: st.DataObject) -> None:
    run = whole.parent / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(whole.parent / "hf", ignore_errors=True)
    shutil.copytree(whole, run)
    damage(data, run)
    lmtest("claims", run, codes=(0, 2, 3, 4))
    lmtest(*data.draw(st.sampled_from([
        ("compare", run, whole),
        ("report", run),
        ("evaluate", "--language", "anbn_small", "--model", run, "--variant", "normal", *SMALLER),
        ("export", "hf", run, "--out", whole.parent / "hf", "--variant", "oracle"),
    ])), codes=(0, 1, 2))  # fmt: skip
    nothing_half_written(whole.parent)


@examples(0.04)
@given(st.data())
def test_a_damaged_directory_is_resumed_or_refused(whole: Path, data: st.DataObject) -> None:
    run = whole.parent / "resumed"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    damage(data, run)
    lmtest("run", MAIN, "--out", run, "--resume", "--seeds", "0-1", "--jobs", "1", "--quiet", *SETS, codes=(0, 1, 2))
    nothing_half_written(run)


WORDS = st.one_of(
    st.sampled_from(
        ["run", "report", "claims", "compare", "describe", "sample", "evaluate", "export", "hf", "audit", "power"]
    ),
    st.sampled_from(
        ["--json", "--out", "--seeds", "--set", "--model", "--language", "-n", "--dry-run", "--", "-", "--help"]
    ),
    st.sampled_from(["anbn", "nowhere", "/dev/null", ".", "0", "-1", "1e9", "json:loads", "a=b"]),
    NUMBERS.map(str),
    TEXTS,
)


@examples(1)
@given(st.lists(WORDS, max_size=6))
def test_any_words_are_a_command_or_wrong_usage(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("words"))
        lmtest(*(word for word in words if "\x00" not in word), codes=(0, 1, 2))


@examples(0.08)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.sampled_from(["resolved.json", "env.json"]))
def test_any_json_for_what_a_run_says_of_itself(whole: Path, table: dict[str, Any], name: str) -> None:
    run = whole.parent / "said"
    if not run.exists():
        shutil.copytree(whole, run)
    before = (run / name).read_text("utf-8")
    (run / name).write_text(json.dumps(table, default=str), "utf-8")
    lmtest("report", run)
    if name == "resolved.json":
        lmtest("evaluate", "--language", "anbn_small", "--model", run, "--variant", "normal", *SMALLER)
    (run / name).write_text(before, "utf-8")
