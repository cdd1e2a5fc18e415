"""The evaluator: a model that knows the task already, step 0 against certificates, pairing, and curves made by hand."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from explicit_language import ExplicitLanguage, explicit_anbn
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.evaluators import fine_tuning as module
from lmtest.evaluators.downstream import Scores
from lmtest.evaluators.fine_tuning import FineTuning, FineTuningConfig
from lmtest.evaluators.learning_curves import Curve, Lane, Outcome
from lmtest.evaluators.registry import EvaluatorsConfig
from lmtest.evaluators.tuning import Learner, tune
from lmtest.languages import Language, load_language
from lmtest.measurement import TYPES
from lmtest.models.lstm import LstmConfig
from lmtest.models.reference import reference_models
from lmtest.models.stack import Dropout, Shape, StackedModel, Tree
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.saturation import certify
from lmtest.seeds import generator
from lmtest.training.batches import Batch
from lmtest.validation import validate
from lmtest.variants.preserve.deepen import deepen
from lmtest.variants.preserve.neurons import permute_neurons
from lmtest.variants.preserve.pad import pad
from lmtest.variants.preserve.widen import widen

BEFORE = explicit_anbn(3)
AFTER = ExplicitLanguage("ab", {"aba": 0.25, "aabbaa": 0.5, "b": 0.25}, name="after")
LAYERED: Any = load_language("layered_small")
ON: dict[str, Any] = {"kind": "continuation", "name": "on", "language": "after"}
SPANS: dict[str, Any] = {"kind": "parse", "name": "spans", "span": [0, 2]}
TINY: dict[str, Any] = {
    "tasks": [ON],
    "steps": 4,
    "evaluate_at": [2],
    "learning_rates": [0.01],
    "strings": 40,
    "batch": 4,
}


def load(name: str) -> Language:
    return AFTER if name == "after" else load_language(name)


@pytest.fixture(autouse=True)
def _small_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmtest.evaluators.downstream.load_language", load)


def evaluator(language: Language = BEFORE, **more: Any) -> FineTuning:
    return validate(FineTuningConfig, TINY | more, "test").evaluator(language)


def small(language: Language = BEFORE, seeds: tuple[int, ...] = (0, 4), **more: Any) -> Transformer:
    config = {"layers": 1, "width": 8, "heads": 2, "feed_forward": 8, "norm": "pre", **more}
    return TransformerConfig(**config).build(language.vocabulary, seeds)


def values(evaluator: FineTuning, model: Any) -> dict[tuple[int, str, str], float]:
    table = evaluator.evaluate(model, model.seeds, 0)[0]
    keys = zip(table["seed"], table["prompt_set"], table["measure"], strict=True)
    return dict(zip(keys, table["value"], strict=True))


class Lookup(StackedModel):
    """A language's own law, and a bias to be trained."""

    drops_out = False

    def __init__(self, language: ExplicitLanguage, seeds: tuple[int, ...]) -> None:
        super().__init__(language.vocabulary, seeds, {"output.bias": Shape((language.vocabulary.n_outputs,), "zeros")})
        self.language = language

    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        law = torch.full((*tokens.shape, self.vocabulary.n_outputs), -1e9, dtype=torch.float64)
        for row, found in zip(tokens.tolist(), law, strict=True):
            begin = 0
            for t, token in enumerate(row):
                begin = t if token == self.vocabulary.bos else begin
                masses = self.language.log_masses.get(tuple(row[begin + 1 : t + 1]))
                if masses is not None:
                    found[t] = masses.clamp_min(-1e9)
        return law + self.parameters["output.bias"][:, None, None]

    def prefill(self, *args: Any) -> Any:
        raise NotImplementedError

    def advance(self, *args: Any) -> Any:
        raise NotImplementedError

    def select(self, *args: Any) -> Any:
        raise NotImplementedError


def test_a_model_that_knows_the_task_needs_no_step() -> None:
    found = values(evaluator(examples=["all"], threshold=1e-9, learning_rates=[1e-5]), Lookup(AFTER, (0, 4)))
    for s in (0, 4):
        assert found[s, "on.full.all", "excess_at_0"] == pytest.approx(0, abs=1e-12)
        assert found[s, "on.full.all", "steps_to_threshold"] == 0
        assert found[s, "on.full.all", "log_steps_to_threshold"] == 0
        assert found[s, "on.full.all", "reached"] == 1
        assert found[s, "on.full.all", "exact_match_at_0"] == 1
        assert found[s, "on.full.all", "excess"] < 1e-9  # what is known stays so
        assert found[s, "on.full.all", "forgetting"] < 1e-9


