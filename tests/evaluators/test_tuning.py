"""The loop: AdamW by its formula, what is frozen stays, and a probe reads hidden states as if it read tokens."""

from typing import Any

import pytest
import torch
from explicit_language import ExplicitLanguage, explicit_anbn
from torch import Tensor

from lmtest.evaluators.downstream import Continuation, Examples, Parse, Protocol, Sizes
from lmtest.evaluators.tuning import Learner, learner, read_batch, read_examples, trained_names, tune
from lmtest.languages import load_language
from lmtest.languages.parse_labels import ParseTask
from lmtest.models.gated_linear_attention import GlaConfig
from lmtest.models.linear import LinearConfig
from lmtest.models.lstm import LstmConfig
from lmtest.models.mamba import MambaConfig
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.models.xlstm import XlstmConfig
from lmtest.training.batches import Batch, cross_entropy
from lmtest.variants.preserve.certificate import double
from lmtest.variants.preserve.pad import pad
from lmtest.variants.preserve.widen import widen

AFTER = ExplicitLanguage("ab", {"aba": 0.25, "aabbaa": 0.5, "b": 0.25}, name="after")
TASK = Continuation("task", explicit_anbn(3), AFTER, Sizes(12, 8, 3))
LAYERED: Any = load_language("layered_small")
PROTOCOLS: list[Protocol] = ["full", "last_layer", "probe"]


def small(language: Any = AFTER, seeds: tuple[int, ...] = (0, 1), **more: Any) -> Transformer:
    config = {"layers": 2, "width": 8, "heads": 2, "feed_forward": 6, "norm": "pre", **more}
    return double(TransformerConfig(**config).build(language.vocabulary, seeds))


def learn(
    pupil: Learner, examples: Examples, steps: int = 4, rate: float = 1e-2, at: tuple[int, ...] = ()
) -> dict[int, list[Tensor]]:
    """The trained parameters at steps, three strings at a time."""

    def lesson(step: int) -> Batch:
        return examples.batch(torch.arange(3).add(3 * step).remainder(12).expand(len(examples.same), -1))

    return tune(pupil, lesson, rate, steps, at, lambda p, step: [t.detach().clone() for t in p.trained])


def head(pupil: Learner) -> dict[str, Tensor]:
    assert pupil.head is not None
    return pupil.head


