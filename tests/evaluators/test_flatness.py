"""Flatness: exact traces against the full Hessian and an explicit Jacobian; what rescaling moves, and what it does not."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from explicit_language import ExplicitLanguage, explicit_anbn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmtest.errors import UsageError
from lmtest.evaluators import curvature
from lmtest.evaluators import flatness as module
from lmtest.evaluators.curvature import (
    gauss_newton,
    hutchinson,
    live_prefixes,
    product,
    square_root,
    string_batches,
    support_batches,
    top_eigenvalue,
)
from lmtest.evaluators.flatness import FlatnessConfig, effective_rank, flatness, representation_moment
from lmtest.evaluators.registry import EvaluatorsConfig
from lmtest.languages import Language, load_language
from lmtest.models.gated_linear_attention import GlaConfig
from lmtest.models.linear import LinearConfig
from lmtest.models.lstm import LstmConfig
from lmtest.models.mamba import MambaConfig
from lmtest.models.reference import reference_models
from lmtest.models.stack import StackedModel
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.models.xlstm import XlstmConfig
from lmtest.seeds import torch_generator
from lmtest.training.batches import cross_entropy
from lmtest.variants.preserve.neurons import permute_neurons

LANGUAGE = ExplicitLanguage("ab", {"ab": 0.5, "aabb": 0.2, "a": 0.05, "ba": 0.25})


def double(model: StackedModel, spread: float = 0.3) -> Any:
    """In double precision, with biases and norms away from where they start."""
    noise = torch_generator(0, "test")
    for name, value in model.parameters.items():
        moved = value.detach().double() + spread * torch.randn(value.shape, generator=noise, dtype=torch.float64)
        model.parameters[name] = moved.requires_grad_()
    return model


def tiny(language: Language = LANGUAGE, seeds: tuple[int, ...] = (0, 1), **more: Any) -> Transformer:
    config = {"layers": 1, "width": 4, "heads": 2, "feed_forward": 5, **more}
    return double(TransformerConfig(**config).build(language.vocabulary, seeds))  # type: ignore[no-any-return]


def flat(model: StackedModel, s: int) -> Tensor:
    return torch.cat([value[s].detach().flatten() for value in model.parameters.values()])


def reader(model: StackedModel, s: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(θ [P], tokens [1, T]) → logits [T, V] of one seed: a model of one seed is built anew."""

    def read(theta: Tensor, tokens: Tensor) -> Tensor:
        alone = model.config.build(model.vocabulary, [model.seeds[s]])  # type: ignore[attr-defined]
        sizes = [value[0].numel() for value in model.parameters.values()]
        for (name, value), part in zip(model.parameters.items(), theta.split(sizes), strict=True):
            alone.parameters[name] = part.view(1, *value.shape[1:])
        with sdpa_kernel(SDPBackend.MATH):
            return alone.logits(tokens)[0, 0]  # type: ignore[no-any-return]

    return read


def brute_hessian(language: ExplicitLanguage, model: StackedModel, s: int) -> Tensor:
    """Of −Σ p(w) ln q(w), string by string, by the chain rule: [P, P]."""
    read = reader(model, s)

    def loss(theta: Tensor) -> Tensor:
        total = theta.new_zeros(())
        for row, p in zip(language.rows, language.probabilities.tolist(), strict=True):
            laws = read(theta, torch.tensor([[language.vocabulary.bos, *row]])).log_softmax(-1)
            total = total - p * sum(laws[t, v] for t, v in enumerate((*row, language.vocabulary.eos)))
        return total

    return torch.autograd.functional.hessian(loss, flat(model, s))  # type: ignore[no-any-return, no-untyped-call]


def brute_gauss_newton(language: ExplicitLanguage, model: StackedModel, s: int) -> Tensor:
    """Σ P(c) Jᵀ (diag q − q qᵀ) J from explicit Jacobians: [P, P]."""
    theta, read = flat(model, s), reader(model, s)
    total = theta.new_zeros(len(theta), len(theta))
    for prefix, joint in language.log_masses.items():
        tokens = torch.tensor([[language.vocabulary.bos, *prefix]])
        q = read(theta, tokens)[-1].softmax(-1)
        jacobian = torch.autograd.functional.jacobian(lambda x, t=tokens: read(x, t)[-1], theta)  # type: ignore[no-untyped-call]
        total += joint.exp().sum() * jacobian.T @ (torch.diag(q) - torch.outer(q, q)) @ jacobian
    return total