@pytest.mark.parametrize("trees", [True, False])
def test_before_the_first_step_the_excess_is_the_certificate(monkeypatch: pytest.MonkeyPatch, trees: bool) -> None:
    model = small()
    monkeypatch.setattr(Transformer, "tree_saves", lambda *sizes: trees)
    found = values(evaluator(), model)
    expected = certify(AFTER, model, 1, generator(0, "test")).kl
    assert [found[s, "on.full.all", "excess_at_0"] for s in (0, 4)] == pytest.approx(expected.tolist(), abs=1e-6)


def test_forgetting_is_what_the_certificate_of_the_old_language_rises_by(monkeypatch: pytest.MonkeyPatch) -> None:
    pupils = []

    def spied(pupil: Learner, *args: Any) -> Any:
        pupils.append(pupil)
        return tune(pupil, *args)

    monkeypatch.setattr(module, "tune", spied)
    model = small()
    found = values(evaluator(protocols=["full", "last_layer"], examples=[8]), model)
    before = certify(BEFORE, model, 1, generator(0, "test")).kl
    for pupil, protocol in zip(pupils, ("full", "last_layer"), strict=True):
        expected = certify(BEFORE, pupil.model, 1, generator(0, "test")).kl - before
        got = [found[s, f"on.{protocol}.8", "forgetting"] for s in (0, 4)]
        assert got == pytest.approx(expected.tolist(), abs=1e-5)
        assert all(abs(value) > 1e-4 for value in got)


def test_a_probe_of_parse_labels_forgets_nothing() -> None:
    found = values(evaluator(LAYERED, tasks=[SPANS], protocols=["full", "probe"], examples=[30]), small(LAYERED))
    for s in (0, 4):
        assert found[s, "spans.probe.30", "forgetting"] == 0
        assert found[s, "spans.full.30", "forgetting"] != 0


def test_there_is_what_was_said_there_would_be() -> None:
    for language, table in (
        (BEFORE, {"examples": ["all", 8], "learning_rates": [0.01, 0.003]}),
        (LAYERED, {"tasks": [SPANS], "examples": [30, "all"]}),
    ):
        made = evaluator(language, protocols=["full", "last_layer", "probe"], **table)
        rows, points = made.evaluate(small(language), (0, 4), 0)
        assert {*zip(rows["measure"], rows["prompt_set"], rows["decoding"], strict=True)} == made.measured().values
        assert not rows.duplicated(["seed", "measure", "prompt_set"]).any()
        rates = len(made.config.learning_rates)
        assert len(points) == 2 * 3 * 2 * rates * 3  # seeds, protocols, examples, rates, steps
        assert set(points["prompt_set"]) == {name for name in rows["prompt_set"] if "@" in name}
        last = points[points["step"] == 4].set_index(["seed", "prompt_set"])["task_loss"]
        losses = rows[rows["measure"].isin(["excess", "cross_entropy"]) & rows["prompt_set"].str.contains("@")]
        assert losses.set_index(["seed", "prompt_set"])["value"].to_dict() == last.to_dict()
        accuracy = rows["measure"].str.startswith("accuracy")
        majority = rows[rows["measure"] == "majority_rate"]["value"].unique()
        assert set(rows[accuracy]["chance"]) == set(majority)
        assert rows[~accuracy]["chance"].isna().all()


def test_a_new_output_layer_starts_at_chance() -> None:
    made = evaluator(LAYERED, tasks=[SPANS], examples=[30])
    found = values(made, small(LAYERED))
    classes = made.assignments[0].task.classes
    assert classes is not None
    assert found[0, "spans.full.30", "accuracy_at_0"] == pytest.approx(1 / len(classes))
    assert found[0, "spans.full.30", "cross_entropy_at_0"] == pytest.approx(math.log(len(classes)))


