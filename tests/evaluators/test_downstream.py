"""Downstream tasks: whose strings they are, what they ask for, and which are refused."""

from typing import Any

import pytest
import torch
from explicit_language import ExplicitLanguage, explicit_anbn

from lmtest.errors import UsageError
from lmtest.evaluators.downstream import NOTHING, Continuation, Parse, ParseTable, Sizes, first_equal
from lmtest.languages import load_language
from lmtest.languages.parse_labels import ParseTask, parse_labels
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.training.batches import cross_entropy

BEFORE = explicit_anbn(3)
AFTER = ExplicitLanguage("ab", {"aba": 0.25, "aabbaa": 0.5, "b": 0.25}, name="after")
LAYERED: Any = load_language("layered_small")
SIZES = Sizes(40, 10, 3)


def task() -> Continuation:
    return Continuation("task", BEFORE, AFTER, SIZES)


def parse(span: tuple[int, int] | None = None, **more: Any) -> Parse:
    return Parse(LAYERED, ParseTask("spans", span, **more), Sizes(60, 20, 3))


def model(language: Any, seeds: tuple[int, ...] = (0, 1)) -> Transformer:
    return TransformerConfig(layers=1, width=8, heads=2, feed_forward=8).build(language.vocabulary, seeds)


def test_examples_of_a_continuation_are_strings_with_what_comes_next() -> None:
    found = task().examples((0, 4))
    vocabulary, rows = AFTER.vocabulary, []
    for tokens, targets in zip(found.inputs[1].tolist(), found.targets[1].tolist(), strict=True):
        n = targets.index(vocabulary.eos)
        rows.append(tuple(targets[:n]))
        assert targets[n + 1 :] == [NOTHING] * (len(targets) - n - 1)
        assert tokens == [vocabulary.bos, *targets[:n], *[vocabulary.pad] * (len(targets) - n - 1)]
    assert set(rows) == set(AFTER.rows)
    assert found.same[1].tolist() == [rows.index(row) for row in rows] == first_equal(rows)
    assert found.inputs[0].tolist() != found.inputs[1].tolist()  # each seed has its own


def test_a_seed_has_the_same_strings_alone_and_in_a_stack_and_fewer_are_the_first() -> None:
    for each in (task(), parse()):
        together, alone = each.examples((0, 4)), each.examples((4,))
        width = min(together.inputs.shape[2], alone.inputs.shape[2])
        assert torch.equal(together.inputs[1, :, :width], alone.inputs[0, :, :width])
        assert torch.equal(together.first(8).targets, together.targets[:, :8])


def test_a_batch_is_the_mean_of_the_strings_that_were_picked() -> None:
    examples, reader = task().examples((0, 1)), model(AFTER)
    picks = torch.tensor([[3, 3, 7, 1, 20], [5, 6, 5, 9, 30]])
    batch = examples.batch(picks)
    found = cross_entropy(reader.logits(batch.tokens), batch).detach()
    for s in range(2):
        losses = []
        for pick in picks[s].tolist():
            one = examples.batch(torch.tensor([[pick], [pick]]))
            losses.append(float(cross_entropy(reader.logits(one.tokens), one).detach()[s]))
        assert float(found[s]) == pytest.approx(sum(losses) / 5, abs=1e-5)
    assert batch.tokens.shape[1] <= 3  # no string is read twice


def test_a_batch_is_as_wide_as_its_longest_string() -> None:
    examples = task().examples((0,))
    short = (examples.targets[0] == AFTER.vocabulary.eos).int().argmax(-1) == 1  # "b"
    batch = examples.batch(short.nonzero().flatten()[:2][None])
    assert batch.tokens.shape == (1, 1, 2)


@pytest.mark.parametrize("span", [None, (0, 2)])
def test_parse_labels_are_asked_for_behind_the_last_symbol(span: tuple[int, int] | None) -> None:
    found = parse(span)
    examples = found.examples((0,))
    at = (examples.targets[0] != NOTHING).nonzero()
    assert at[:, 0].tolist() == list(range(60))
    rows = [
        tuple(tokens[1 : place + 1])
        for tokens, place in zip(examples.inputs[0].tolist(), at[:, 1].tolist(), strict=True)
    ]
    assert all(row in set(LAYERED.support().rows) for row in rows)
    labels = parse_labels(LAYERED, ParseTask("spans", span), rows)
    names = [found.classes[i] for i in examples.targets[0].amax(-1).tolist()]
    assert names == [labels.classes[i] for i in labels.labels.tolist()]
    assert sorted(rows) != rows  # an order of its own


def test_no_string_is_in_two_parts_of_a_parse_task() -> None:
    found, reader = parse(), model(LAYERED)
    parts = [
        {tuple(t for t in row if t < len(LAYERED.symbols)) for row in tokens.reshape(-1, tokens.shape[-1]).tolist()}
        for tokens in (found.examples((0,)).inputs, found.validation.tokens, found.exam(reader).batch.tokens)
    ]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_the_majority_rate_is_that_of_the_exam() -> None:
    found, reader = parse(), model(LAYERED)
    exam = found.exam(reader)
    counts = exam.batch.weights.sum((0, 1)) * exam.count
    assert found.majority_rate == pytest.approx(float(counts.max()) / 20)
    # Always answering the commonest class is right so often.
    logits = torch.zeros(1, *exam.batch.weights.shape)
    logits[..., int(counts.argmax())] = 1.0
    assert found.score(logits, exam).right[0][0] == pytest.approx(found.majority_rate)


def test_a_table_names_the_task() -> None:
    table = ParseTable(kind="parse", name="spans", span=[0, 2], estimate="map")
    assert table.task(LAYERED, Sizes(60, 20, 3)).classes == parse((0, 2), estimate="map").classes


OTHER = ExplicitLanguage("abc", {"abc": 1.0}, name="other")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Continuation("t", BEFORE, OTHER, SIZES), "task 't': expected other to have the symbols of anbn, a b"),
        (
            lambda: Continuation("t", BEFORE, load_language("anbn_geometric"), SIZES),
            "task 't': expected strings of bounded",
        ),
        (lambda: Parse(BEFORE, ParseTask("t"), SIZES), "task 't': expected a language with a grammar"),
        (lambda: parse(candidates=("S1", "S9x")), "'S9x' is no nonterminal"),
        (lambda: parse((0, 1), candidates=("S1", "S2")), "none of the candidates S1, S2 ever spans"),
        (lambda: parse((0, 9)), "0 strings of at least 9 symbols"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_a_task_with_one_class_is_refused() -> None:
    # Every string of this grammar is an S1 or an S2, but one of them always wins.
    from lmtest.languages.pcfg import Pcfg

    text = "S -> S1 [0.9] | S2 [0.1]\nS1 -> A A [1.0]\nS2 -> B B [1.0]\nA -> 'a' [0.5] | 'b' [0.5]\nB -> 'a' [0.5] | 'b' [0.5]"
    with pytest.raises(UsageError, match="has one class"):
        Parse(Pcfg(text, name="one", title="one"), ParseTask("t", None, None, "map"), SIZES)
