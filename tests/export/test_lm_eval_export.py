"""Tasks for lm-evaluation-harness: pairs that differ in one symbol, of which exactly one keeps the rule."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lmtest.errors import UsageError
from lmtest.evaluate import evaluator_of
from lmtest.export.hugging_face import export_hugging_face
from lmtest.export.lm_eval import export_lm_eval, minimal_pairs
from lmtest.languages import Language, load_language
from lmtest.models.transformer import Transformer, TransformerConfig

ANBN = ("prompt_length=4",)
WORDS = """
title = "as many opens as closes"
kind = "pcfg"
max_length = 12
grammar = "S -> 'open' S 'close' [0.5] | 'open' 'close' [0.5]"
[rules]
R1 = { count = "open == close" }
R2 = { regex = "open* close*" }
"""


def exported(folder: Path, language: Language, settings: tuple[str, ...] = ANBN, **more: Any) -> dict[str, list[Any]]:
    export_lm_eval(language, evaluator_of(language, "rule_extrapolation", settings), folder, **more)
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("*.jsonl")}


def string(language: Language, item: dict[str, Any], choice: int) -> list[str]:
    """The whole string of a choice, its start and end taken off."""
    text = item["prompt"] + item["choices"][choice]
    assert text.startswith("<eos>")
    assert text.endswith("<eos>")
    return list(language.vocabulary.split(text.removeprefix("<eos>").removesuffix("<eos>")))


def holds(language: Language, rule: str, symbols: list[str]) -> bool:
    row = [language.symbols.index(symbol) for symbol in symbols]
    tokens = torch.tensor([row], dtype=torch.int64).view(1, len(row))
    return bool(language.rules[rule].holds(tokens, torch.tensor([len(row)])))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("anbn_tiny", "R1"),
        ("anbn_tiny", "R2"),
        ("brackets_nested_small", "R1"),
        ("brackets_shuffled_small", "R2"),
        (WORDS, "R1"),
    ],
)
def test_exactly_one_choice_keeps_the_rule_and_they_differ_in_one_symbol(tmp_path: Path, name: str, rule: str) -> None:
    if name == WORDS:
        (tmp_path / "words.toml").write_text(WORDS)
        name = str(tmp_path / "words.toml")
    language = load_language(name)
    sets = exported(tmp_path / "task", language, rule=rule)
    assert sets
    for which, items in sets.items():
        for i, item in enumerate(items):
            right, wrong = (string(language, item, k) for k in (item["label"], 1 - item["label"]))
            assert holds(language, rule, right)
            assert not holds(language, rule, wrong)
            assert len(right) == len(wrong)
            assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
            assert item["label"] == i % 2  # so that who always takes the first is at chance
            prompt = language.vocabulary.split(item["prompt"].removeprefix("<eos>"))
            assert (language.prefix_log_prob([prompt])[0] > -math.inf) == (which == "id")


def test_every_prompt_has_a_pair_or_is_counted_as_left_out(tmp_path: Path) -> None:
    language = load_language("anbn_tiny")
    done = export_lm_eval(language, evaluator_of(language, "rule_extrapolation", ANBN), tmp_path / "task")
    # 16 prompts of 4 symbols; aaaa, aaab, aabb are possible. Those with as many b as a need nothing more: 5 impossible ones,
    # and aabb; another symbol in what the others need changes the count.
    assert done.tasks == {"lmtest_anbn_tiny_R1_ood": 13 - 5, "lmtest_anbn_tiny_R1_id": 2}
    assert done.left_out == 6


def test_changes_break_as_few_other_rules_as_possible() -> None:
    language = load_language("anbn_tiny")
    (pair,) = minimal_pairs(language, [(0,) * 8], "R1", 20)
    assert language.vocabulary.join(pair.keeps) == "bbbbbbbb"
    assert language.vocabulary.join(pair.breaks) == "abbbbbbb"  # any other place would break R2 too


def test_the_files_are_what_the_harness_reads(tmp_path: Path) -> None:
    language = load_language("anbn_tiny")
    items = exported(tmp_path / "task", language, start="[S]", end="[E]")["ood"]
    task = yaml.safe_load((tmp_path / "task" / "lmtest_anbn_tiny_R1_ood.yaml").read_text())
    assert task["task"] == "lmtest_anbn_tiny_R1_ood"
    assert task["dataset_path"] == "json"
    assert task["dataset_kwargs"] == {"data_files": {"test": "ood.jsonl"}}
    assert task["output_type"] == "multiple_choice"
    assert task["target_delimiter"] == ""
    assert [task[key] for key in ("doc_to_text", "doc_to_choice", "doc_to_target")] == ["prompt", "choices", "label"]
    assert set(items[0]) == {"prompt", "choices", "label"}
    assert items[0]["prompt"].startswith("[S]")
    assert all(choice.endswith("[E]") for item in items for choice in item["choices"])
    assert "lm_eval run --model hf" in (tmp_path / "task" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "settings", "evaluator", "message"),
    [
        ({"rule": "R9"}, ANBN, "rule_extrapolation", "no rule 'R9'"),
        ({}, (), "string_mass", "expected --evaluator rule_extrapolation, found string_mass"),
        (
            {"rule": "nonempty"},
            ANBN,
            "rule_extrapolation",
            "no prompt of anbn_tiny has a completion in which one symbol",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, options: dict[str, Any], settings: tuple[str, ...], evaluator: str, message: str
) -> None:
    language = load_language("anbn_tiny")
    with pytest.raises(UsageError, match=message):
        export_lm_eval(language, evaluator_of(language, evaluator, settings), tmp_path / "task", **options)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists: name a folder that does not"):
        export_lm_eval(language, evaluator_of(language, "rule_extrapolation", ANBN), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def log_prob(model: Transformer, prompt: str, completion: str) -> float:
    vocabulary = model.vocabulary
    row = vocabulary.ids(prompt + completion)
    assert row is not None
    law = model.next_log_probs(vocabulary.pack([row])[0])[0, 0]
    said = [*row, vocabulary.eos]
    return sum(float(law[t, said[t]]) for t in range(len(prompt), len(said)))


def test_the_harness_finds_what_we_compute(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="pip install 'lmtest[lm-eval]' runs it")
    language = load_language("anbn_tiny")
    model = TransformerConfig(layers=1, width=16, heads=2, feed_forward=16).build(language.vocabulary, [0])
    export_hugging_face(model, 0, tmp_path / "model")
    items = exported(tmp_path / "task", language)["ood"]
    right = 0
    for item in items:
        prompt = item["prompt"].removeprefix("<eos>")
        scores = [log_prob(model, prompt, choice.removesuffix("<eos>")) for choice in item["choices"]]
        right += scores[item["label"]] > scores[1 - item["label"]]
    arguments = f"pretrained={tmp_path / 'model'},dtype=float32,add_bos_token=False"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments, "--device", "cpu"]
    command += ["--tasks", "lmtest_anbn_tiny_R1_ood", "--include_path", ".", "--output_path", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=tmp_path / "task", capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (tmp_path / "results").rglob("results*.json")
    results = json.loads(found.read_text())["results"]["lmtest_anbn_tiny_R1_ood"]
    assert results["acc,none"] == pytest.approx(right / len(items))