def test_models_of_the_same_seeds_learn_from_the_same_strings_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[list[Tensor]] = []

    def spied(pupil: Learner, lesson: Callable[[int], Batch], rate: float, steps: int, *more: Any) -> Any:
        shown.append([lesson(step).tokens for step in range(steps)])
        return tune(pupil, lesson, rate, steps, *more)

    monkeypatch.setattr(module, "tune", spied)
    model, wide = small(), widen(small(), 2)
    for each in (model, wide, small(seeds=(4,))):
        evaluator(examples=[6, 40]).evaluate(each, each.seeds, 0)
    for i in range(2):
        for one, two, alone in zip(shown[i], shown[2 + i], shown[4 + i], strict=True):
            assert torch.equal(one, two)
            n = min(one.shape[1], alone.shape[1])
            width = min(one.shape[2], alone.shape[2])
            assert torch.equal(one[1:, :n, :width], alone[:, :n, :width])
    assert any(not torch.equal(one[0], one[1]) for one in shown[0])


def test_every_example_is_shown_before_one_comes_again() -> None:
    made = evaluator()
    order = made._order(made.assignments[0].task, 4, (0, 4), 8)
    assert order.shape == (2, 4, 4)
    for each in order:
        assert sorted(each[:2].flatten()) == sorted(each[2:].flatten()) == list(range(8))
    assert made._order(made.assignments[0].task, 4, (0,), 3).shape == (1, 4, 3)  # fewer than a batch: all of them


def test_a_padded_model_has_the_probe_of_the_model_and_a_widened_one_its_own() -> None:
    made = evaluator(protocols=["probe"], examples=["all", 8], steps=20)
    model = small()
    found, padded, wide = (values(made, each) for each in (model, pad(model, 3), widen(model, 2)))
    assert found.keys() == padded.keys()
    for key, value in found.items():
        if not math.isnan(value):
            assert padded[key] == pytest.approx(value, abs=1e-4, rel=1e-4)
    assert abs(wide[0, "on.probe.all", "excess"] - found[0, "on.probe.all", "excess"]) > 1e-2


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("again", [False, True])
def test_a_layer_of_zeros_learns_as_the_small_model_by_every_protocol(norm: str, again: bool) -> None:
    model = small(layers=2, norm=norm, layer_norm_eps=0.0 if norm == "post" else 1e-5)
    model.parameters = {name: value.detach().double().requires_grad_() for name, value in model.parameters.items()}
    at_zero, at_random = deepen(model, 1, "zero"), deepen(model, 1)
    if again:
        at_zero = permute_neurons(deepen(at_zero, 1, "zero"))
    found = evaluator(protocols=["full", "last_layer", "probe"], learning_rates=[0.05])
    before, after, other = (values(found, each) for each in (model, at_zero, at_random))
    assert after == pytest.approx(before, rel=1e-9, abs=1e-9, nan_ok=True)
    key = (0, "on.full.all", "excess")
    assert abs(other[key] - before[key]) > 1e-4


def test_what_a_seed_chooses_does_not_depend_on_its_stack() -> None:
    found = evaluator(learning_rates=[1e-3, 1e-2, 1e-1], examples=[8], steps=6)
    together = values(found, small(seeds=(0, 1, 2, 3)))
    for seed in (0, 1, 2, 3):
        alone = values(found, small(seeds=(seed,)))
        assert alone == pytest.approx({key: together[key] for key in alone}, rel=1e-3, abs=1e-5, nan_ok=True)


def test_all_examples_at_once_are_one_batch() -> None:
    once, often = (evaluator(examples=[4], batch=batch, steps=3) for batch in (4, 100))
    assert values(once, small()) == pytest.approx(values(often, small()), rel=1e-6, nan_ok=True)


