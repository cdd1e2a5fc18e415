"""Training: one definition of the loss, objectives as declared, seeds alone and stacked, resumed to the bit."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmtest.errors import Interrupted, UsageError
from lmtest.languages import Language, load_language
from lmtest.languages.prompts import prompts_of_length
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.seeds import generator
from lmtest.training import (
    Adversarial,
    LanguageCurriculum,
    MaximumLikelihood,
    Objective,
    Oracle,
    TrainingConfig,
    train,
)
from lmtest.training.batches import Batch, completions, cross_entropy, packed_batch, tree_batch, whole
from lmtest.training.draws import Draws
from lmtest.training.loop import learning_rate

NORMAL = MaximumLikelihood(objective="maximum_likelihood")
ORACLE = Oracle(objective="oracle", batch=4)
IDENTITY = {"vocabulary": ["a", "b"]}


def build(language: Language, seeds: tuple[int, ...] = (0, 1), **more: Any) -> Transformer:
    return TransformerConfig(layers=1, width=16, heads=2, feed_forward=16, **more).build(language.vocabulary, seeds)


def run(
    language: Language,
    path: Path,
    seeds: tuple[int, ...] = (0, 1),
    objective: Objective = ORACLE,
    model: dict[str, Any] | None = None,
    stop_at: int | None = None,
    **config: Any,
) -> Transformer:
    stack = build(language, seeds, **(model or {}))
    steps = 0

    def interrupted() -> bool:
        nonlocal steps
        steps += 1
        return steps == stop_at

    prompts = prompts_of_length(language, 4)[1].rows
    table = TrainingConfig(**{"steps": 24, "probe_every": 10, **config})
    curriculum = LanguageCurriculum(stack, language, objective, prompts, table)
    train(stack, curriculum, table, path, IDENTITY, interrupted=interrupted)
    return stack


def distance(one: Transformer, two: Transformer) -> float:
    left, right = one.state(), two.state()
    return max(float((left[k] - right[k]).abs().max()) for k in left)


def distance_in_stack(language: Language, stack: Transformer, row: int, alone: Transformer) -> float:
    """Largest difference of log-probabilities over the support. Parameters that the loss does not feel (the keys' bias)
    may drift apart: AdamW blows their rounding noise up to full steps."""
    support = language.support()
    assert support is not None
    tokens, lengths = language.vocabulary.pack(support.rows)
    gap = (stack.next_log_probs(tokens)[row] - alone.next_log_probs(tokens)[0]).abs().amax(-1)
    return float(gap[torch.arange(tokens.shape[1]) <= lengths[:, None]].max())


def support_batch(language: Language) -> Batch:
    support = language.support()
    assert support is not None
    return packed_batch(language.vocabulary, [whole(support.rows, support.log_probs.exp().tolist())])


def unpacked(language: Language, batch: Batch) -> list[tuple[list[int], torch.Tensor]]:
    """The strings of a batch [B, T] with BOS, and the weights at their positions."""
    found = []
    for tokens, weights in zip(batch.tokens.tolist(), batch.weights, strict=True):
        starts = [i for i, token in enumerate(tokens) if token == language.vocabulary.bos]
        end = tokens.index(language.vocabulary.pad) if language.vocabulary.pad in tokens else len(tokens)
        ends = [*starts[1:], end][: len(starts)]  # a row may be empty: another seed needs it
        found += [(tokens[i:j], weights[i:j]) for i, j in zip(starts, ends, strict=True)]
    return found


def test_the_law_itself_has_the_entropy_as_its_loss(anbn_small: Language) -> None:
    total = 0.0
    for tokens, weights in unpacked(anbn_small, support_batch(anbn_small)):
        law = anbn_small.next_log_probs(torch.tensor([tokens]))
        finite = torch.where(law.isfinite(), law, -200.0)  # −inf only where the weight is 0
        total += float(cross_entropy(finite, Batch(torch.tensor([tokens]), weights[None])))
    assert math.isclose(total, math.log(16), abs_tol=1e-6)
    support = anbn_small.support()
    assert support is not None
    tree = tree_batch(anbn_small, support)
    distinct = {row[:t] for row in support.rows for t in range(len(row) + 1)}
    packed, lengths = anbn_small.vocabulary.pack(sorted(distinct, key=lambda p: (len(p), p)))
    law = anbn_small.next_log_probs(packed)[:, torch.arange(len(lengths)), lengths][:, None]
    assert math.isclose(
        float(cross_entropy(torch.where(law.isfinite(), law, -200.0), tree)), math.log(16), abs_tol=1e-6
    )


def test_tree_and_strings_are_one_loss(anbn_small: Language) -> None:
    support = anbn_small.support()
    assert support is not None
    model = build(anbn_small)
    strings, tree = support_batch(anbn_small), tree_batch(anbn_small, support)
    assert tree.tokens.shape == (1, 153)
    one, two = (cross_entropy(model.logits(b.tokens, None, b.tree), b) for b in (strings, tree))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_more_padding_is_the_same_loss(anbn_small: Language) -> None:
    model = build(anbn_small)
    rows = [(0, 1), (0, 0, 1, 1)]
    short = packed_batch(anbn_small.vocabulary, [whole(rows, [0.5, 0.5])])
    long = packed_batch(anbn_small.vocabulary, [whole([*rows, (0,) * 9], [0.5, 0.5, 0.0])], capacity=20)
    one, two = (cross_entropy(model.logits(b.tokens), b) for b in (short, long))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_the_completion_counts_from_its_first_token_to_its_end(anbn_small: Language) -> None:
    batch = packed_batch(anbn_small.vocabulary, [completions([(1, 0, 0)], [(1,)])])
    assert batch.weights[0].sum(-1).tolist() == [0, 0, 0, 0.5, 0.5]
    assert batch.weights[0, 3].tolist() == [0, 0.5, 0]  # after b a a comes b,
    assert batch.weights[0, 4].tolist() == [0, 0, 0.5]  # then EOS


def test_the_strings_of_each_seed_come_out_of_the_batch_as_they_went_in(anbn_small: Language) -> None:
    support = anbn_small.support()
    assert support is not None
    groups = [support.rows, support.rows[3:9] * 2, [(0,), (), (1, 1)]]
    batch = packed_batch(anbn_small.vocabulary, [whole(rows, [1 / len(rows)] * len(rows)) for rows in groups])
    for s, rows in enumerate(groups):
        found = unpacked(anbn_small, Batch(batch.tokens[s], batch.weights[s]))
        assert sorted(tuple(tokens[1:]) for tokens, _ in found) == sorted(rows)
        for tokens, weights in found:
            assert weights.argmax(-1).tolist() == [*tokens[1:], anbn_small.vocabulary.eos]
            torch.testing.assert_close(weights.sum(-1), torch.full((len(tokens),), 1 / len(rows)))


def test_the_law_as_target_is_the_same_loss_in_expectation(anbn_small: Language) -> None:
    support = anbn_small.support()
    assert support is not None
    model, source = build(anbn_small), Draws(anbn_small)
    probs = support.log_probs.exp().tolist()
    strings = packed_batch(anbn_small.vocabulary, [whole(support.rows, probs)])
    laws = packed_batch(anbn_small.vocabulary, [whole(support.rows, probs, source.laws(support.rows))])
    assert not torch.equal(strings.weights, laws.weights)
    one, two = (cross_entropy(model.logits(b.tokens), b) for b in (strings, laws))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    dyck = load_language("dyck2")  # cannot be listed: asked anew each time
    rows = dyck.sample_ids(3, generator(0, "test"))
    for row, law in zip(rows, Draws(dyck).laws(rows), strict=True):
        assert law.shape == (len(row) + 1, 5)
        np.testing.assert_allclose(law.sum(-1), 1, rtol=1e-6)


def test_oracle_completes_to_equal_counts_and_the_adversary_misses_by_one(anbn_small: Language) -> None:
    prompts = prompts_of_length(anbn_small, 8)[1].rows
    good = ORACLE.targets(anbn_small, prompts)
    bad = Adversarial(objective="adversarial").targets(anbn_small, prompts)
    assert good is not None
    assert bad is not None
    for prompt, one, two in zip(prompts, good, bad, strict=True):
        whole = prompt + one
        assert whole.count(0) == whole.count(1)
        assert len(one) == abs(prompt.count(0) - prompt.count(1))  # the shortest
        spoilt = prompt + two
        assert abs(spoilt.count(0) - spoilt.count(1)) == 1
        assert tuple(sorted(two)) == two  # a's before b's on the completion


def test_an_adversary_against_an_unknown_rule_is_refused(anbn_small: Language) -> None:
    with pytest.raises(UsageError, match="breaks rule 'R9'"):
        Adversarial(objective="adversarial", rule="R9").targets(anbn_small, [(1,)])


@pytest.mark.parametrize("objective", [NORMAL, ORACLE], ids=["normal", "oracle"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("batch", ["support", 5])
@pytest.mark.parametrize("stop_at", [1, 10, 17])
def test_killed_and_resumed_is_the_straight_run_to_the_bit(
    anbn_small: Language, tmp_path: Path, objective: Objective, dropout: float, batch: Any, stop_at: int
) -> None:
    model = {"dropout": dropout}
    straight = run(anbn_small, tmp_path / "a", objective=objective, model=model, batch=batch)
    with pytest.raises(Interrupted):
        run(anbn_small, tmp_path / "b", objective=objective, model=model, batch=batch, stop_at=stop_at)
    resumed = run(anbn_small, tmp_path / "b", objective=objective, model=model, batch=batch)
    assert distance(straight, resumed) == 0.0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("dropout", "batch"), [(0.0, "support"), (0.2, "support"), (0.0, 5), (0.2, 5)])
def test_a_seed_alone_is_the_seed_in_a_stack(anbn_small: Language, tmp_path: Path, dropout: float, batch: Any) -> None:
    stack = run(anbn_small, tmp_path / "a", (4, 9), model={"dropout": dropout}, batch=batch)
    alone = run(anbn_small, tmp_path / "b", (9,), model={"dropout": dropout}, batch=batch)
    assert distance_in_stack(anbn_small, stack, 1, alone) < 1e-3  # one step of AdamW moves a parameter by up to 2e-3


def test_clipping_is_of_each_seed_for_itself(anbn_small: Language, tmp_path: Path) -> None:
    stack = run(anbn_small, tmp_path / "a", (0, 1), clip=0.05)
    alone = run(anbn_small, tmp_path / "b", (1,), clip=0.05)
    assert distance_in_stack(anbn_small, stack, 1, alone) < 1e-3


def test_a_stopped_seed_stays_as_it_was(anbn_small: Language, tmp_path: Path) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def stop(model: Any, step: int) -> torch.Tensor:
        kept[step] = model.state()
        return torch.tensor([step >= 10, step >= 20])

    stack = build(anbn_small)
    config = TrainingConfig(steps=40, probe_every=10)
    curriculum = LanguageCurriculum(stack, anbn_small, NORMAL, [], config)
    progress = train(stack, curriculum, config, tmp_path / "a", IDENTITY, stop=stop)
    assert progress.stopped == {0: 10, 1: 20}
    assert progress.step == 20  # all have stopped: no further
    for name, value in stack.parameters.items():
        assert torch.equal(value[0], kept[10][name][0])
        assert torch.equal(value[1], kept[20][name][1])


def test_training_lowers_the_loss_towards_the_floor(anbn_small: Language, tmp_path: Path) -> None:
    seen: list[float] = []
    stack = build(anbn_small)
    config = TrainingConfig(steps=60)
    curriculum = LanguageCurriculum(stack, anbn_small, NORMAL, [], config)
    train(stack, curriculum, config, tmp_path / "a", IDENTITY, report=lambda step, excess: seen.append(excess))
    assert min(seen) > -1e-5
    assert seen[-1] < 0.5 * seen[0]


def test_a_truncated_checkpoint_says_so(anbn_small: Language, tmp_path: Path) -> None:
    path = tmp_path / "a"
    run(anbn_small, path)
    for size in (0, 7, 100, path.stat().st_size - 1):
        path.with_name("b").write_bytes(path.read_bytes()[:size])
        with pytest.raises(UsageError, match=r"is damaged .* delete it"):
            run(anbn_small, path.with_name("b"))


def test_a_checkpoint_of_another_vocabulary_is_refused(anbn_small: Language, tmp_path: Path) -> None:
    run(anbn_small, tmp_path / "a")
    stack, config = build(anbn_small), TrainingConfig(steps=24)
    curriculum = LanguageCurriculum(stack, anbn_small, NORMAL, [], config)
    with pytest.raises(UsageError, match=r"another vocabulary: expected \['a', 'c'\], found \['a', 'b'\]"):
        train(stack, curriculum, config, tmp_path / "a", {"vocabulary": ["a", "c"]})


def test_a_language_without_a_listable_support_needs_a_batch_size(tmp_path: Path) -> None:
    language = load_language("dyck2")
    with pytest.raises(UsageError, match="batch = 128"):
        LanguageCurriculum(build(language), language, NORMAL, [], TrainingConfig(steps=2))
    stack, config = build(language), TrainingConfig(steps=2, batch=3)
    train(stack, LanguageCurriculum(stack, language, NORMAL, [], config), config, tmp_path / "a", IDENTITY)


def test_schedules_rise_and_fall() -> None:
    cycle = TrainingConfig(steps=100, learning_rate=1.0)
    rates = [learning_rate(cycle, step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1.0, abs=1e-4)
    assert rates.index(max(rates)) == 30
    assert rates[-1] < 1e-2
    root = TrainingConfig(steps=5000, learning_rate=1.0, schedule="inverse_sqrt", warmup=1000)
    assert learning_rate(root, 999) == 1.0
    assert learning_rate(root, 3999) == pytest.approx(0.5)


def test_sgd_resumes_to_the_same_bits(anbn_small: Language, tmp_path: Path) -> None:
    straight = run(anbn_small, tmp_path / "a", optimizer="sgd", learning_rate=0.1)
    with pytest.raises(Interrupted):
        run(anbn_small, tmp_path / "b", optimizer="sgd", learning_rate=0.1, stop_at=11)
    resumed = run(anbn_small, tmp_path / "b", optimizer="sgd", learning_rate=0.1)
    assert distance(straight, resumed) == 0
    assert distance(straight, run(anbn_small, tmp_path / "c", learning_rate=0.1)) > 0


def test_the_laws_of_a_step_are_those_of_its_strings(anbn_small: Language) -> None:
    for language in (anbn_small, load_language("dyck2")):
        draws = Draws(language)
        for step in (0, 3, 17):
            rows, laws = draws.rows(4, 1, step), draws.laws_at(4, 1, step)
            for law, expected in zip(laws, draws.laws(rows), strict=True):
                np.testing.assert_allclose(law, expected, rtol=1e-5, atol=1e-7)