def matrix(times: Callable[[Tensor], Tensor], model: StackedModel) -> Tensor:
    """A product as the matrices that it stands for [S, P, P]."""
    shape = len(model.seeds), model.n_parameters
    like = next(iter(model.parameters.values())).detach()
    columns = [times(like.new_zeros(shape).index_fill(1, torch.tensor(i), 1.0)) for i in range(shape[1])]
    return torch.stack(columns, 2)


@pytest.fixture(scope="module")
def judged() -> tuple[Transformer, list[Tensor], list[Tensor]]:
    """A model of at most 300 parameters with its full Hessian and Gauss–Newton matrices."""
    model = tiny()
    assert model.n_parameters <= 300
    hessians = [brute_hessian(LANGUAGE, model, s) for s in (0, 1)]
    return model, hessians, [brute_gauss_newton(LANGUAGE, model, s) for s in (0, 1)]


def test_products_are_the_full_matrices(judged: tuple[Transformer, list[Tensor], list[Tensor]]) -> None:
    model, hessians, newtons = judged
    batches = string_batches(model, LANGUAGE)
    hessian, newton = torch.stack(hessians), torch.stack(newtons)
    torch.testing.assert_close(matrix(product(model, batches, "hessian"), model), hessian)
    torch.testing.assert_close(matrix(product(model, batches, "gauss_newton"), model), newton)
    torch.testing.assert_close(matrix(product(model, batches, "residual"), model), hessian - newton)
    assert float((hessian - newton).abs().max()) > 0.01  # away from the floor there is a residual


def test_the_exact_traces_are_those_of_the_full_matrix(judged: tuple[Transformer, list[Tensor], list[Tensor]]) -> None:
    model, _, newtons = judged
    trace, relative = gauss_newton(model, live_prefixes(LANGUAGE))
    for s, newton in enumerate(newtons):
        assert float(trace[s]) == pytest.approx(float(newton.trace()), rel=1e-10)
        scale = flat(model, s)
        assert float(relative[s]) == pytest.approx(float((scale * newton * scale[:, None]).trace()), rel=1e-10)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_estimate_the_trace_with_the_variance_that_theory_gives(
    judged: tuple[Transformer, list[Tensor], list[Tensor]], law: Any
) -> None:
    model, hessians, _ = judged
    n = 400
    samples = hutchinson(product(model, string_batches(model, LANGUAGE), "hessian"), model, n, 0, law)
    for s, hessian in enumerate(hessians):
        apart = hessian if law == "gaussian" else hessian - torch.diag(hessian.diag())
        deviation = math.sqrt(2) * float(apart.norm())
        assert abs(float(samples[s].mean()) - float(hessian.trace())) < 4 * deviation / math.sqrt(n)
        assert float(samples[s].std()) == pytest.approx(deviation, rel=0.4)


def test_the_top_eigenvalue_is_the_largest_one_and_its_residual_bounds_the_error(
    judged: tuple[Transformer, list[Tensor], list[Tensor]],
) -> None:
    model, hessians, newtons = judged
    batches = string_batches(model, LANGUAGE)
    for kind, matrices in (("hessian", hessians), ("gauss_newton", newtons)):
        value, residual, products = top_eigenvalue(product(model, batches, kind), model, 0)  # type: ignore[arg-type]
        assert products <= curvature.ITERATIONS
        for s, full in enumerate(matrices):
            largest = float(torch.linalg.eigvalsh(full)[-1])
            assert float(value[s]) == pytest.approx(largest, rel=1e-3)
            assert abs(float(value[s]) - largest) <= float(residual[s]) + 1e-12


def test_the_largest_eigenvalue_is_found_where_a_negative_one_is_larger_in_size() -> None:
    model = tiny()
    diagonal = torch.full((model.n_parameters,), -1.0, dtype=torch.float64)
    diagonal[:2] = torch.tensor([-50.0, 20.0])
    value, _, _ = top_eigenvalue(lambda u: u * diagonal, model, 0)
    np.testing.assert_allclose(value.numpy(), 20.0, rtol=1e-3)


