"""The contract of every architecture, in float64 so that equal means equal; a new architecture is a line in TABLES."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.registry import ARCHITECTURES
from lmtest.models.stack import Noise, StackedModel
from lmtest.seeds import torch_generator
from lmtest.validation import validate

VOCABULARY = Vocabulary(("a", "b", "c"))
SEEDS = (3, 5)
SMALL_TRANSFORMER = {"architecture": "transformer", "layers": 2, "width": 12, "heads": 3, "feed_forward": 20}
SMALL_XLSTM = {"architecture": "xlstm", "width": 8, "heads": 2, "conv": 3}

TABLES: dict[str, dict[str, object]] = {
    **{
        f"transformer-{positions}-{norm}": {**SMALL_TRANSFORMER, "positions": positions, "norm": norm, "context": 16}
        for positions, norm in itertools.product(["none", "sinusoidal", "learned", "rotary", "alibi"], ["pre", "post"])
    },
    "transformer-tied-pre": {**SMALL_TRANSFORMER, "tied": True, "norm": "pre"},
    "transformer-tied-post": {**SMALL_TRANSFORMER, "tied": True, "head_size": 6},
    "transformer-tiled-sinusoids": {**SMALL_TRANSFORMER, "head_size": 2, "tables": {"copies": 2, "padding": 4}},
    "transformer-tiled-rotary": {
        **SMALL_TRANSFORMER,
        "positions": "rotary",
        "tables": {"head_copies": 2},
        "heads": 3,
        "head_size": 8,
    },
    "transformer-own-slopes": {**SMALL_TRANSFORMER, "positions": "alibi", "tables": {"slopes": [0.5, 0.1, 0.1]}},
    "transformer-dropout": {**SMALL_TRANSFORMER, "dropout": 0.3},
    "transformer-alibi-dropout": {**SMALL_TRANSFORMER, "positions": "alibi", "dropout": 0.3},
    "lstm-1": {"architecture": "lstm", "layers": 1, "width": 8, "embedding": 5},
    "lstm-2": {"architecture": "lstm", "layers": 2, "width": 6, "embedding": 7},
    "lstm-dropout": {"architecture": "lstm", "layers": 3, "width": 6, "embedding": 7, "dropout": 0.3},
    "linear": {"architecture": "linear", "width": 5, "context": 21},
    "linear-short": {"architecture": "linear", "width": 3, "context": 16},
    "mamba-1": {"architecture": "mamba", "layers": 1, "width": 8, "state": 4, "conv": 3},
    "mamba-2": {"architecture": "mamba", "layers": 2, "width": 6, "state": 3, "conv": 1},
    "xlstm-s": {**SMALL_XLSTM, "layers": 1, "slstm_at": [0]},
    "xlstm-m": {**SMALL_XLSTM, "layers": 1, "slstm_at": []},
    "xlstm-ms": {**SMALL_XLSTM, "layers": 2, "slstm_at": [1]},
    "gla-1": {"architecture": "gated_linear_attention", "layers": 1, "width": 8, "heads": 2, "feed_forward": 12},
    "gla-2": {"architecture": "gated_linear_attention", "layers": 2, "width": 12, "heads": 1, "feed_forward": 8},
}
every_model = pytest.mark.parametrize("name", TABLES)
noisy_model = pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.get("dropout")])


def build(name: str, seeds: Sequence[int] = SEEDS, dtype: torch.dtype = torch.float64) -> StackedModel:
    config = validate(ARCHITECTURES[str(TABLES[name]["architecture"])], TABLES[name], "test")
    model: StackedModel = config.build(VOCABULARY, seeds)
    model.parameters = {k: v.detach().to(dtype).requires_grad_() for k, v in model.parameters.items()}
    return model


def rows(n: int = 6, t: int = 9, seed: int = 0) -> Tensor:
    tokens = torch.randint(0, 3, (n, t), generator=torch_generator(seed, "test"))
    return torch.cat([torch.full((n, 1), VOCABULARY.bos), tokens], 1)


def padded(strings: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, strings))
    return torch.tensor([[*string, *[VOCABULARY.pad] * (width - len(string))] for string in strings])


def strings_of(lengths: Sequence[int], seed: int) -> list[list[int]]:
    return [row[: n + 1] for row, n in zip(rows(len(lengths), 12, seed).tolist(), lengths, strict=True)]


# Three rows that hold seven strings, of 0 to 9 symbols; the first row has no room left.
LENGTHS = (4, 0, 7, 3, 9, 1, 2)
ROWS = ((0, 1, 2), (3, 4), (5, 6))


def packed(strings: Sequence[Sequence[int]]) -> Tensor:
    return padded([[token for i in row for token in strings[i]] for row in ROWS])


def unpacked(values: Tensor) -> list[Tensor]:
    """Values [S, B, T, V] of packed rows → [S, T', V] of each string."""
    found = []
    for b, row in enumerate(ROWS):
        start = 0
        for i in row:
            found.append(values[:, b, start : start + LENGTHS[i] + 1])
            start += LENGTHS[i] + 1
    return found


def loss(laws: Sequence[Tensor]) -> Tensor:
    """Any smooth function of the laws [S, T, V] of strings; each seed by itself, as an optimiser sees it, [S]."""
    total = torch.zeros(len(laws[0]), dtype=laws[0].dtype)
    for i, law in enumerate(laws):
        weights = torch.rand(law.shape[1:], generator=torch_generator(i, "loss"), dtype=law.dtype)
        total = total - (law.log_softmax(-1) * weights).sum((-1, -2))
    return total


def gradient(model: StackedModel, value: Tensor) -> dict[str, Tensor]:
    grads = torch.autograd.grad(value, list(model.parameters.values()))
    return dict(zip(model.parameters, grads, strict=True))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_every_architecture_is_tested() -> None:
    assert {table["architecture"] for table in TABLES.values()} == set(ARCHITECTURES)


@every_model
def test_parameter_count_is_the_formula(name: str) -> None:
    model = build(name)
    assert model.n_parameters == model.config.n_parameters(VOCABULARY)  # type: ignore[attr-defined]


@every_model
def test_laws_are_normalised(name: str) -> None:
    laws = build(name, dtype=torch.float32).next_log_probs(rows())
    assert laws.shape == (2, 6, 10, 4)
    assert laws.dtype == torch.float64
    close(laws.logsumexp(-1), torch.zeros(2, 6, 10, dtype=torch.float64))


@every_model
def test_the_past_does_not_depend_on_the_future_which_depends_on_it(name: str) -> None:
    model, tokens = build(name), rows()
    laws = model.next_log_probs(tokens)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 3
    again = model.next_log_probs(changed)
    close(again[:, :, :6], laws[:, :, :6])
    assert ((again - laws)[:, :, 6:].abs().amax((0, 1, 3)) > 1e-6).all()


@every_model
def test_a_string_means_the_same_in_any_row_and_under_any_padding(name: str) -> None:
    model, tokens = build(name), rows()
    laws = model.next_log_probs(tokens)
    order = torch.tensor([5, 0, 3, 1, 2, 4])
    close(model.next_log_probs(tokens[order]), laws[:, order])
    close(model.next_log_probs(tokens[2:3]), laws[:, 2:3])
    wide = torch.nn.functional.pad(tokens, (0, 17), value=VOCABULARY.pad)  # wider than a context of 16 or 21
    close(model.next_log_probs(wide)[:, :, :10], laws)
    ragged = torch.where(torch.arange(10) <= torch.tensor([9, 0, 4, 2, 7, 1])[:, None], tokens, VOCABULARY.pad)
    counted = ragged != VOCABULARY.pad
    close(model.next_log_probs(ragged)[:, counted], laws[:, counted])


@every_model
def test_a_packed_row_is_its_strings_alone_gradients_too(name: str) -> None:
    model, strings = build(name), strings_of(LENGTHS, 1)
    alone = [model.logits(torch.tensor([string]))[:, 0] for string in strings]
    together = unpacked(model.logits(packed(strings)))
    for found, expected in zip(together, alone, strict=True):
        close(found, expected)
    expected_gradient = gradient(model, loss(alone).sum())
    for key, value in gradient(model, loss(together).sum()).items():
        largest = float(expected_gradient[key].abs().max())
        torch.testing.assert_close(value, expected_gradient[key], atol=1e-8 * largest + 1e-13, rtol=0)


@every_model
def test_each_seed_may_have_packed_rows_of_its_own(name: str) -> None:
    model = build(name)
    first, second = strings_of(LENGTHS, 1), strings_of(LENGTHS, 2)
    # The other seed's rows hold fewer strings: all but the first of each row are given up.
    tokens = torch.stack([packed(first), packed(second)])
    starts = (tokens[1] == VOCABULARY.bos).cumsum(-1) > 1
    tokens[1][starts] = VOCABULARY.pad
    found = model.logits(tokens)
    for s in range(2):
        expected = model.logits(tokens[s])[s]
        counted = tokens[s] != VOCABULARY.pad
        close(found[s][counted], expected[counted])
    close(unpacked(found)[4][0], model.logits(torch.tensor([first[4]]))[0, 0])
    counted = tokens != VOCABULARY.pad
    one = gradient(model, found[counted].sin().sum())
    two = [gradient(model, model.logits(tokens[s])[s][counted[s]].sin().sum()) for s in range(2)]
    for key, value in one.items():
        close(value, torch.stack([two[0][key][0], two[1][key][1]]))


@every_model
def test_what_stands_before_a_bos_has_no_effect(name: str) -> None:
    model, tokens = build(name), rows(2, 11)
    tokens[:, 5] = VOCABULARY.bos
    changed = tokens.clone()
    changed[:, 1:5] = (changed[:, 1:5] + 1) % 3

    def read(tokens: Tensor) -> Tensor:
        return model.logits(tokens, [Noise(torch_generator(seed, "dropout", 0), tokens.shape[-2]) for seed in SEEDS])

    one, two = read(tokens), read(changed)
    close(two[:, :, 5:], one[:, :, 5:])
    assert (one - two)[:, :, 1:5].abs().max() > 1e-6


@every_model
def test_step_by_step_is_the_whole_sequence(name: str) -> None:
    model, tokens = build(name), torch.stack([rows(4, 12, 1), rows(4, 12, 2)])
    lengths = torch.tensor([5, 0, 3, 1])  # prompts of different lengths in one padded batch; then each seed its own way
    prompts = torch.where(torch.arange(6) <= lengths[:, None], tokens[0, :, :6], VOCABULARY.pad)
    law, cache = model.prefill(prompts, lengths, 7)
    read = [prompts[row, : n + 1].expand(2, -1) for row, n in enumerate(lengths.tolist())]  # each [S, T]
    for step in range(8):
        whole = [torch.stack([model.next_log_probs(row[s, None])[s, 0, -1] for s in range(2)]) for row in read]
        close(law, torch.stack(whole, 1))
        if step < 7:
            fed = tokens[:, :, 6 + step]
            law = model.advance(cache, fed)
            read = [torch.cat([row, fed[:, i, None]], 1) for i, row in enumerate(read)]


@every_model
def test_selected_rows_go_on_by_themselves(name: str) -> None:
    model, tokens = build(name), rows(3, 4)
    lengths = torch.tensor([4, 2, 0])
    _, cache = model.prefill(tokens, lengths, 3)
    order = torch.tensor([2, 0, 2, 2])
    fork = model.select(cache, order)
    fed = torch.tensor([[0, 1, 2], [2, 0, 1]])
    forked = model.advance(fork, torch.cat([fed[:, order[:3]], 1 - fed[:, order[3:]].clamp(max=1)], 1))
    went_on = model.advance(cache, fed)
    close(forked[:, :3], went_on[:, order[:3]])
    assert (forked[:, 3] - forked[:, 0]).abs().amax(-1).max() > 1e-6
    again = model.advance(model.select(fork, torch.tensor([1])), fed[:, 1:2])
    close(again, model.advance(cache, fed[:, [1, 1, 1]])[:, 0:1])


@every_model
def test_a_stack_of_seeds_is_its_seeds_alone(name: str) -> None:
    tokens, together = rows(), build(name)
    logits = together.logits(tokens)
    grads = gradient(together, logits.sin().sum())
    assert (logits[0] - logits[1]).abs().max() > 1e-2
    for i, seed in enumerate(SEEDS):
        alone = build(name, (seed,))
        found = alone.logits(tokens)
        close(found[0], logits[i])
        for key, value in gradient(alone, found.sin().sum()).items():
            close(value[0], grads[key][i])


@every_model
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    model, tokens = build(name), packed(strings_of(LENGTHS, 1))
    generator = torch_generator(0, "direction")
    way = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in model.parameters.items()}
    start = {k: v.detach().clone() for k, v in model.parameters.items()}
    grads = gradient(model, loss(unpacked(model.logits(tokens))).sum())

    def value(key: str, step: float) -> Tensor:
        with torch.no_grad():
            model.parameters[key].copy_(start[key] + step * way[key])
            found = loss(unpacked(model.logits(tokens)))
            model.parameters[key].copy_(start[key])
        return found

    for key, grad in grads.items():
        slope = (value(key, 1e-6) - value(key, -1e-6)) / 2e-6
        torch.testing.assert_close((grad * way[key]).flatten(1).sum(1), slope, atol=1e-6, rtol=1e-5)


