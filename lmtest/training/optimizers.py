"""AdamW and SGD by torch's functions: its classes load a compiler first, over a second in every process that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Memory = dict[str, Tensor]
"""What an optimiser keeps of a parameter, by torch's names."""


class Optimizer(ABC):
    """Updates parameters in place from their gradients, and drops these."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.memory = [self._memory(parameter.detach()) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at this learning rate; a parameter without a gradient stays as it is."""
        used = [
            (p, p.grad, memory) for p, memory in zip(self.parameters, self.memory, strict=True) if p.grad is not None
        ]
        self._update([p for p, _, _ in used], [grad for _, grad, _ in used], [memory for _, _, memory in used], rate)
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def _memory(self, parameter: Tensor) -> Memory: ...

    @abstractmethod
    def _update(self, parameters: list[Tensor], gradients: list[Tensor], memory: list[Memory], rate: float) -> None: ...


class AdamW(Optimizer):
    """Loshchilov & Hutter 2019, with bias correction."""

    def __init__(self, parameters: Iterable[Tensor], beta2: float = 0.999, weight_decay: float = 0.0) -> None:
        super().__init__(parameters)
        self.beta2, self.weight_decay = beta2, weight_decay

    def _memory(self, parameter: Tensor) -> Memory:
        step = torch.zeros((), device=parameter.device)
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], memory: list[Memory], rate: float) -> None:
        adamw(
            parameters,
            gradients,
            [of["exp_avg"] for of in memory],
            [of["exp_avg_sq"] for of in memory],
            [],
            [of["step"] for of in memory],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=self.beta2,
            lr=rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum 0.9."""

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float = 0.0) -> None:
        super().__init__(parameters)
        self.weight_decay = weight_decay

    def _memory(self, parameter: Tensor) -> Memory:
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], memory: list[Memory], rate: float) -> None:
        sgd(
            parameters,
            gradients,
            [of["momentum_buffer"] for of in memory],
            weight_decay=self.weight_decay,
            momentum=0.9,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
