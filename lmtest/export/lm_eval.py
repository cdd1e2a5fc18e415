"""Rule extrapolation as a task of lm-evaluation-harness: pairs of completions that differ in one symbol, one of which breaks a rule.

Behind every prompt the harness asks which of two completions, their end included, a model finds likelier: the rule keeper's, or
the same with one symbol changed, so that the rule no longer holds. Both have the same length, so that neither is favoured by
it, and chance is 1/2. That is a weaker question than the evaluator's, which lets the model write: who never ends a string
may still tell the two apart. Minimal pairs: Warstadt et al., TACL 2020 (arXiv 1912.00582).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmtest import atomic
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.evaluator import Evaluator
from lmtest.evaluators.rule_extrapolation import RuleExtrapolation
from lmtest.languages.base import Language, Row
from lmtest.languages.rule import Rule
from lmtest.languages.vocabulary import EOS_NAME
from lmtest.models.decoding import decode
from lmtest.models.reference import RuleKeeper
from lmtest.seeds import generator

TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
num_fewshot: 0
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
  language: {language}
  rule: {rule}
  chance: 0.5
"""
CARD = """\
# Rule extrapolation on {title}, as a task of lm-evaluation-harness

Written by `lmtest export lm-eval`. Every item is a prompt and two completions that differ in one symbol: after one of them {rule}
(`{text}`) holds for the whole string, after the other it does not. `acc` is the share of prompts behind which the model finds the
first likelier, its end included; chance is 0.5, and both completions are of one length.

{tasks}

`ood`: no string of the language starts with the prompt; `id`: some do. Left out: {left_out} prompts whose completion is empty,
or where no single symbol decides about {rule}. Strings begin with `{start}` and end with `{end}`; a harness that puts a start
of its own in front is to be told not to (`add_bos_token=False`).

In this folder:

    lm_eval run --model hf --model_args pretrained=MODEL,dtype=float32,add_bos_token=False --device cpu \\
      --tasks {names} --include_path .
"""


@dataclass(frozen=True)
class Pair:
    """A prompt with two completions of the same length: the rule keeper's, and the same with one symbol changed."""

    prompt: Row
    keeps: Row
    breaks: Row


@dataclass(frozen=True)
class TaskExport:
    """The tasks by prompt set with their number of items, and how many prompts have none."""

    folder: Path
    tasks: dict[str, int]
    left_out: int


def export_lm_eval(
    language: Language,
    evaluator: Evaluator,
    folder: Path,
    *,
    rule: str = "R1",
    start: str = EOS_NAME,
    end: str = EOS_NAME,
) -> TaskExport:
    """Writes a task for the prompts in and one for those out of distribution: a YAML and a JSONL file each, and a README.

    `start`, `end`: how the model's tokenizer writes the token that begins a string, and the one that ends it; by default as exported
    models do. Raises UsageError on another evaluator, on a rule that the language lacks, where no prompt has a pair, and where the
    folder is there.
    """
    if not isinstance(evaluator, RuleExtrapolation):
        raise UsageError(
            f"expected --evaluator rule_extrapolation, found {evaluator.name}: it has no completions to choose from"
        )
    if rule not in language.rules:
        raise UsageError(f"{language.name} has no rule {rule!r}; {nearest(rule, language.rules)}")
    if folder.exists():
        raise UsageError(f"{folder} exists: name a folder that does not, with --out")
    found, left_out = dict[str, list[Pair]](), 0
    for name, rows in _prompts(evaluator).items():
        pairs = minimal_pairs(language, rows, rule, evaluator.config.max_new_tokens)
        left_out += len(rows) - len(pairs)
        if pairs:
            found[name] = pairs
    if not found:
        raise UsageError(
            f"no prompt of {language.name} has a completion in which one symbol decides about {rule}: choose another --rule, or "
            "other prompts (--set prompt_length=…)"
        )
    tasks = {}
    for name, pairs in found.items():
        task = f"lmtest_{language.name}_{rule}_{name}"
        lines = [json.dumps(item, ensure_ascii=False) for item in _items(language, pairs, start, end)]
        described = {"language": json.dumps(language.name), "rule": json.dumps(rule)}
        atomic.write_text(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
        atomic.write_text(
            folder / f"{task}.yaml", TASK.format(task=json.dumps(task), data=f"{name}.jsonl", **described)
        )
        tasks[task] = len(pairs)
    card = CARD.format(
        title=language.title,
        rule=rule,
        text=language.rules[rule].text,
        tasks="\n".join(f"- `{task}`: {count} items" for task, count in tasks.items()),
        left_out=left_out,
        start=start,
        end=end,
        names=",".join(tasks),
    )
    atomic.write_text(folder / "README.md", card)
    return TaskExport(folder, tasks, left_out)


def minimal_pairs(language: Language, prompts: Sequence[Row], rule: str, max_new_tokens: int) -> list[Pair]:
    """Prompts as rows of symbol ids → the pairs that there are, each changed at random where several symbols decide.

    Of the changes that break `rule`, one that breaks as few other rules as possible.
    """
    if not prompts:
        return []
    done = decode(RuleKeeper(language), language.vocabulary, prompts, max_new_tokens, "greedy", 0)
    pairs = []
    for i, prompt in enumerate(prompts):
        completion = tuple(done.tokens[0, i, : int(done.lengths[0, i])].tolist())
        if bool(done.finished[0, i]) and _holds(language.rules[rule], prompt + completion):
            wrong = _changed(language, prompt, completion, rule, generator(0, "minimal pair", *prompt))
            if wrong is not None:
                pairs.append(Pair(prompt, completion, wrong))
    return pairs


def _changed(language: Language, prompt: Row, completion: Row, rule: str, rng: np.random.Generator) -> Row | None:
    """The completion with one symbol changed, so that `rule` is broken; None where no change does that."""
    fewest, best = len(language.rules) + 1, list[Row]()
    for place, symbol in itertools.product(range(len(completion)), range(len(language.symbols))):
        other = (*completion[:place], symbol, *completion[place + 1 :])
        if _holds(language.rules[rule], prompt + other):  # so does the completion itself
            continue
        broken = sum(not _holds(each, prompt + other) for each in language.rules.values())
        if broken < fewest:
            fewest, best = broken, []
        if broken == fewest:
            best.append(other)
    return best[int(rng.integers(len(best)))] if best else None


def _holds(rule: Rule, row: Row) -> bool:
    return rule.accepts(rule.run(row))


def _prompts(evaluator: RuleExtrapolation) -> dict[str, list[Row]]:
    """By set; impossible prompts are not split, for nobody was shown any."""
    inside = evaluator.prompt_sets.get("id")
    return {"ood": evaluator.outside, "id": [] if inside is None else inside.rows}


def _items(language: Language, pairs: Sequence[Pair], start: str, end: str) -> Iterable[dict[str, object]]:
    """The right choice is first and second in turn, so that whoever cannot tell them apart is right half of the time."""
    vocabulary = language.vocabulary
    space = "" if vocabulary.single_characters else " "
    for i, pair in enumerate(pairs):
        keeps, breaks = (space + vocabulary.text(vocabulary.join(row)) + end for row in (pair.keeps, pair.breaks))
        yield {
            "prompt": start + vocabulary.text(vocabulary.join(pair.prompt)),
            "choices": [keeps, breaks] if i % 2 == 0 else [breaks, keeps],
            "label": i % 2,
        }
