"""What is the transformer's own, beside the contract of every architecture: position encodings, trees, refusals."""

import math

import pytest
import torch

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.positions import alibi
from lmtest.models.stack import Tree
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.validation import validate

VOCABULARY = Vocabulary(("a", "b", "c"))


def small(
    positions: str = "sinusoidal", norm: str = "post", seeds: tuple[int, ...] = (3, 5), **more: object
) -> Transformer:
    table = {"layers": 2, "width": 12, "heads": 3, "feed_forward": 20, "positions": positions, "norm": norm, **more}
    return validate(TransformerConfig, table, "test").build(VOCABULARY, seeds)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "alibi"])
def test_position_matters_where_it_is_encoded(positions: str) -> None:
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, 1, 2], [VOCABULARY.bos, 1, 0, 1, 2]])
    last = small(positions).next_log_probs(tokens)[:, :, -1]
    assert (last[:, 0] - last[:, 1]).abs().max() > 1e-4


def test_without_positions_one_layer_sees_a_bag_of_symbols() -> None:
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, 1, 2], [VOCABULARY.bos, 1, 0, 1, 2]])
    last = small("none", layers=1).next_log_probs(tokens)[:, :, -1]
    torch.testing.assert_close(last[:, 0], last[:, 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rotary", "alibi"])
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


def test_alibi_takes_off_a_slope_for_each_step() -> None:
    bias = alibi(torch.tensor([4, 5]), torch.arange(6), heads=4)
    assert bias.shape == (4, 2, 6)
    for head, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):
        for query in (4, 5):
            for key in range(query + 1):
                assert math.isclose(float(bias[head, query - 4, key]), -slope * (query - key), abs_tol=1e-7)


def test_rows_of_one_string_need_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def mask(*_: object) -> torch.Tensor:
        raise AssertionError("a mask was built")

    monkeypatch.setattr(Transformer, "_mask", mask)
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, VOCABULARY.pad]])
    small().logits(tokens)
    with pytest.raises(AssertionError, match="a mask was built"):
        small().logits(tokens[:, [0, 1, 0, 2]])


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
