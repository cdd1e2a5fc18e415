"""Function-preserving variants, judged by the certificate: what is exact is so in float64, and what is not fails or is refused."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lmtest.errors import UsageError
from lmtest.languages import Language, load_language
from lmtest.languages.prompts import prompts_of_length
from lmtest.models.lstm import LstmConfig
from lmtest.models.positions import PositionTables
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.saturation import certify
from lmtest.seeds import generator, torch_generator
from lmtest.validation import validate
from lmtest.variants.preserve.certificate import FunctionCertificate, double, function_certificate
from lmtest.variants.preserve.deepen import deepen
from lmtest.variants.preserve.grow import add_heads, add_units
from lmtest.variants.preserve.neurons import permute_heads, permute_neurons, rescale, split
from lmtest.variants.preserve.pad import pad
from lmtest.variants.preserve.rebuild import rebuilt
from lmtest.variants.preserve.tables import Preserving, PreservingConfig
from lmtest.variants.preserve.widen import widen

LANGUAGE = load_language("anbn_small")
OOD = prompts_of_length(LANGUAGE, 4)[1].rows
SEEDS = (3, 5)
POSITIONS = ("none", "sinusoidal", "learned", "rotary", "alibi")
EXACT, SINGLE = 1e-10, 3e-4
Variant = Callable[[Transformer], Transformer]


def config(**table: Any) -> TransformerConfig:
    small = {"layers": 2, "width": 8, "heads": 2, "feed_forward": 6, "context": 40}
    return validate(TransformerConfig, small | table, "test")


def small(config: TransformerConfig, scale: float = 1.0, seeds: tuple[int, ...] = SEEDS) -> Transformer:
    """A model none of whose parameters is as it starts (biases 0, gains 1), in double precision."""
    model = double(config.build(LANGUAGE.vocabulary, seeds))
    with torch.no_grad():
        for name, value in model.parameters.items():
            for row, seed in zip(value, seeds, strict=True):
                noise = torch.randn(row.shape, generator=torch_generator(seed, "test", name), dtype=row.dtype)
                row.mul_(scale if name.endswith("weight") and "norm" not in name else 1.0).add_(0.2 * noise)
    return model


def single(model: Transformer) -> Transformer:
    return rebuilt(model.config.build(LANGUAGE.vocabulary, model.seeds), model.config, dict(model.parameters))


def certificate(before: Transformer, after: Transformer, language: Language = LANGUAGE) -> FunctionCertificate:
    return function_certificate(language, before, after, OOD, 20, generator(0, "test"))


def worst(before: Transformer, after: Transformer) -> float:
    """The largest difference anywhere, over strings, prompts and seeds."""
    found = certificate(before, after)
    assert found.exact
    assert found.ids.shape == found.ood.shape == (len(before.seeds),)
    return float(max(found.ids.max(), found.ood.max()))


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> TransformerConfig:
    positions = draw(st.sampled_from(POSITIONS))
    heads, size = draw(st.integers(1, 3)), draw(st.integers(1, 3)) * (2 if positions == "rotary" else 1)
    own = draw(st.booleans())  # heads of a size of their own
    table = {
        "layers": draw(st.integers(1, 2)),
        "width": draw(st.integers(3, 7))
        if own
        else max(heads * size, 2)
        if heads * size % 2 == 0
        else heads * size * 2,
        "heads": heads,
        "feed_forward": draw(st.integers(1, 6)),
        "norm": draw(st.sampled_from(["pre", "post"])),
        "tied": draw(st.booleans()),
        "positions": positions,
        "head_size": size,
    } | fixed
    return config(**table)


few = settings(max_examples=25, deadline=None)


@few
@given(configs(), st.sampled_from([2, 3, 4]), st.data())
def test_widening_keeps_the_function(config: TransformerConfig, ratio: int, data: st.DataObject) -> None:
    more = data.draw(st.sampled_from([more for more in range(1, ratio + 1) if ratio % more == 0]))
    sigma = data.draw(st.sampled_from([0.0, 0.5]))
    model = small(config)
    wide = widen(model, ratio, more * config.heads, sigma)
    assert wide.config.width == ratio * config.width
    assert wide.config.inner == ratio * config.inner
    assert wide.n_parameters == wide.config.n_parameters(LANGUAGE.vocabulary)
    assert worst(model, wide) <= EXACT


@few
@given(configs(norm="pre", tied=False), st.integers(1, 9))
def test_padding_keeps_the_function(config: TransformerConfig, coordinates: int) -> None:
    model = small(config)
    wide = pad(model, coordinates)
    assert wide.config.width == config.width + coordinates
    assert wide.config.inner == config.inner
    assert worst(model, wide) <= EXACT


@few
@given(configs(), st.data())
def test_what_is_within_a_layer_keeps_the_function(config: TransformerConfig, data: st.DataObject) -> None:
    model = small(config)
    variants: list[Variant] = [
        lambda model: add_units(model, 3),
        lambda model: add_heads(model, 2),
        lambda model: split(model, 0.5),
        lambda model: split(model, 0.3),
        lambda model: split(model, 1.5),
        permute_neurons,
        lambda model: rescale(model, 1e3),
    ]
    if config.heads > 1:
        variants += [permute_heads, lambda model: permute_heads(model, [*range(1, config.heads), 0])]
    assert worst(model, data.draw(st.sampled_from(variants))(model)) <= EXACT


@few
@given(configs(), st.integers(1, 2), st.sampled_from(["random", "zero"]))
def test_deepening_keeps_the_function(config: TransformerConfig, layers: int, reads: Any) -> None:
    if config.norm == "post":
        config = config.model_copy(update={"layer_norm_eps": 0.0})
    model = small(config)
    deep = deepen(model, layers, reads)
    assert deep.config.layers == config.layers + layers
    assert worst(model, deep) <= EXACT


EVERY: dict[str, Variant] = {
    "widen": lambda model: widen(model, 3),
    "larger heads": lambda model: widen(model, 2, model.config.heads),
    "asymmetric": lambda model: widen(model, 2, sigma=0.5),
    "pad": lambda model: pad(model, 5),
    "units": lambda model: add_units(model, 4),
    "heads": lambda model: add_heads(model, 3),
    "split": lambda model: split(model, 1.5),
    "permute neurons": permute_neurons,
    "permute heads": permute_heads,
    "rescale": lambda model: rescale(model, 7.0),
    "deepen": lambda model: deepen(model, 2),
    "deepen by zeros": lambda model: deepen(model, 1, "zero"),
}


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "alibi"])
def test_variants_of_variants_keep_the_function(positions: str) -> None:
    model = small(config(positions=positions, norm="pre"), seeds=(3,))
    for first, second in itertools.permutations(EVERY, 2):
        # Every second pair: each variant stands first and second, and the test stays short.
        if (list(EVERY).index(first) + list(EVERY).index(second)) % 2:
            assert worst(model, EVERY[second](EVERY[first](model))) <= EXACT, (first, second)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("positions", POSITIONS)
def test_single_precision_is_as_close_as_it_can_be(name: str, positions: str) -> None:
    exact = small(config(positions=positions, norm="pre", width=16, feed_forward=32), scale=2.0)
    model = single(exact)
    other = EVERY[name](model)
    assert {value.dtype for value in other.parameters.values()} == {torch.float32}
    assert worst(model, other) <= SINGLE
    assert worst(double(model), EVERY[name](double(model))) <= EXACT
    # Equal functions have equal certificates of saturation.
    kl = [certify(LANGUAGE, m, 20, generator(0, "test")).kl for m in (model, other)]
    np.testing.assert_allclose(kl[0], kl[1], atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_stack_of_variants_is_its_seeds_alone(name: str) -> None:
    table = config(norm="pre", positions="alibi")
    together = EVERY[name](small(table)).state()
    for i, seed in enumerate(SEEDS):
        for key, value in EVERY[name](small(table, seeds=(seed,))).state().items():
            torch.testing.assert_close(value[0], together[key][i], atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_a_variant_shares_nothing_with_its_model_and_decodes_like_it(name: str) -> None:
    model = small(config(norm="pre", positions="rotary"))
    before, other = model.state(), EVERY[name](model)
    before = {key: value.clone() for key, value in before.items()}
    tokens, lengths = LANGUAGE.vocabulary.pack([(0, 0, 1), (1,)])
    (law, cache), (other_law, other_cache) = (m.prefill(tokens, lengths, 2) for m in (model, other))
    torch.testing.assert_close(other_law, law, atol=EXACT, rtol=0)
    fed = torch.tensor([[0, 1], [1, 1]])
    torch.testing.assert_close(other.advance(other_cache, fed), model.advance(cache, fed), atol=EXACT, rtol=0)
    with torch.no_grad():
        for value in other.parameters.values():
            assert value.requires_grad
            assert value.is_leaf
            value.add_(1.0)
    for key, value in model.state().items():
        assert torch.equal(value, before[key])


# Negative controls: the certificate fails where the construction does.


def altered(model: Transformer, changes: Callable[[str, torch.Tensor], torch.Tensor]) -> Transformer:
    return rebuilt(model, model.config, {k: changes(k, v.detach()) for k, v in model.parameters.items()})


def test_a_recomputed_position_table_fails() -> None:
    for positions, entry in (("sinusoidal", "copies"), ("rotary", "head_copies"), ("alibi", "slopes")):
        model = small(config(positions=positions))
        wide = widen(model, 2, 2 if positions == "rotary" else None)
        assert entry in wide.config.tables.model_dump(exclude_defaults=True)
        recomputed = wide.config.model_copy(update={"tables": PositionTables()})
        assert worst(model, rebuilt(wide, recomputed, dict(wide.parameters))) > 1e-3
    padded = pad(small(config(positions="sinusoidal", norm="pre")), 4)
    recomputed = padded.config.model_copy(update={"tables": PositionTables()})
    assert worst(padded, rebuilt(padded, recomputed, dict(padded.parameters))) > 1e-3


def test_a_doubled_head_size_without_rescaling_fails() -> None:
    model = small(config())
    wide, a = widen(model, 2, heads=2), 16

    def unscaled(name: str, value: torch.Tensor) -> torch.Tensor:
        if ".attention.in." in name:
            value = value.clone()
            value[..., : 2 * a] *= 2**0.25
        return value

    assert worst(model, wide) <= EXACT
    assert worst(model, altered(wide, unscaled)) > 1e-3


def test_duplication_without_division_fails() -> None:
    model = small(config())
    wide = widen(model, 2)
    for part in ("embedding", "attention.in.weight", "attention.out.weight", "feed_forward.in.weight", "output.weight"):
        doubled = altered(wide, lambda name, value, part=part: value * (2.0 if name.endswith(part) else 1.0))
        assert worst(model, doubled) > 1e-3


def test_padding_without_its_compensation_fails() -> None:
    model = small(config(norm="pre"))
    wide = pad(model, 8)
    assert worst(model, altered(wide, lambda name, value: value * (2**0.5 if "norm" in name else 1.0))) > 1e-3
    uncentred = altered(
        wide,
        lambda name, value: torch.cat([value[:, :8] + 0.1, value[:, 8:]], 1) if name.endswith("out.bias") else value,
    )
    assert worst(model, uncentred) > 1e-3
    eps = wide.config.model_copy(update={"layer_norm_eps": model.config.layer_norm_eps})
    assert worst(model, rebuilt(wide, eps, dict(wide.parameters))) > EXACT


def test_identity_blocks_in_post_norm_are_not_exact_with_epsilon() -> None:
    exact = small(config(layer_norm_eps=0.0))
    deep = deepen(exact, 1)
    with_eps = {"layer_norm_eps": 1e-5}
    model = rebuilt(exact, exact.config.model_copy(update=with_eps), dict(exact.parameters))
    assert worst(model, rebuilt(deep, deep.config.model_copy(update=with_eps), dict(deep.parameters))) > 1e-7


# The certificate itself.


def test_the_certificate_is_the_largest_difference_anywhere() -> None:
    one, two = small(config()), small(config(), scale=1.1)
    found = certificate(one, two)
    support = LANGUAGE.support()
    assert support is not None
    for values, rows in ((found.ids, support.rows), (found.ood, OOD)):
        largest = np.zeros(2)
        for row in rows:
            tokens = LANGUAGE.vocabulary.pack([row])[0]
            apart = (one.next_log_probs(tokens) - two.next_log_probs(tokens)).abs().amax((1, 2, 3))
            largest = np.maximum(largest, apart.numpy())
        np.testing.assert_allclose(values, largest, rtol=1e-9)
    assert (found.ids > 1e-3).all()
    none = function_certificate(LANGUAGE, one, two, [], 20, generator(0, "test"))
    assert np.isnan(none.ood).all()
    drawn = certificate(one, two, load_language("anbn_geometric"))
    assert not drawn.exact
    assert (drawn.ids > 1e-3).all()
    with pytest.raises(UsageError, match="expected two models of the same seeds, found 2 and 1"):
        certificate(one, small(config(), seeds=(3,)))


def test_a_double_is_the_model_itself_in_double_precision() -> None:
    model = config().build(LANGUAGE.vocabulary, SEEDS)
    exact = double(model)
    assert exact.seeds == model.seeds
    for name, value in exact.parameters.items():
        assert value.dtype == torch.float64
        assert torch.equal(value.float(), model.parameters[name])
    with torch.no_grad():
        exact.parameters["embedding"].zero_()
    assert model.parameters["embedding"].abs().max() > 0


# What is refused, with the reason.


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (lambda m: widen(m, 1), "expected ratio to be a whole number ≥ 2, found 1"),
        (lambda m: widen(m, True), "expected ratio"),
        (lambda m: widen(m, 4, heads=6), "heads = 2 or 4 or 8, found 6; choose one"),
        (lambda m: widen(m, 2, sigma=-1.0), "expected sigma to be a finite number ≥ 0, found -1.0"),
        (lambda m: pad(m, 3), 'expected norm = "pre", found "post"'),
        (lambda m: pad(m, 0), "expected coordinates to be a whole number ≥ 1, found 0"),
        (lambda m: deepen(m, 1), r'layer_norm_eps = 0, found "post" with 1e-05.*√\(1 \+ ε\)'),
        (lambda m: deepen(m, 0), "expected layers"),
        (lambda m: add_units(m, 0), "expected units"),
        (lambda m: add_heads(m, -1), "expected heads"),
        (lambda m: split(m, 1.0), "expected a share > 0 other than 1, found 1.0"),
        (lambda m: split(m, float("nan")), "expected a share"),
        (lambda m: rescale(m, 0.0), "expected alpha to be a finite number > 0, found 0.0"),
        (lambda m: rescale(m, float("inf")), "expected alpha"),
        (lambda m: permute_heads(m, [0, 0]), r"expected an order of the heads 0 to 1, found \[0, 0\]"),
        (lambda m: permute_heads(small(config(heads=1))), "expected at least 2 heads"),
        (lambda m: pad(small(config(norm="pre", tied=True)), 3), "expected tied = false, found true"),
    ],
)
def test_what_is_not_exact_is_refused(variant: Variant, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        variant(small(config()))


TABLES: dict[str, dict[str, Any]] = {
    "widen": {"ratio": 3, "heads": 2, "sigma": 0.1},
    "pad": {"coordinates": 3},
    "extra_units": {"units": 2},
    "extra_heads": {"heads": 1},
    "split": {"share": 1.5},
    "permute_neurons": {},
    "permute_heads": {"order": [1, 0]},
    "rescale": {"alpha": 100.0},
    "deepen": {"layers": 2, "reads": "zero"},
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("positions", ["sinusoidal", "alibi"])
def test_a_studys_table_is_its_variant(kind: str, positions: str) -> None:
    table: Preserving = TypeAdapter(PreservingConfig).validate_python({"kind": kind, "of": "normal", **TABLES[kind]})
    model = small(config(norm="pre", positions=positions))
    other = table.apply(model)
    assert other.config == table.config_of(model.config)
    assert TransformerConfig.model_validate_json(other.config.model_dump_json()) == other.config
    assert worst(model, other) <= EXACT
    with pytest.raises(UsageError, match="expected a transformer, found lstm"):
        table.config_of(LstmConfig(architecture="lstm"))
