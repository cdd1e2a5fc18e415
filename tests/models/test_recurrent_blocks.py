"""Mamba, xLSTM and gated linear attention: each is its formulas, read token by token in plain loops over one string."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models import gated_linear_attention
from lmtest.models.registry import ARCHITECTURES
from lmtest.models.stack import StackedModel
from lmtest.seeds import torch_generator
from lmtest.validation import validate

VOCABULARY = Vocabulary(("a", "b", "c"))
TABLES: dict[str, dict[str, object]] = {
    "mamba": {"layers": 2, "width": 6, "state": 3, "conv": 3},
    "xlstm": {"layers": 3, "width": 8, "heads": 2, "slstm_at": [1]},
    "gated_linear_attention": {"layers": 2, "width": 8, "heads": 2, "feed_forward": 12},
}
every_model = pytest.mark.parametrize("name", TABLES)

Array = NDArray[np.float64]
P = dict[str, Array]


def build(name: str, *, scale: float = 1.0, dtype: torch.dtype = torch.float64, **more: object) -> StackedModel:
    config = validate(ARCHITECTURES[name], {"architecture": name, **TABLES[name], **more}, "test")
    model: StackedModel = config.build(VOCABULARY, (3, 5))
    model.parameters = {k: (scale * v.detach()).to(dtype).requires_grad_() for k, v in model.parameters.items()}
    return model


def rows(n: int, t: int) -> Tensor:
    tokens = torch.randint(0, 3, (n, t), generator=torch_generator(0, "test"))
    tokens[:, 0] = VOCABULARY.bos
    return tokens


# The formulas, one token at a time.


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return x * np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def rms(x: Array) -> Array:
    return x / np.sqrt(np.mean(x**2) + 1e-5)


def normal(x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def window(p: P, name: str, seen: list[Array]) -> Array:
    """The convolution at the last of the inputs seen so far."""
    weight, out = p[f"{name}.weight"], p[f"{name}.bias"].copy()
    for back in range(min(len(weight), len(seen))):
        out += weight[-1 - back] * seen[-1 - back]
    return out


def mamba(p: P, tokens: list[int], table: dict[str, object]) -> Array:
    layers, n, width = int(str(table["layers"])), int(str(table["state"])), int(str(table["width"]))
    seen: list[list[Array]] = [[] for _ in range(layers)]
    h = np.zeros((layers, 2 * width, n))
    out = []
    for token in tokens:
        x = p["embedding"][token]
        for i in range(layers):
            name = f"layers.{i}"
            u, z = np.split((rms(x) * p[f"{name}.norm.weight"]) @ p[f"{name}.in.weight"], 2)
            seen[i].append(u)
            u = silu(window(p, f"{name}.convolution", seen[i]))
            select = u @ p[f"{name}.select.weight"]
            low, b, c = select[: -2 * n], select[-2 * n : -n], select[-n:]
            delta = np.logaddexp(0, low @ p[f"{name}.delta.weight"] + p[f"{name}.delta.bias"])
            y = np.zeros(2 * width)
            for e in range(2 * width):
                for j in range(n):
                    decay = math.exp(-delta[e] * math.exp(p[f"{name}.log_a"][e, j]))
                    h[i, e, j] = decay * h[i, e, j] + delta[e] * b[j] * u[e]
                    y[e] += c[j] * h[i, e, j]
                y[e] += p[f"{name}.skip"][e] * u[e]
            x = x + (y * silu(z)) @ p[f"{name}.out.weight"]
        out.append((rms(x) * p["norm.weight"]) @ p["output.weight"] + p["output.bias"])
    return np.stack(out)


def gla(p: P, tokens: list[int], table: dict[str, object]) -> Array:
    layers, heads, width = int(str(table["layers"])), int(str(table["heads"])), int(str(table["width"]))
    keys, values = width // 2 // heads, width // heads
    state = np.zeros((layers, heads, keys, values))
    out = []
    for token in tokens:
        x = p["embedding"][token]
        for i in range(layers):
            name = f"layers.{i}"
            y = rms(x) * p[f"{name}.norm1.weight"]
            q, k, v = np.split(y @ p[f"{name}.in.weight"], [width // 2, width])
            low = y @ p[f"{name}.decay.low.weight"]
            alpha = sigmoid(low @ p[f"{name}.decay.weight"] + p[f"{name}.decay.bias"]) ** (1 / 16)
            read = []
            for h in range(heads):
                key, value = slice(h * keys, (h + 1) * keys), slice(h * values, (h + 1) * values)
                state[i, h] = alpha[key, None] * state[i, h] + np.outer(k[key], v[value])
                read.append(rms(q[key] @ state[i, h]))
            gate = silu(y @ p[f"{name}.gate.weight"] + p[f"{name}.gate.bias"])
            x = x + (np.concatenate(read) * p[f"{name}.head_norm.weight"] * gate) @ p[f"{name}.out.weight"]
            y = rms(x) * p[f"{name}.norm2.weight"]
            one, two = np.split(y @ p[f"{name}.feed_forward.in.weight"], 2)
            x = x + (silu(one) * two) @ p[f"{name}.feed_forward.out.weight"]
        out.append((rms(x) * p["norm.weight"]) @ p["output.weight"] + p["output.bias"])
    return np.stack(out)


def xlstm(p: P, tokens: list[int], table: dict[str, object]) -> Array:
    layers, heads = int(str(table["layers"])), int(str(table["heads"]))
    seen: list[list[Array]] = [[] for _ in range(layers)]
    states: list[list[tuple[Array, ...]]] = [[] for _ in range(layers)]
    out = []
    for token in tokens:
        x = p["embedding"][token]
        for i in range(layers):
            y = normal(x) * p[f"blocks.{i}.norm.weight"] + p[f"blocks.{i}.norm.bias"]
            block = slstm_block if f"blocks.{i}.recurrent.weight" in p else mlstm_block
            x = x + block(p, f"blocks.{i}", y, heads, seen[i], states[i])
            if block is slstm_block:
                y = normal(x) * p[f"blocks.{i}.norm2.weight"] + p[f"blocks.{i}.norm2.bias"]
                one, two = np.split(y @ p[f"blocks.{i}.feed_forward.in.weight"], 2)
                x = x + (gelu(one) * two) @ p[f"blocks.{i}.feed_forward.out.weight"]
        x = normal(x) * p["norm.weight"] + p["norm.bias"]
        out.append(x @ p["output.weight"] + p["output.bias"])
    return np.stack(out)


def mlstm_block(p: P, name: str, x: Array, heads: int, seen: list[Array], states: list[tuple[Array, ...]]) -> Array:
    """Without any stabiliser: the matrix memory C and the normaliser n as they are."""
    u, z = np.split(x @ p[f"{name}.up.weight"], 2)
    seen.append(u)
    conv = silu(window(p, f"{name}.convolution", seen))
    q, k, v = (
        np.concatenate([part @ block for part, block in zip(y.reshape(-1, 4), p[f"{name}.{kind}.weight"], strict=True)])
        for kind, y in (("q", conv), ("k", conv), ("v", u))
    )
    gates = conv @ p[f"{name}.gates.weight"]
    enter = np.exp(gates[:heads] + p[f"{name}.input.bias"])
    forget = sigmoid(gates[heads:] + p[f"{name}.forget.bias"])
    size = len(u) // heads
    if not states:
        states.extend((np.zeros((size, size)), np.zeros(size)) for _ in range(heads))
    read = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        key = k[part] / math.sqrt(size)
        c = forget[h] * states[h][0] + enter[h] * np.outer(v[part], key)
        n = forget[h] * states[h][1] + enter[h] * key
        states[h] = (c, n)
        read.append(normal(c @ q[part] / max(abs(n @ q[part]), 1)))
    mixed = np.concatenate(read) * p[f"{name}.head_norm.weight"] + p[f"{name}.skip"] * conv
    return (mixed * silu(z)) @ p[f"{name}.down.weight"]


def slstm_block(p: P, name: str, x: Array, heads: int, seen: list[Array], states: list[tuple[Array, ...]]) -> Array:
    """Without any stabiliser: the cell c and the normaliser n as they are."""
    seen.append(x)
    conv = silu(window(p, f"{name}.convolution", seen))
    size = len(x) // heads
    if not states:
        states.extend((np.zeros(size), np.zeros(size), np.zeros(size)) for _ in range(heads))
    read = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        c, n, last = states[h]
        back = np.split(last @ p[f"{name}.recurrent.weight"][h], 4)
        i, f = np.split(conv[part] @ p[f"{name}.input_forget.weight"][h], 2)
        z, o = np.split(x[part] @ p[f"{name}.cell_output.weight"][h], 2)
        enter = np.exp(i + back[0] + p[f"{name}.input.bias"][h])
        forget = sigmoid(f + back[1] + p[f"{name}.forget.bias"][h])
        c = forget * c + enter * np.tanh(z + back[2] + p[f"{name}.cell.bias"][h])
        n = forget * n + enter
        last = sigmoid(o + back[3] + p[f"{name}.output.bias"][h]) * c / n
        states[h] = (c, n, last)
        read.append(normal(last))
    return np.concatenate(read) * p[f"{name}.head_norm.weight"]


REFERENCES: dict[str, Callable[[P, list[int], dict[str, object]], Array]] = {
    "mamba": mamba,
    "xlstm": xlstm,
    "gated_linear_attention": gla,
}


def shaken(model: StackedModel) -> StackedModel:
    """Every parameter moved, so that zeros and ones cannot hide where they belong."""
    for key, value in model.parameters.items():
        noise = torch.randn(value.shape, generator=torch_generator(1, key), dtype=value.dtype)
        value.data += 0.3 * noise
    return model


@every_model
@pytest.mark.parametrize("t", [1, 2, 19, 40])
def test_a_model_is_its_formulas(name: str, t: int) -> None:
    model, tokens = shaken(build(name)), rows(2, t)
    found = model.logits(tokens)
    for s in range(2):
        p = {key: value[s].detach().numpy() for key, value in model.parameters.items()}
        for b, row in enumerate(tokens.tolist()):
            expected = torch.from_numpy(REFERENCES[name](p, row, TABLES[name]))
            torch.testing.assert_close(found[s, b], expected, atol=1e-9, rtol=1e-9)


@every_model
def test_step_by_step_is_the_whole_row_beyond_a_chunk(name: str) -> None:
    model, tokens = shaken(build(name)), rows(3, 45)
    whole = model.next_log_probs(tokens)
    law, cache = model.prefill(tokens[:, :1], torch.zeros(3, dtype=torch.int64), 44)
    for t in range(1, 45):
        torch.testing.assert_close(law, whole[:, :, t - 1], atol=1e-9, rtol=0)
        law = model.advance(cache, tokens[:, t].expand(2, 3))


@every_model
def test_in_single_precision_step_by_step_is_the_whole_row(name: str) -> None:
    model, tokens = build(name, dtype=torch.float32), rows(3, 45)
    whole = model.next_log_probs(tokens)
    law, cache = model.prefill(tokens[:, :1], torch.zeros(3, dtype=torch.int64), 44)
    for t in range(1, 45):
        torch.testing.assert_close(law, whole[:, :, t - 1], atol=1e-5, rtol=0)
        law = model.advance(cache, tokens[:, t].expand(2, 3))


@every_model
def test_strings_in_a_row_are_strings_alone_wherever_chunks_end(name: str) -> None:
    model, tokens = shaken(build(name)), rows(4, 50)
    starts = torch.rand(4, 50, generator=torch_generator(2, "test")) < torch.tensor([0.5, 0.1, 0.03, 0.0])[:, None]
    starts[:, 0] = True
    tokens[starts] = VOCABULARY.bos
    found = model.next_log_probs(tokens)
    for b in range(4):
        ends = [*starts[b].nonzero().flatten().tolist(), 50]
        for start, end in itertools.pairwise(ends):
            alone = model.next_log_probs(tokens[b : b + 1, start:end])
            torch.testing.assert_close(found[:, b, start:end], alone[:, 0], atol=1e-9, rtol=0)


@every_model
@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("packed", [False, True])
def test_long_rows_stay_finite_gradients_too(name: str, scale: float, packed: bool) -> None:
    model, tokens = build(name, scale=scale, dtype=torch.float32), rows(2, 300)
    if packed:
        tokens[:, 100] = tokens[0, 200] = tokens[0, 201] = VOCABULARY.bos
    logits = model.logits(tokens)
    assert logits.isfinite().all()
    for grad in torch.autograd.grad(logits.log_softmax(-1)[..., 0].sum(), list(model.parameters.values())):
        assert grad.isfinite().all()


def test_decays_as_short_as_they_get_do_not_overflow() -> None:
    least = gated_linear_attention.SHORTEST_MEMORY
    q, k, v = torch.randn(3, 1, 2, 2, 64, 4, generator=torch_generator(0, "test")).unbind(0)
    decay = torch.full_like(q, least)
    found = gated_linear_attention.attend(q, k, v, decay, None)
    state, expected = torch.zeros(1, 2, 2, 4, 4), []
    for t in range(64):
        state = math.exp(least) * state + k[..., t, :, None] * v[..., t, None, :]
        expected.append((q[..., t, None, :] @ state)[..., 0, :])
    torch.testing.assert_close(found, torch.stack(expected, 3), atol=1e-4, rtol=1e-4)


def test_memories_start_as_the_papers_say() -> None:
    step = torch.nn.functional.softplus(build("mamba", width=64).parameters["layers.0.delta.bias"])
    assert 1e-3 * 0.999 < step.min() < 2e-3
    assert 5e-2 < step.max() < 1e-1 * 1.001
    a = build("mamba").parameters["layers.1.log_a"].exp()
    torch.testing.assert_close(a, torch.arange(1.0, 4.0, dtype=torch.float64).expand(2, 12, 3), rtol=1e-6, atol=0)
    for block, shape in ((0, (2, 2)), (1, (2, 2, 4))):
        bias = build("xlstm").parameters[f"blocks.{block}.forget.bias"]
        assert bias.shape == shape
        assert (bias[..., 0] == 3).all()
        assert (bias[..., -1] == 6).all()


def test_the_published_sizes_have_these_many_parameters() -> None:
    published = {
        "mamba": ({"layers": 10, "width": 32, "state": 16, "conv": 8}, 102_436),
        "xlstm": ({"layers": 6, "width": 64, "heads": 4, "slstm_at": [1], "conv": 4}, 167_212),
    }
    for name, (table, count) in published.items():
        config = validate(ARCHITECTURES[name], {"architecture": name, **table}, "test")
        assert config.n_parameters(VOCABULARY) == count  # type: ignore[attr-defined]
        config.check(10**6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("gated_linear_attention", {"width": 12, "heads": 4}, "expected 2 × heads to divide width, found width = 12"),
        ("xlstm", {"width": 10, "heads": 4}, "expected heads to divide width, found width = 10, heads = 4"),
        ("xlstm", {"width": 7, "heads": 7}, "expected width to be even, found 7"),
        ("xlstm", {"slstm_at": [3]}, "names blocks 0 to 2, found 3"),
        ("xlstm", {"slstm_at": [1, 1]}, r"at most once, found \[1, 1\]"),
        ("mamba", {"states": 4}, "did you mean 'state'"),
    ],
)
def test_wrong_configurations_are_refused(name: str, table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **table)