def test_a_task_may_be_learnt_in_its_own_way() -> None:
    tasks = [
        ON | {"examples": [2, 4], "steps": 3},
        ON | {"name": "again", "protocols": ["probe"], "learning_rates": [0.1, 0.2]},
    ]
    found = evaluator(tasks=tasks)
    lanes = {lane.name: lane for lane in found.lanes(small())}
    assert list(lanes) == ["on.full.2", "on.full.4", "again.probe.all"]
    assert {prompts.split("@")[0] for _, prompts, _ in found.measured().values} == set(lanes)
    assert {rate: list(curve) for rate, curve in lanes["on.full.2"].curves.items()} == {0.01: [0, 2, 3]}
    assert {rate: list(curve) for rate, curve in lanes["again.probe.all"].curves.items()} == {
        0.1: [0, 2, 4],
        0.2: [0, 2, 4],
    }
    for wrong, message in (
        ({"examples": [41]}, "expected examples within 1 … 40, found 41"),
        ({"learning_rates": [0.0]}, "expected learning_rates > 0"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluator(tasks=[ON | wrong])


def test_more_steps_learn_the_task_and_the_rates_stand_apart() -> None:
    made = evaluator(steps=60, evaluate_at=[20, 40], learning_rates=[1e-4, 0.03, 0.02], threshold=0.5)
    found = values(made, small())
    for s in (0, 4):
        assert found[s, "on.full.all", "reached"] == 1
        assert found[s, "on.full.all@0.0001", "reached"] == 0
        assert math.isnan(found[s, "on.full.all@0.0001", "steps_to_threshold"])
        rate = found[s, "on.full.all", "chosen_rate"]
        assert found[s, "on.full.all", "excess"] == found[s, f"on.full.all@{rate:g}", "excess"]
        assert found[s, "on.full.all", "rate_at_edge"] == (rate != 0.02)


def test_models_without_parameters_have_no_rows_and_others_no_hidden_states() -> None:
    made = evaluator(protocols=["full", "last_layer", "probe"])
    for model in reference_models(BEFORE).values():
        rows, points = made.evaluate(model, (0,), 0)
        assert len(rows) == len(points) == 0
        assert rows.dtypes.astype(str).to_dict().keys() == TYPES.keys()
    lstm = LstmConfig(architecture="lstm", layers=1, width=8).build(BEFORE.vocabulary, (0, 4))
    rows, _ = made.evaluate(lstm, (0, 4), 0)
    assert {name.split("@")[0] for name in rows["prompt_set"]} == {"on.full.all", "on.last_layer.all"}
    lstm = LstmConfig(architecture="lstm", layers=1, width=8).build(LAYERED.vocabulary, (0, 4))
    assert len(evaluator(LAYERED, tasks=[SPANS], examples=[30]).evaluate(lstm, (0, 4), 0)[0]) == 0


def test_fine_tuning_leaves_the_model_as_it_is() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state().items()}
    evaluator(protocols=["full", "last_layer", "probe"]).evaluate(model, (0, 4), 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters.values())


def curve(losses: list[float], validation: float = 1.0, accuracy: float = math.nan) -> Curve:
    """Of one seed, at steps 0, 10, 20, …"""
    nothing = [(0.0, 0.0, 0.0)]
    return {
        10 * i: Outcome(Scores([(loss, loss, loss)], nothing, 3, 3), [validation], [accuracy], nothing)
        for i, loss in enumerate(losses)
    }


def lane(curves: dict[float, Curve], threshold: float = 0.1) -> dict[tuple[str, str], Any]:
    made = Lane("fine_tuning", "on.full.8", evaluator().assignments[0].task, curves, threshold)
    table = pd.DataFrame(made.rows([7]))
    return {(row["prompt_set"], row["measure"]): row for row in table.to_dict("records")}


def test_the_threshold_is_met_at_the_first_step_that_does() -> None:
    found = lane({0.1: curve([3.0, 0.5, 0.1, 0.3])})
    steps = found["on.full.8", "steps_to_threshold"]
    assert (steps["value"], steps["lower"], steps["upper"], steps["count"]) == (20, 10, 20, 1)
    logs = found["on.full.8", "log_steps_to_threshold"]
    assert (logs["value"], logs["lower"]) == pytest.approx((math.log(20), math.log(10)))
    assert found["on.full.8", "excess"]["value"] == 0.3
    assert [found["on.full.8", f"excess_at_{step}"]["value"] for step in (0, 10, 20)] == [3.0, 0.5, 0.1]
    never = lane({0.1: curve([3.0, 0.5, math.nan])})
    assert math.isnan(never["on.full.8", "steps_to_threshold"]["value"])
    assert (
        never["on.full.8", "steps_to_threshold"]["count"] == never["on.full.8", "log_steps_to_threshold"]["count"] == 0
    )
    assert never["on.full.8", "reached"]["value"] == 0


@pytest.mark.parametrize(
    ("losses", "chosen", "edge"),
    [
        ([1.0, 0.5, 0.8], 0.02, 0),
        ([0.4, 0.5, 0.8], 0.01, 1),
        ([0.4, 0.5, 0.2], 0.03, 1),
        ([0.4, math.nan, math.nan], 0.01, 1),
        ([math.inf, 0.5, math.nan], 0.02, 0),
        ([math.nan] * 3, 0.01, 1),
    ],
)
def test_the_rate_with_the_lowest_validation_loss_is_chosen(losses: list[float], chosen: float, edge: int) -> None:
    curves = {rate: curve([0.0, rate], loss) for rate, loss in zip((0.01, 0.02, 0.03), losses, strict=True)}
    found = lane(curves)
    assert found["on.full.8", "chosen_rate"]["value"] == chosen
    assert found["on.full.8", "rate_at_edge"]["value"] == edge
    assert found["on.full.8", "excess"]["value"] == chosen
    assert [found[f"on.full.8@{rate:g}", "excess"]["value"] for rate in (0.01, 0.02, 0.03)] == [0.01, 0.02, 0.03]


def test_each_seed_chooses_its_own_rate() -> None:
    nothing = [(0.0, 0.0, 0.0)] * 2
    curves: dict[float, Curve] = {
        rate: {0: Outcome(Scores([(1.0, 1.0, 1.0)] * 2, nothing, 3, 3), validation, [math.nan] * 2, nothing)}
        for rate, validation in ((0.1, [1.0, 3.0]), (0.2, [2.0, 1.0]))
    }
    rows = Lane("fine_tuning", "on.full.8", evaluator().assignments[0].task, curves, 0.1).rows([7, 8])
    assert {row["seed"]: row["value"] for row in rows if row["measure"] == "chosen_rate"} == {7: 0.1, 8: 0.2}


def test_parse_labels_are_learnt_at_a_validation_accuracy() -> None:
    task = evaluator(LAYERED, tasks=[SPANS], examples=[30]).assignments[0].task
    curves = {0.1: curve([0.0], accuracy=0.5) | {10: curve([0.0], accuracy=0.95)[0]}}
    assert Lane("fine_tuning", "x", task, curves, 0.9).steps_to_threshold(curves[0.1], 0) == (10, 0, 10)
    assert math.isnan(Lane("fine_tuning", "x", task, curves, 0.96).steps_to_threshold(curves[0.1], 0)[0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"tasks": []}, "'fine_tuning.tasks': list should have at least 1 item"),
        ({"learning_rates": []}, "'fine_tuning.learning_rates': list should have at least 1 item"),
        ({"learning_rates": [0.1, 0.0]}, "expected learning_rates > 0, found 0.0"),
        ({"evaluate_at": [2, 5]}, r"expected evaluate_at within 0 … 4, found 5; raise steps"),
        ({"tasks": [ON, ON]}, "expected tasks of different names"),
        ({"examples": [41]}, r"expected examples within 1 … 40, found 41; raise strings"),
        ({"examples": ["every"]}, "'fine_tuning.examples.0'"),
        ({"protocols": ["head"]}, "'fine_tuning.protocols.0'"),
        ({"tasks": [ON | {"kind": "parses"}]}, "unknown kind 'parses' in 'fine_tuning.tasks.0'; did you mean 'parse'"),
        ({"tasks": [ON | {"langauge": "x"}]}, "did you mean 'language'"),
        (
            {"tasks": [ON | {"protocols": ["full", "probe"], "learning_rates": {"full": [0.1]}}]},
            "expected learning_rates for probe, found none; add some",
        ),
        ({"tasks": [ON | {"name": "a.b"}]}, "'fine_tuning.tasks.0.name'"),
        ({"tasks": [ON | {"language": "anbncn_small"}]}, "expected anbncn_small to have the symbols of anbn, a b"),
        ({"tasks": [SPANS]}, "task 'spans': expected a language with a grammar"),
    ],
)
def test_what_does_not_fit_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(EvaluatorsConfig, {"fine_tuning": TINY | table}, "study").build(BEFORE)


def test_fewer_examples_than_classes_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"task 'spans': expected at least as many examples as classes \(\d+: .*found 4"
    ):
        evaluator(LAYERED, tasks=[SPANS], examples=["all", 4])


def test_the_longest_string_of_all_tasks_is_told() -> None:
    assert evaluator().longest == 6
    assert EvaluatorsConfig(fine_tuning=FineTuningConfig(**TINY)).build(BEFORE)[0].name == "fine_tuning"