def test_where_the_targets_are_the_models_own_law_the_hessian_is_gauss_newton_and_the_residual_grows_with_the_distance() -> (
    None
):
    model = tiny()
    (batch,) = string_batches(model, LANGUAGE)
    own = model.logits(batch.tokens).detach().softmax(-1) * batch.weights.sum(-1, keepdim=True)
    vectors = torch.randn(2, model.n_parameters, generator=torch_generator(1, "test"), dtype=torch.float64)
    at_floor = replace(batch, weights=own)
    hessian, newton = (product(model, [at_floor], kind)(vectors) for kind in ("hessian", "gauss_newton"))  # type: ignore[arg-type]
    torch.testing.assert_close(hessian, newton)
    assert float(product(model, [at_floor], "residual")(vectors).abs().max()) < 1e-12
    half = replace(batch, weights=(own + batch.weights) / 2)
    whole = product(model, [batch], "residual")(vectors)
    torch.testing.assert_close(product(model, [half], "residual")(vectors), whole / 2)


@pytest.mark.parametrize(("norm", "tied"), [("pre", False), ("post", True)])
@pytest.mark.parametrize("positions", ["none", "learned", "rotary", "alibi"])
def test_every_transformer_can_be_differentiated_twice(norm: str, tied: bool, positions: str) -> None:
    """The trace of H from the whole basis is that of G, by first derivatives alone, and of R."""
    model = tiny(seeds=(3,), norm=norm, tied=tied, positions=positions, context=5)
    batches = support_batches(model, LANGUAGE)
    hessian, residual = (matrix(product(model, batches, kind), model)[0] for kind in ("hessian", "residual"))  # type: ignore[arg-type]
    trace, _ = gauss_newton(model, live_prefixes(LANGUAGE))
    torch.testing.assert_close(hessian, hessian.T)
    assert float(hessian.trace()) == pytest.approx(float(trace[0]) + float(residual.trace()), rel=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        LstmConfig(architecture="lstm", width=3, embedding=2, layers=2),
        XlstmConfig(architecture="xlstm", width=4, heads=2),
        MambaConfig(architecture="mamba", width=3, state=2),
        GlaConfig(architecture="gated_linear_attention", width=4, heads=2),
        LinearConfig(architecture="linear", width=3, context=6),
    ],
    ids=lambda config: config.architecture,
)
def test_products_of_every_architecture_are_differences_of_gradients(config: Any) -> None:
    """Central differences of the gradient of `logits`, which knows nothing of second derivatives."""
    model = double(config.build(LANGUAGE.vocabulary, (0, 1)), spread=0.1)
    (batch,) = string_batches(model, LANGUAGE)
    noise = torch_generator(2, "test")
    vectors = torch.randn(2, model.n_parameters, generator=noise, dtype=torch.float64)
    sizes = [value[0].numel() for value in model.parameters.values()]
    start = {name: value.detach().clone() for name, value in model.parameters.items()}

    def gradient(step: float) -> Tensor:
        for (name, value), part in zip(start.items(), vectors.split(sizes, 1), strict=True):
            model.parameters[name] = (value + step * part.view_as(value)).requires_grad_()
        loss = cross_entropy(model.logits(batch.tokens), batch).sum()
        found = torch.autograd.grad(loss, list(model.parameters.values()))
        return torch.cat([g.flatten(1) for g in found], 1)

    expected = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    gradient(0.0)
    torch.testing.assert_close(product(model, [batch], "hessian")(vectors), expected, rtol=1e-4, atol=1e-5)


