"""Torch's functions against its classes, bit by bit."""

from collections.abc import Callable

import pytest
import torch

from lmtest.training.optimizers import SGD, AdamW, Optimizer

Made = tuple[Callable[[list[torch.Tensor]], Optimizer], Callable[[list[torch.Tensor]], torch.optim.Optimizer]]

CASES: dict[str, Made] = {
    "adamw": (
        lambda p: AdamW(p, 0.98, 0.1),
        lambda p: torch.optim.AdamW(p, betas=(0.9, 0.98), weight_decay=0.1, fused=True),
    ),
    "adamw_plain": (AdamW, lambda p: torch.optim.AdamW(p, weight_decay=0.0, fused=True)),
    "sgd": (lambda p: SGD(p, 0.1), lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.1)),
}


@pytest.mark.parametrize("case", CASES)
def test_functions_and_classes_of_torch_agree_to_the_last_bit(case: str) -> None:
    ours_of, theirs_of = CASES[case]
    start = [torch.randn(2, n, generator=torch.Generator().manual_seed(n)) for n in (3, 40, 1)]
    one, two = ([value.clone().requires_grad_() for value in start] for _ in range(2))
    ours, theirs = ours_of(one), theirs_of(two)
    draws = torch.Generator().manual_seed(0)
    for step in range(8):
        for i, (left, right) in enumerate(zip(one, two, strict=True)):
            # The last parameter has no gradient at first, and nothing may change it.
            left.grad = None if i == 2 and step < 3 else torch.randn(left.shape, generator=draws)
            right.grad = None if left.grad is None else left.grad.clone()
        rate = 0.1 / (step + 1)
        theirs.param_groups[0]["lr"] = rate
        ours.step(rate)
        theirs.step()
        assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
        assert all(parameter.grad is None for parameter in one)
    for memory, parameter in zip(ours.memory, two, strict=True):
        for kind, value in memory.items():
            assert torch.equal(value, theirs.state[parameter][kind])
