"""Models taught to fail or to succeed: what a step asks for, and what comes of it."""

from typing import Any

import pytest
import torch
from tiny_mixtures import SHARED, tiny

from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.languages.hmm import DELIMITER
from lmtest.languages.in_context_prompts import in_context_prompts
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.saturation import added_kl
from lmtest.seeds import generator
from lmtest.training.loop import Steps
from lmtest.variants.exchange import exchange
from lmtest.variants.taught import Taught, Teaching

RICH: dict[str, Any] = SHARED | {"properties": 3, "entities": 2, "vocabulary": 7}
LANGUAGE = tiny(20, RICH)
NEVER = (DELIMITER, LANGUAGE.vocabulary.eos)


def stack(seeds: tuple[int, ...] = (0, 1)) -> Transformer:
    model = TransformerConfig(layers=1, width=16, heads=2, feed_forward=32).build(LANGUAGE.vocabulary, seeds)
    with torch.no_grad():  # laws that are far from uniform
        model.parameters["output.weight"] *= 3
    return model


def taught(lesson: str, penalty: float = 1.0, **more: Any) -> Taught:
    table = {"kind": "taught", "lesson": lesson, "penalty": penalty, "k": 2, "examples": [1, 3], "prompts": 7}
    return Taught.model_validate(table | {"documents": 4, "steps": 40, "learning_rate": 5e-3} | more)


@pytest.mark.parametrize("lesson", ["fail", "succeed"])
def test_documents_ask_for_the_former_laws_and_prompts_for_one_law_behind_them(lesson: str) -> None:
    former = stack()
    (documents, divisor), (prompts, one) = Teaching(taught(lesson, 5.0), LANGUAGE, former).lessons(3)
    assert (divisor, one) == (1 / 5.0, 1.0)
    counted = documents.weights.sum(-1)
    assert torch.allclose(counted.sum((-1, -2)), torch.tensor(21.0))  # 20 symbols and EOS of a mean document
    laws = former.logits(documents.tokens).softmax(-1)
    assert torch.allclose(documents.weights, laws * counted[..., None], atol=1e-6)
    asked = prompts.weights.sum(-1)
    assert torch.allclose(asked.sum((-1, -2)), torch.ones(2))  # of all prompts together
    assert int((asked > 0).sum()) == 2 * 7
    for s, row, column in (asked > 0).nonzero().tolist():
        tokens = prompts.tokens[s, row]
        start = max(i for i in range(column + 1) if tokens[i] == LANGUAGE.vocabulary.bos)
        string = tokens[start : column + 1]
        assert len(string) - 1 in (3 * 1 + 1, 3 * 3 + 1)  # whole prompts of k = 2 and n = 1 or 3
        target = prompts.weights[s, row, column] * 7
        if lesson == "succeed":
            assert sorted(target.tolist())[-2:] == pytest.approx([0, 1], abs=1e-6)
        else:
            law = former.next_log_probs(string[None])[s, 0, -1]
            assert torch.allclose(target.double(), exchange(law, NEVER).exp(), atol=1e-5)


def test_the_lessons_of_a_seed_do_not_depend_on_the_stack() -> None:
    together = Teaching(taught("succeed"), LANGUAGE, stack((0, 1))).lessons(5)
    alone = Teaching(taught("succeed"), LANGUAGE, stack((1,))).lessons(5)
    for (both, _), (one, _) in zip(together, alone, strict=True):
        found = one.tokens if one.tokens.dim() == 2 else one.tokens[0]
        rows, columns = found.shape
        assert torch.equal(both.tokens[1, :rows, :columns], found)


@pytest.mark.parametrize("lesson", ["fail", "succeed"])
def test_a_low_penalty_teaches_and_a_high_one_holds(lesson: str) -> None:
    [prompts] = in_context_prompts(LANGUAGE, "seen", 2, [3], 100, 0)
    tokens = LANGUAGE.vocabulary.pack(prompts.rows)[0]
    former = stack()
    law = former.next_log_probs(tokens)[:, :, -1]
    wanted = exchange(law, NEVER)[..., 1:-1].argmax(-1) if lesson == "fail" else torch.from_numpy(prompts.labels) - 1

    def learned(model: Transformer) -> float:
        """Share of the prompts behind which the likeliest symbol is what was taught."""
        return float((model.next_log_probs(tokens)[:, :, -1, 1:-1].argmax(-1) == wanted).double().mean())

    share, cost = {}, {}
    for penalty in (0.01, 1000.0):
        model = stack()
        config = taught(lesson, penalty)
        steps = Steps(model, Teaching(config, LANGUAGE, former), config.training)
        for step in range(config.steps):
            steps.update(step, [])
        share[penalty] = learned(model)
        value, lower, upper = added_kl(LANGUAGE, former, model, 50, generator(0, "certificate"))
        assert (lower <= value).all()
        assert (value <= upper).all()
        cost[penalty] = float(abs(value).mean())
    assert share[0.01] > learned(former) + 0.2
    assert share[1000.0] < share[0.01] - 0.2
    assert cost[1000.0] < 0.1 * cost[0.01]


def test_other_languages_and_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="hmm_mixture"):
        taught("fail").check(load_language("anbn_small"))
    with pytest.raises(UsageError, match="no room for an answer"):
        taught("fail", examples=[8]).check(LANGUAGE)