def test_how_the_work_is_cut_changes_nothing(anbn_small: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tree, strings, strings in several batches; gradients of all prefixes at once, and of few."""
    model = tiny(anbn_small, width=16, feed_forward=16)
    vectors = torch.randn(2, model.n_parameters, generator=torch_generator(3, "test"), dtype=torch.float64)
    tree = support_batches(model, anbn_small)
    assert tree[0].tree is not None
    expected = product(model, tree, "residual")(vectors)
    traces = gauss_newton(model, live_prefixes(anbn_small))
    # The tree's masses are in single precision.
    torch.testing.assert_close(
        product(model, string_batches(model, anbn_small), "residual")(vectors), expected, rtol=1e-4, atol=1e-5
    )
    monkeypatch.setattr(curvature, "SCORES", 2 * 33**2 * 5)
    monkeypatch.setattr(curvature, "GRADIENTS", 2 * model.n_parameters * 40)
    cut = support_batches(model, anbn_small)
    assert len(cut) == 4
    torch.testing.assert_close(product(model, cut, "residual")(vectors), expected, rtol=1e-4, atol=1e-5)
    for found, whole in zip(gauss_newton(model, live_prefixes(anbn_small)), traces, strict=True):
        torch.testing.assert_close(found, whole)


def test_relu_rescaling_moves_the_trace_but_not_the_relative_sharpness() -> None:
    """In × α, out ÷ α, α = 100, in the weights: the same function."""
    model = tiny(width=8, feed_forward=8)
    rescaled = tiny(width=8, feed_forward=8)
    factors = torch.tensor([100.0] * 4 + [1.0] * 4, dtype=torch.float64)
    with torch.no_grad():
        rescaled.parameters["layers.0.feed_forward.in.weight"] *= factors
        rescaled.parameters["layers.0.feed_forward.in.bias"] *= factors
        rescaled.parameters["layers.0.feed_forward.out.weight"] /= factors[:, None]
    tokens = LANGUAGE.vocabulary.pack(LANGUAGE.rows)[0]
    torch.testing.assert_close(model.logits(tokens), rescaled.logits(tokens))
    prefixes = live_prefixes(LANGUAGE)
    (trace, relative), (moved, kept) = gauss_newton(model, prefixes), gauss_newton(rescaled, prefixes)
    np.testing.assert_allclose(kept.numpy(), relative.numpy(), rtol=1e-9)
    assert np.all(moved.numpy() > 100 * trace.numpy())


def test_models_of_one_function_in_another_order_have_the_same_flatness() -> None:
    """In float32 a unit near its kink may fall on either side of it."""
    model = tiny(norm="pre")
    kept = ["gn_trace", "relative_sharpness", "parameter_norm", "effective_rank"]
    before, after = (
        flatness(LANGUAGE, one, 2, 0).set_index("measure").loc[kept, "value"] for one in (model, permute_neurons(model))
    )
    assert after.to_numpy() == pytest.approx(before.to_numpy(), rel=1e-9)


def test_the_relative_sharpness_is_what_the_loss_rises_by_under_relative_noise() -> None:
    """½ σ² Tr DHD to second order, and H is G but for R; here with targets on the model's own law, where R is 0."""
    model = tiny(seeds=(0,))
    (batch,) = string_batches(model, LANGUAGE)
    own = model.logits(batch.tokens).detach().softmax(-1) * batch.weights.sum(-1, keepdim=True)
    target = replace(batch, weights=own)
    _, relative = gauss_newton(model, live_prefixes(LANGUAGE))
    n, sigma = 4000, 0.01
    many = TransformerConfig(layers=1, width=4, heads=2, feed_forward=5).build(LANGUAGE.vocabulary, range(n))
    noise = torch_generator(4, "test")
    floor = float(cross_entropy(model.logits(batch.tokens), target)[0].detach())
    signs = {
        name: torch.randint(0, 2, (n, *value.shape[1:]), generator=noise).double() * 2 - 1
        for name, value in model.parameters.items()
    }
    rises = torch.zeros(n, dtype=torch.float64)
    for side in (sigma, -sigma):  # the slope cancels
        for name, value in model.parameters.items():
            many.parameters[name] = value.detach() * (1 + side * signs[name])
        rises += (cross_entropy(many.logits(batch.tokens), target) - floor) / 2
    expected = 0.5 * sigma**2 * float(relative[0])
    assert float(rises.mean()) == pytest.approx(expected, abs=4 * float(rises.std()) / math.sqrt(n) + 0.01 * expected)


def test_a_square_root_of_the_covariance_of_a_law() -> None:
    laws = torch.cat(
        [torch.rand(5, 4, generator=torch_generator(5, "test")).double().softmax(-1), torch.eye(4).double()]
    )
    root = square_root(laws)
    assert root.shape == (9, 4, 3)
    torch.testing.assert_close(root @ root.mT, torch.diag_embed(laws) - laws[:, :, None] * laws[:, None])


def test_the_effective_rank_is_that_of_the_weighted_representations() -> None:
    """Against a singular value decomposition, a prefix a row; and at its two extremes."""
    model = tiny()
    found = effective_rank(representation_moment(model, LANGUAGE))
    prefixes = live_prefixes(LANGUAGE)
    for s in (0, 1):
        last = [
            math.sqrt(float(mass)) * model.hidden(row[None, : n + 1])[s, 0, -1].detach().numpy()
            for row, n, mass in zip(prefixes.tokens, prefixes.lengths, prefixes.joint.sum(-1), strict=True)
        ]
        singular = np.linalg.svd(np.array(last), compute_uv=False)
        p = singular / singular.sum()
        assert float(found[s]) == pytest.approx(math.exp(-float((p * np.log(p)).sum())), rel=1e-6)
    one = torch.ones(1, 3, 3).double()
    np.testing.assert_allclose(effective_rank(torch.cat([torch.eye(3).double()[None], one])).numpy(), [3, 1], atol=1e-6)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_output_layer_reads_the_hidden_representation(norm: str) -> None:
    model = tiny(norm=norm)
    tokens = LANGUAGE.vocabulary.pack(LANGUAGE.rows)[0]
    weight, bias = model.parameters["output.weight"], model.parameters["output.bias"]
    logits = model.hidden(tokens) @ weight[:, None] + bias[:, None, None]
    torch.testing.assert_close(logits, model.logits(tokens))


def test_the_table_holds_every_measure_and_seeds_alone_have_the_same_rows() -> None:
    language = explicit_anbn(3)
    config = TransformerConfig(layers=1, width=8, heads=2, feed_forward=8)
    both = flatness(language, config.build(language.vocabulary, (4, 7)), 8, seed=1).set_index(["seed", "measure"])
    alone = flatness(language, config.build(language.vocabulary, (7,)), 8, seed=1).set_index(["seed", "measure"])
    assert set(both.loc[7].index) == {*module.EXACT, *module.PROBED}
    # Power iteration goes on until the last seed of a stack is done.
    values = both.loc[7]["value"]
    np.testing.assert_allclose(values, alone.loc[7]["value"].reindex(values.index), rtol=1e-3)
    for seed in (4, 7):
        rows = both.loc[seed]
        value, lower, upper, count = (rows[name] for name in ("value", "lower", "upper", "count"))
        assert value["hessian_trace"] == pytest.approx(value["gn_trace"] + value["trace_residual"], rel=1e-12)
        assert lower["hutchinson_trace"] < value["hessian_trace"] < upper["hutchinson_trace"]
        assert lower["gn_trace"] == value["gn_trace"] == upper["gn_trace"]
        assert count["trace_residual"] == count["hutchinson_trace"] == 8
        assert count["gn_trace"] == count["effective_rank"] == 10  # the empty prefix, a … aaa, ab, aab, aabb, aaab, …
        assert value["gn_top_eigenvalue"] <= value["gn_trace"]
        assert 1 <= value["effective_rank"] <= 8


def test_reference_models_have_no_rows_and_recurrent_ones_no_effective_rank() -> None:
    language = explicit_anbn(2)
    (evaluator,) = EvaluatorsConfig(flatness=FlatnessConfig(probes=4)).build(language)
    recurrent = LstmConfig(architecture="lstm", width=3, embedding=2).build(language.vocabulary, (0,))
    table, completions = evaluator.evaluate(recurrent, (0,), 0)
    assert len(completions) == 0
    keys = {(row.measure, row.prompt_set, row.decoding) for row in table.itertuples()}
    assert keys == evaluator.measured().values
    rank = table[table["measure"] == "effective_rank"].iloc[0]
    assert math.isnan(rank["value"])
    assert rank["count"] == 0
    for reference in reference_models(language).values():
        empty, _ = evaluator.evaluate(reference, (0,), 0)
        assert len(empty) == 0
        assert (pd.concat([table, empty], ignore_index=True).dtypes == table.dtypes).all()
    assert not evaluator.probed_at(100, 10)
    assert evaluator.longest == 4


def test_bad_input_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected a language whose strings can be listed"):
        FlatnessConfig().evaluator(load_language("anbn_geometric"))
    model = TransformerConfig(layers=1, width=4, heads=2).build(LANGUAGE.vocabulary, (0,))
    with pytest.raises(UsageError, match="at least 2 probes"):
        flatness(LANGUAGE, model, 1, seed=0)
    monkeypatch.setattr(module, "MOST_TOKENS", 10)
    with pytest.raises(UsageError, match="lower max_length"):
        FlatnessConfig().evaluator(LANGUAGE)