def test_the_updates_are_those_of_adamw_without_decay() -> None:
    model, examples = small(), TASK.examples((0, 1))
    pupil = learner(model, "full", None)
    found = learn(pupil, examples, 3, at=(0, 1, 2))
    values = [p.detach().clone().requires_grad_() for p in model.parameters.values()]
    moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in values]
    reader = learner(model, "full", None)
    for step in range(4):
        for mine, theirs in zip(values, found[step], strict=True):
            torch.testing.assert_close(
                mine.detach(), theirs, atol=1e-9, rtol=0
            )  # of what has no slope, rounding is seen
        reader.model.parameters = dict(zip(model.parameters, values, strict=True))
        batch = examples.batch(torch.arange(3).add(3 * step).remainder(12).expand(2, -1))
        gradients = torch.autograd.grad(cross_entropy(reader.logits(batch), batch).sum(), values, allow_unused=True)
        for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            assert gradient is not None
            m, v = moments[i]
            moments[i] = m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            step_size = (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            values[i] = (value.detach() - 1e-2 * step_size).requires_grad_()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("outputs", [None, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_only_what_is_trained_changes_and_the_model_stays(protocol: Protocol, outputs: int | None, tied: bool) -> None:
    model = small(tied=tied)
    before = model.state()
    if outputs is None:
        examples = TASK.examples((0, 1))
    else:
        task = Parse(LAYERED, ParseTask("t", None, ("S1", "S2", "S3", "S4", "S5")), Sizes(12, 5, 0))
        model = small(LAYERED, tied=tied)
        before, examples = {name: value.clone() for name, value in model.state().items()}, task.examples((0, 1))
    before = {name: value.clone() for name, value in before.items()}
    pupil = learner(model, protocol, None if outputs is None else examples.outputs)
    learn(pupil, examples)
    names = set() if protocol == "probe" else set(trained_names(list(model.parameters), protocol))
    own = {"output.weight", "output.bias"} if outputs is not None else set()  # a new output layer takes their place
    for name, value in model.parameters.items():
        assert torch.equal(value, before[name])
        changed = not torch.equal(pupil.model.parameters[name], value)
        assert changed == (name in names - own), name
    assert (pupil.head is None) == (outputs is None and protocol != "probe")
    if pupil.head is not None:
        assert all(bool(value.any()) for value in pupil.head.values())


@pytest.mark.parametrize(
    ("table", "first", "others"),
    [
        (TransformerConfig(layers=3, width=8, heads=2), "layers.2.", ["norm", "output"]),
        (
            TransformerConfig(layers=3, width=8, heads=2, norm="pre", positions="learned"),
            "layers.2.",
            ["norm", "output"],
        ),
        (LstmConfig(architecture="lstm", layers=2, width=8), "layers.1.", ["output"]),
        (GlaConfig(architecture="gated_linear_attention", layers=2, width=8, heads=2), "layers.1.", ["norm", "output"]),
        (MambaConfig(architecture="mamba", layers=2, width=8), "layers.1.", ["norm", "output"]),
        (XlstmConfig(architecture="xlstm", layers=2, width=8, heads=2, slstm_at=[0]), "blocks.1.", ["norm", "output"]),
        (LinearConfig(architecture="linear", width=8, context=12), "weight", ["bias"]),
    ],
)
def test_the_last_layer_is_the_last_one_and_what_stands_behind_it(table: Any, first: str, others: list[str]) -> None:
    names = list(table.build(AFTER.vocabulary, (0,)).parameters)
    assert trained_names(names, "full") == names
    last = trained_names(names, "last_layer")
    assert any(name.startswith(first) for name in last)
    assert all(name.startswith((first, *others)) for name in last)
    assert [name for name in names if name.startswith((first, "output"))] == [
        name for name in last if name.startswith((first, "output"))
    ]


@pytest.mark.parametrize("kind", ["continuation", "parse"])
def test_a_probe_on_hidden_states_is_one_on_a_frozen_model(kind: str) -> None:
    task: Any = TASK if kind == "continuation" else Parse(LAYERED, ParseTask("t", (0, 2)), Sizes(60, 20, 0))
    model = small(task.language if kind == "continuation" else LAYERED)
    examples = task.examples((0, 1)).first(12)
    outputs = None if task.classes is None else len(task.classes)
    read, frozen = learner(model, "probe", outputs), learner(model, "probe", outputs)
    states = read_examples(model, examples)
    assert states.inputs.shape[2] == (1 if kind == "parse" else examples.inputs.shape[2])
    learn(read, states)
    learn(frozen, examples)
    for name, value in head(read).items():
        torch.testing.assert_close(value, head(frozen)[name], atol=1e-9, rtol=1e-6)
    for batch in (task.exam(model).batch, task.validation):
        one, two = read_batch(model, batch), batch
        found, expected = cross_entropy(read.logits(one), one), cross_entropy(frozen.logits(two), two)
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-6)


def test_a_probe_does_not_see_zeros_but_does_see_copies() -> None:
    model, examples = small(), TASK.examples((0, 1))
    heads = []
    for each in (model, pad(model, 3), widen(model, 2)):
        pupil = learner(each, "probe", None)
        learn(pupil, read_examples(each, examples), 20)
        batch = TASK.exam(each).batch
        heads.append(cross_entropy(pupil.logits(batch), batch).detach())
    torch.testing.assert_close(heads[1], heads[0], atol=1e-6, rtol=1e-6)
    assert (heads[2] - heads[0]).abs().min() > 1e-2  # each copy takes a step of its own


def test_a_seed_learns_alone_as_in_a_stack() -> None:
    together, alone = learner(small(seeds=(0, 4)), "full", None), learner(small(seeds=(4,)), "full", None)
    learn(together, TASK.examples((0, 4)))
    learn(alone, TASK.examples((4,)))
    for one, two in zip(together.trained, alone.trained, strict=True):
        torch.testing.assert_close(one[1:], two, atol=1e-7, rtol=1e-5)


def test_examinations_are_at_the_steps_that_were_asked_for_and_at_the_last() -> None:
    pupil = learner(small(), "full", None)
    assert list(learn(pupil, TASK.examples((0, 1)), 5, at=(0, 3))) == [0, 3, 5]