@noisy_model
def test_dropout_of_a_seed_is_the_same_alone_and_in_a_stack(name: str) -> None:
    tokens = rows()

    def noisy(seeds: Sequence[int]) -> Tensor:
        return build(name, seeds).logits(
            tokens, [Noise(torch_generator(seed, "dropout", 0), tokens.shape[-2]) for seed in seeds]
        )

    together = noisy(SEEDS)
    close(noisy((5,))[0], together[1])
    assert build(name).drops_out
    assert (together - build(name).logits(tokens)).abs().max() > 1e-2


@every_model
def test_state_round_trips_and_a_foreign_one_is_refused(name: str) -> None:
    model, other = build(name, (3,)), build(name, (4,))
    other.load_state(model.state())
    close(other.next_log_probs(rows()), model.next_log_probs(rows()), 0.0)
    with pytest.raises(UsageError, match="does not fit"):
        build(name).load_state(model.state())


@pytest.mark.parametrize("name", ["transformer-learned-pre", "linear-short"])
def test_a_string_longer_than_the_context_is_refused(name: str) -> None:
    model = build(name)
    message = r"context of 16 positions.*raise `context`"
    model.next_log_probs(rows(2, 15))
    with pytest.raises(UsageError, match=r"a string of 16 symbols does not fit.*" + message):
        model.next_log_probs(rows(2, 16))
    _, cache = model.prefill(rows(2, 15), torch.tensor([15, 3]), 2)
    with pytest.raises(UsageError, match=message):
        model.advance(cache, torch.zeros(2, 2, dtype=torch.int64))
    config = model.config  # type: ignore[attr-defined]
    config.check(15)
    with pytest.raises(UsageError, match=r"up to 16 symbols do not fit a " + message):
        config.check(16)
    # Two strings that fit do so in one row too.
    tokens = torch.cat([rows(2, 10), rows(2, 10)], 1)
    close(model.next_log_probs(tokens)[:, :, 11:], model.next_log_probs(tokens[:, 11:]))


