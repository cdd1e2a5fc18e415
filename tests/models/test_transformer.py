"""What is the transformer's own, beside the contract of every architecture: position encodings, trees, refusals."""

import math

import pytest
import torch

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.positions import (
    PositionTables,
    alibi,
    alibi_slopes,
    rotate,
    rotate_blocks,
    sinusoids,
    tiled_sinusoids,
)
from lmtest.models.stack import Tree
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.seeds import torch_generator
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


def test_the_tied_output_reads_the_embeddings() -> None:
    model = small(tied=True)
    assert "output.weight" not in model.parameters
    assert model.n_parameters == small().n_parameters - 12 * VOCABULARY.n_outputs
    tokens = torch.tensor([[VOCABULARY.bos, 0, 1, 1, 2]])
    expected = model.hidden(tokens) @ model.parameters["embedding"][:, None, :4].mT
    expected = expected + model.parameters["output.bias"][:, None, None]
    torch.testing.assert_close(model.logits(tokens), expected, atol=1e-5, rtol=1e-5)
    embedding = model.parameters["embedding"]
    torch.testing.assert_close(embedding * 12**0.5, small().parameters["embedding"])  # the same draws


def test_sinusoids_stand_side_by_side_and_padded_ones_are_centred() -> None:
    positions = torch.arange(5)
    one = sinusoids(positions, 6)
    assert torch.equal(tiled_sinusoids(positions, 6, PositionTables(), torch.float32), one)
    assert torch.equal(tiled_sinusoids(positions, 18, PositionTables(copies=3), torch.float32), one.repeat(1, 3))
    padded = tiled_sinusoids(positions, 16, PositionTables(copies=2, padding=4), torch.float64)
    assert padded[:, 12:].abs().max() == 0
    assert padded.mean(-1).abs().max() < 1e-15
    torch.testing.assert_close(padded[:, 6:12], (one - one.mean(-1, keepdim=True)).double(), atol=1e-6, rtol=0)


def test_each_block_of_a_head_is_rotated_by_itself() -> None:
    x = torch.randn(1, 2, 3, 5, 8, generator=torch_generator(0, "test"))
    positions = torch.arange(5)[None, None]
    assert torch.equal(rotate_blocks(x, positions, 1), rotate(x, positions))
    expected = torch.cat([rotate(x[..., :4], positions), rotate(x[..., 4:], positions)], -1)
    assert torch.equal(rotate_blocks(x, positions, 2), expected)


def test_slopes_may_be_given() -> None:
    queries, keys = torch.tensor([4, 5]), torch.arange(6)
    assert torch.equal(alibi(queries, keys, 4, alibi_slopes(4)), alibi(queries, keys, 4))
    assert alibi(queries, keys, 2, [0.5, 3.0])[:, 0, 1].tolist() == [-1.5, -9.0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"width": 10, "heads": 4}, "expected heads to divide width, found width = 10, heads = 4"),
        ({"width": 12, "heads": 4, "positions": "rotary"}, "even head size, found 3"),
        ({"heads": 2, "head_size": 4, "positions": "rotary", "tables": {"head_copies": 4}}, "even head size, found 1"),
        ({"head_size": 4, "positions": "rotary", "tables": {"head_copies": 3}}, "head_copies to divide 4, found 3"),
        ({"tables": {"copies": 5}}, "expected tables.copies to divide width − tables.padding, found 5 and 64"),
        ({"tables": {"padding": 64}}, "found 1 and 0"),
        ({"positions": "alibi", "tables": {"slopes": [0.5]}}, "expected 4 tables.slopes, one for each head, found 1"),
        ({"positions": "learned", "tables": {"copies": 2}}, "tables.copies means nothing with positions = 'learned'"),
        ({"witdh": 12}, "did you mean 'width'"),
        ({"norm": "middle"}, "norm"),
    ],
)
def test_wrong_configurations_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(TransformerConfig, table, "test")
