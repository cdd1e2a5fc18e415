"""What the audit puts beside a row is exact: floors judged by adding up padded positions, levels by all completions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from audit_table import write
from scipy import stats

from lmtest.audit import audit
from lmtest.evaluators.rule_extrapolation import RuleExtrapolationConfig
from lmtest.languages import Language, load_language
from lmtest.languages.prompts import prompts_of_length

OWN = """
title = "mine"
kind = "pcfg"
grammar = "S -> 'a' S 'b' [0.3] | 'a' 'b' [0.5] | 'c' [0.2]"
max_length = 6
[rules]
R1 = { count = "a == b" }
"""
PADDED = 9


def position_losses(language: Language, padded_to: int) -> list[tuple[float, list[float], int]]:
    """Every string's probability, its loss at each of so many positions (EOS one of them, PAD behind it), and its tokens."""
    support = language.support()
    assert support is not None
    found = []
    for row, log_prob in zip(support.rows, support.log_probs.tolist(), strict=True):
        text = language.vocabulary.text(language.vocabulary.join(row))
        losses = [-math.log(language.next_symbol_law(text[:t])[text[t]]) for t in range(len(text))]
        losses.append(-math.log(language.next_symbol_law(text)["<eos>"]))
        padding = [0.0] * (padded_to - len(losses))  # the best model knows that PAD follows EOS
        found.append((math.exp(log_prob), losses + padding, len(losses)))
    return found


@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_the_floor_is_the_mean_that_was_taken(tmp_path: Path, unit: str) -> None:
    (tmp_path / "mine.toml").write_text(OWN, encoding="utf-8")
    strings = position_losses(load_language(tmp_path / "mine.toml"), PADDED)
    total = sum(p * sum(losses) for p, losses, _ in strings)
    expected = {
        str(PADDED): sum(p * np.mean(losses) for p, losses, _ in strings),
        "string": total,
        "": total / sum(p * tokens for p, _, tokens in strings),
    }
    for positions, floor in expected.items():
        row = {"language": "mine.toml", "loss": "0.900000", "positions": positions, "unit": unit, "n": "4"}
        found = audit(write(tmp_path / "t.csv", row | {"loss_spread": "0.1"})).rows.iloc[0]
        scale = math.log(2) if unit == "bits" else 1.0
        assert found["floor"] == pytest.approx(floor / scale, abs=1e-12)
        assert found["floor_half_width"] == 0
        over = total / floor
        assert found["averaged_over"] == pytest.approx(over)
        assert found["excess"] == pytest.approx(0.9 * scale * over - total)
        half = (stats.t.ppf(0.975, 3) * 0.1 / 2 + 0.5e-6) * scale * over
        assert found["excess_upper"] - found["excess"] == pytest.approx(half)
        assert found["excess"] - found["excess_lower"] == pytest.approx(half)


def test_a_sampled_floor_has_a_half_width_that_the_excess_takes_over(tmp_path: Path) -> None:
    text = 'title = "ambiguous"\nkind = "pcfg"\ngrammar = "S -> S S [0.3] | \'a\' [0.4] | \'b\' [0.3]"'
    (tmp_path / "ambiguous.toml").write_text(text, encoding="utf-8")
    language = load_language(tmp_path / "ambiguous.toml")
    entropy = language.entropy()
    assert not entropy.exact
    row = {"language": "ambiguous.toml", "loss": "2.00000", "positions": "61", "unit": "nats"}
    found = audit(write(tmp_path / "t.csv", row)).rows.iloc[0]
    assert found["floor_half_width"] == pytest.approx(entropy.half_width / 61)
    assert found["excess_upper"] - found["excess"] == pytest.approx(entropy.half_width + 0.5e-5 * 61)


def test_a_spread_whose_runs_are_not_known_counts_as_a_standard_error(tmp_path: Path) -> None:
    row = {"language": "anbn_tiny", "loss": "0.2", "loss_spread": "0.1", "positions": "string"}
    found = audit(write(tmp_path / "t.csv", row)).rows.iloc[0]
    assert found["excess_upper"] - found["excess"] == pytest.approx(1.96 * 0.1 + 0.05)


