"""The transformer: causal, row- and padding-independent, cached = whole, a stack = its seeds alone, count = formula."""

import itertools

import pytest
import torch

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.stack import Tree
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.seeds import torch_generator
from lmtest.validation import validate

VOCABULARY = Vocabulary(("a", "b", "c"))
KINDS = list(itertools.product(["none", "sinusoidal", "learned", "rotary"], ["pre", "post"]))


def small(
    positions: str = "sinusoidal", norm: str = "post", seeds: tuple[int, ...] = (3, 5), **more: object
) -> Transformer:
    table = {"layers": 2, "width": 12, "heads": 3, "feed_forward": 20, "positions": positions, "norm": norm, **more}
    return validate(TransformerConfig, table, "test").build(VOCABULARY, seeds)


def strings(n: int = 6, t: int = 9, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(0, 3, (n, t), generator=torch_generator(seed, "test"))
    return torch.cat([torch.full((n, 1), VOCABULARY.bos), tokens], 1)


@pytest.mark.parametrize(("positions", "norm"), KINDS)
def test_parameter_count_is_the_formula(positions: str, norm: str) -> None:
    model = small(positions, norm)
    assert model.n_parameters == model.config.n_parameters(VOCABULARY)


@pytest.mark.parametrize(("positions", "norm"), KINDS)
def test_laws_are_normalised_and_causal(positions: str, norm: str) -> None:
    model, tokens = small(positions, norm), strings()
    laws = model.next_log_probs(tokens)
    assert laws.shape == (2, 6, 10, 4)
    assert laws.dtype == torch.float64
    torch.testing.assert_close(laws.logsumexp(-1), torch.zeros(2, 6, 10, dtype=torch.float64))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 3
    again = model.next_log_probs(changed)
    torch.testing.assert_close(again[:, :, :6], laws[:, :, :6], atol=1e-5, rtol=0)
    assert (again[:, :, 6:] - laws[:, :, 6:]).abs().max() > 1e-3


@pytest.mark.parametrize(("positions", "norm"), KINDS)
def test_a_string_means_the_same_in_any_row_and_under_any_padding(positions: str, norm: str) -> None:
    model, tokens = small(positions, norm), strings()
    laws = model.next_log_probs(tokens)
    order = torch.tensor([5, 0, 3, 1, 2, 4])
    torch.testing.assert_close(model.next_log_probs(tokens[order]), laws[:, order], atol=1e-5, rtol=0)
    padded = torch.nn.functional.pad(tokens, (0, 7), value=VOCABULARY.pad)
    torch.testing.assert_close(model.next_log_probs(padded)[:, :, :10], laws, atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_position_matters_where_it_is_encoded(positions: str) -> None:
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, 1, 2], [VOCABULARY.bos, 1, 0, 1, 2]])
    last = small(positions).next_log_probs(tokens)[:, :, -1]
    assert (last[:, 0] - last[:, 1]).abs().max() > 1e-4


def test_without_positions_one_layer_sees_a_bag_of_symbols() -> None:
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, 1, 2], [VOCABULARY.bos, 1, 0, 1, 2]])
    last = small("none", layers=1).next_log_probs(tokens)[:, :, -1]
    torch.testing.assert_close(last[:, 0], last[:, 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("positions", "norm"), KINDS)
def test_a_stack_of_seeds_is_its_seeds_alone(positions: str, norm: str) -> None:
    tokens = strings()
    together = small(positions, norm, (3, 5)).next_log_probs(tokens)
    for i, seed in enumerate((3, 5)):
        torch.testing.assert_close(
            small(positions, norm, (seed,)).next_log_probs(tokens)[0], together[i], atol=1e-6, rtol=0
        )
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize(("positions", "norm"), KINDS)
def test_cached_decoding_is_the_whole_sequence(positions: str, norm: str) -> None:
    model, tokens = small(positions, norm), strings(n=4, t=12)
    whole = model.next_log_probs(tokens)
    lengths = torch.tensor([5, 0, 3, 1])  # prompts of different lengths in one padded batch
    prompts = torch.where(torch.arange(6) <= lengths[:, None], tokens[:, :6], VOCABULARY.pad)
    law, cache = model.prefill(prompts, lengths, 7)
    rows = torch.arange(4)
    for step in range(7):
        torch.testing.assert_close(law, whole[:, rows, lengths + step], atol=1e-5, rtol=0)
        law = model.advance(cache, tokens[rows, lengths + step + 1].expand(2, -1))


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rotary"])
def test_a_prefix_tree_reads_like_its_strings(positions: str) -> None:
    model = small(positions)
    # The strings ab, aab, aac as one tree: ε, a, ab, aa, aab, aac
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, 0, 1, 2]])
    depth = torch.tensor([0, 1, 2, 2, 3, 3])
    paths = [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [0, 1, 3, 5]]
    ancestors = torch.zeros(6, 6, dtype=torch.bool)
    for node, path in enumerate(paths):
        ancestors[node, path] = True
    tree = model.logits(tokens, None, Tree(depth, ancestors))[:, 0]
    for node, path in enumerate(paths):
        alone = model.logits(tokens[:, path])[:, 0, -1]
        torch.testing.assert_close(tree[:, node], alone, atol=1e-5, rtol=0)


def test_dropout_of_a_seed_is_the_same_alone_and_in_a_stack() -> None:
    tokens = strings()

    def noisy(seeds: tuple[int, ...]) -> torch.Tensor:
        model = small(seeds=seeds, dropout=0.5)
        return model.logits(tokens, [torch_generator(seed, "dropout", 0) for seed in seeds])

    together = noisy((3, 5))
    torch.testing.assert_close(noisy((5,))[0], together[1], atol=1e-5, rtol=0)
    assert (together - small(dropout=0.5).logits(tokens)).abs().max() > 1e-2


def test_state_round_trips_and_a_foreign_one_is_refused() -> None:
    model, other = small(seeds=(3,)), small(seeds=(4,))
    other.load_state(model.state())
    torch.testing.assert_close(other.next_log_probs(strings()), model.next_log_probs(strings()), atol=0, rtol=0)
    with pytest.raises(UsageError, match="does not fit"):
        small(seeds=(3, 4)).load_state(model.state())


def test_a_string_longer_than_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match=r"context of 8 positions.*raise `context`"):
        small("learned", context=8).next_log_probs(strings())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"width": 10, "heads": 4}, "expected heads to divide width, found width = 10, heads = 4"),
        ({"width": 12, "heads": 4, "positions": "rotary"}, "even head size, found 3"),
        ({"witdh": 12}, "did you mean 'width'"),
        ({"norm": "middle"}, "norm"),
    ],
)
def test_wrong_configurations_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(TransformerConfig, table, "test")
