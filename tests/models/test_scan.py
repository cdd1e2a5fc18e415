"""The scans: the plain recurrences that they stand for, gradients too, however they are cut up."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lmtest.models import scan, selective_scan
from lmtest.models.slstm import slstm, slstm_step
from lmtest.seeds import torch_generator

LENGTHS = [1, 2, 13, 34, 130, 258]


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch_generator(seed, "test"), dtype=torch.float64)


def naive_scan(a: Tensor, b: Tensor) -> Tensor:
    h, states = torch.zeros_like(b[..., 0, :, :]), []
    for t in range(b.shape[-3]):
        h = a[..., t, :, :] * h + b[..., t, :, :]
        states.append(h)
    return torch.stack(states, -3)


def same_values_and_gradients(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    weights = draw(*found.shape, seed=9)
    pairs = zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    )
    for one, two in pairs:
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("t", "shared", "chunked"), [*itertools.product(LENGTHS, [False, True], [False, True])])
def test_a_linear_scan_is_its_recurrence(t: int, shared: bool, chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNKED_FROM", 2 if chunked else 10**9)
    a = draw(2, 3, t, 4, 1 if shared else 5, seed=1).sigmoid().requires_grad_()
    b = draw(2, 3, t, 4, 5, seed=2).requires_grad_()
    same_values_and_gradients(scan.linear_scan(a, b), naive_scan(a, b), [a, b])


@pytest.mark.parametrize("chunked", [False, True])
def test_the_gradient_of_a_linear_scan_is_that_of_finite_differences(
    chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNKED_FROM", 2 if chunked else 10**9)
    a, b = draw(2, 7, 3, 1, seed=1).requires_grad_(), draw(2, 7, 3, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(scan.linear_scan, (a, b))


@pytest.mark.parametrize("t", [34, 258])
def test_a_decay_of_zero_forgets_exactly(t: int) -> None:
    a, b = draw(t, 4, 1, seed=1).sigmoid(), draw(t, 4, 5, seed=2)
    a[t // 2 + 1] = 0
    h = scan.linear_scan(a, b)
    again = b.clone()
    again[: t // 2 + 1] = 1e6
    assert torch.equal(scan.linear_scan(a, again)[t // 2 + 1 :], h[t // 2 + 1 :])


@pytest.mark.parametrize("t", [34, 258])
def test_extreme_decays_stay_exact(t: int) -> None:
    kinds = torch.tensor([0.0, 1e-300, 1e-30, 1 - 1e-12, 1.0], dtype=torch.float64)
    pick = torch.randint(0, 5, (t, 4, 3), generator=torch_generator(0, "test"))
    a, b = kinds[pick].requires_grad_(), draw(t, 4, 3).requires_grad_()
    same_values_and_gradients(scan.linear_scan(a, b), naive_scan(a, b), [a, b])


@pytest.mark.parametrize(("t", "group"), [*itertools.product([1, 2, 13, 40], [1, 10**9])])
def test_a_selective_scan_is_its_recurrence(t: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "GROUP", group)
    delta, u = draw(2, 3, t, 5, seed=1).exp().requires_grad_(), draw(2, 3, t, 5, seed=2).requires_grad_()
    a = (-draw(2, 4, 5, seed=3).exp()).requires_grad_()
    b, c = draw(2, 3, t, 4, seed=4).requires_grad_(), draw(2, 3, t, 4, seed=5).requires_grad_()
    place = torch.stack([torch.arange(t), torch.arange(t) % 6, (torch.arange(t) - t // 2) % t]).expand(2, 3, t)
    for where in (None, place):
        decay = (delta[..., None, :] * a[:, None, None]).exp()
        if where is not None:
            decay = decay * (where > 0)[..., None, None]
        h = naive_scan(decay, b[..., None] * (delta * u)[..., None, :])
        expected = (c[..., None] * h).sum(-2)
        found = selective_scan.selective_scan(delta, u, a, b, c, where)
        same_values_and_gradients(found, expected, [delta, u, a, b, c])


def paper_slstm(gates: np.ndarray, recurrent: np.ndarray, first: np.ndarray) -> np.ndarray:
    """One head of one row from the paper's own state (c, n, m): gates [T, 4·K], first [T] → h [T, K]."""
    size = recurrent.shape[0]
    h, found = np.zeros(size), []
    c, n, m = np.zeros(size), np.zeros(size), np.zeros(size)
    for t, gate in enumerate(gates):
        if first[t]:
            h, c, n, m = np.zeros(size), np.zeros(size), np.zeros(size), np.full(size, -np.inf)
        i, f, z, o = np.split(gate + h @ recurrent, 4)
        log_f = -np.logaddexp(0, -f)
        new = np.maximum(log_f + m, i)
        forget, enter = np.exp(log_f + m - new), np.exp(i - new)
        c, n, m = forget * c + enter * np.tanh(z), forget * n + enter, new
        h = c / n / (1 + np.exp(-o))
        found.append(h)
    return np.stack(found)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_an_slstm_is_the_papers_recurrence_at_any_size_of_gates(scale: float) -> None:
    gates, recurrent = scale * draw(20, 2, 3, 16, seed=1), draw(2, 4, 16, seed=2)
    first = torch.zeros(20, 2, 3, 1, dtype=torch.bool)
    first[0], first[7, :, 0], first[8, :, 0], first[13, 1, 2] = True, True, True, True
    found = slstm(gates, recurrent, first)
    for g, b in itertools.product(range(2), range(3)):
        expected = paper_slstm(gates[:, g, b].numpy(), recurrent[g].numpy(), first[:, g, b, 0].numpy())
        np.testing.assert_allclose(found[:, g, b].numpy(), expected, atol=1e-10)
    state = (torch.zeros(2, 3, 4).double(), torch.zeros(2, 3, 4).double(), torch.full((2, 3, 4), -math.inf).double())
    whole = slstm(gates, recurrent, None)
    for t in range(20):
        state = slstm_step(gates[t], recurrent, *state)
        torch.testing.assert_close(state[0], whole[t], atol=1e-10, rtol=0)


def test_the_gradient_of_an_slstm_is_that_of_finite_differences() -> None:
    gates, recurrent = draw(6, 2, 2, 8, seed=1).requires_grad_(), draw(2, 2, 8, seed=2).requires_grad_()
    first = torch.zeros(6, 2, 2, 1, dtype=torch.bool)
    first[0], first[3, :, 0] = True, True
    assert torch.autograd.gradcheck(lambda x, r: slstm(x, r, None), (gates, recurrent))
    assert torch.autograd.gradcheck(lambda x, r: slstm(x, r, first), (gates, recurrent))


def test_the_gradient_of_an_slstm_stays_finite_where_gates_saturate() -> None:
    gates, recurrent = (200 * draw(30, 2, 3, 16)).float().requires_grad_(), draw(2, 4, 16).float().requires_grad_()
    found = slstm(gates, recurrent, None)
    assert found.isfinite().all()
    for grad in torch.autograd.grad(found.sum(), [gates, recurrent]):
        assert grad.isfinite().all()