def uniform_completions(language: Language, prompt: str, rule: str, new_tokens: int) -> tuple[float, float, float]:
    """Of the uniform law, adding up all completions: P(finished), P(finished and the rule holds), the same of the completion."""
    finished = kept = alone = 0.0
    for length in range(new_tokens):
        for symbols in itertools.product(language.symbols, repeat=length):
            probability = (1 / (len(language.symbols) + 1)) ** (length + 1)
            completion = "".join(symbols)
            holds = [text.count("a") == text.count("b") for text in (prompt + completion, completion)]
            assert rule == "R1"
            finished += probability
            kept += probability * holds[0]
            alone += probability * holds[1]
    return finished, kept, alone


@pytest.mark.parametrize("prompt_set", ["id", "ood"])
def test_chance_and_stop_are_those_of_all_completions(tmp_path: Path, prompt_set: str) -> None:
    language, length, new_tokens = load_language("anbn_tiny"), 3, 4
    sides = dict(zip(("id", "ood"), prompts_of_length(language, length), strict=True))
    prompts = [language.vocabulary.text(language.vocabulary.join(row)) for row in sides[prompt_set].rows]
    sums = np.array([uniform_completions(language, prompt, "R1", new_tokens) for prompt in prompts]).mean(0)
    stop = np.mean([prompt.count("a") == prompt.count("b") for prompt in prompts])
    expected = {
        "R1": (sums[1], stop),
        "R1_finished": (sums[1] / sums[0], stop),
        "R1_completion": (sums[2], 1.0),
        "R1_completion_finished": (sums[2] / sums[0], 1.0),
        "grammatical": (None, float(np.mean(language.contains(prompts)))),
    }
    row = {"language": "anbn_tiny", "prompt_set": prompt_set, "value": "0.5", "prompts": str(len(prompts))}
    row |= {"prompt_length": str(length), "max_new_tokens": str(new_tokens)}
    done = audit(write(tmp_path / "t.csv", *[row | {"measure": measure} for measure in expected]))
    for found, (chance, stops) in zip(done.rows.itertuples(), expected.values(), strict=True):
        assert found.stop_at_once == pytest.approx(stops)
        assert chance is None or found.exact_chance == pytest.approx(chance)
    assert "prompts-miscounted" not in set(done.findings["finding"])


@pytest.mark.parametrize("name", ["anbn_tiny", "ban_small", "brackets_nested_small"])
def test_levels_and_ceiling_are_those_of_the_evaluator(tmp_path: Path, name: str) -> None:
    language = load_language(name)
    config = RuleExtrapolationConfig(prompts="published", heldout=1.0, max_new_tokens=300, decodings=["greedy"])
    table, _ = config.evaluator(language).evaluate(language, [0], 0)
    table = table[table["prompt_set"].isin(["id"]) & ~table["measure"].str.startswith("finish")]
    rows = [
        {"language": name, "measure": r.measure, "prompt_set": r.prompt_set, "value": "0.000000"}
        for r in table.itertuples()
    ]
    done = audit(write(tmp_path / "t.csv", *rows))
    np.testing.assert_allclose(done.rows["exact_chance"].astype(float), table["chance"].astype(float), equal_nan=True)
    broken = set(done.findings.loc[done.findings["finding"] == "broken-in-distribution", "measure"])
    assert broken == set(table.loc[~table["measure"].str.contains("_completion"), "measure"])
    # Where the audit says that the language scores 1, it does.
    assert (table.set_index("measure").loc[sorted(broken), "value"] == 1).all()


def test_unfinished_completions_leave_the_language_without_a_ceiling(tmp_path: Path) -> None:
    row = {"language": "anbn_tiny", "measure": "R1", "prompt_set": "id", "value": "0.100"}
    for new_tokens, broken in (("9", True), ("8", False)):  # aaaaaaaa needs bbbbbbbb and EOS
        found = audit(write(tmp_path / "t.csv", row | {"max_new_tokens": new_tokens})).findings["finding"]
        assert ("broken-in-distribution" in set(found)) is broken


def test_answers_in_context_have_the_chance_of_one_token(tmp_path: Path) -> None:
    row = {"language": "ginc_released", "measure": "accuracy", "prompt_set": "seen.k10.n64", "value": "0.01"}
    assert audit(write(tmp_path / "t.csv", row)).rows["exact_chance"].tolist() == [1 / 51]