def test_the_published_sizes_are_counted_as_the_docstrings_say() -> None:
    two = Vocabulary(("a", "b"))
    lstm = {"architecture": "lstm", "layers": 5, "width": 64, "embedding": 10, "dropout": 0.4}
    assert validate(ARCHITECTURES["lstm"], lstm, "test").n_parameters(two) == 152_951 - 1280 - 130 == 151_541  # type: ignore[attr-defined]
    linear = validate(ARCHITECTURES["linear"], {"architecture": "linear"}, "test")
    assert linear.n_parameters(two) == 995_411  # type: ignore[attr-defined]


def test_the_linear_map_is_the_sum_that_it_says() -> None:
    model = build("linear", (3,))
    p = {k: v.detach()[0] for k, v in model.parameters.items()}
    tokens = rows(1, 19)
    found = model.logits(tokens)[0, 0]
    for t in range(20):
        expected = p["bias"][t].clone()
        for s in range(t + 1):
            pair = p["weight"][t * (t + 1) // 2 + s].view(5, 4)
            assert pair.abs().max() <= (5 * (t + 1)) ** -0.5
            expected += p["embedding"][tokens[0, s]] @ pair
        close(found[t], expected)


def test_the_lstm_is_torchs() -> None:
    model, tokens = build("lstm-2", (3,)), rows()
    p = {k: v.detach()[0] for k, v in model.parameters.items()}
    judge = torch.nn.LSTM(7, 6, num_layers=2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for i in range(2):
            for ours, theirs in (("in.weight", "weight_ih"), ("recurrent.weight", "weight_hh"), ("in.bias", "bias_ih")):
                o, i_, f, u = p[f"layers.{i}.{ours}"].chunk(
                    4, -1
                )  # torch's order is i, f, u, o, and its weights are transposed
                getattr(judge, f"{theirs}_l{i}").copy_(
                    torch.cat([i_, f, u, o], -1).mT if o.dim() == 2 else torch.cat([i_, f, u, o])
                )
            getattr(judge, f"bias_hh_l{i}").zero_()
        hidden = judge(p["embedding"][tokens])[0]
        close(model.logits(tokens)[0], hidden @ p["output.weight"] + p["output.bias"])
