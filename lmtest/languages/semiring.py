"""Two number systems for the same sums of products: plain, which is fast, and logarithmic, which cannot underflow.

The plain one is used where it is *provably* right: where the smallest non-zero factors still make a product in range, no
product can have underflowed, so every zero is a true zero. Otherwise the logarithmic one.
"""

from __future__ import annotations

import torch

SMALLEST = 1e-300


class Plain:
    """Real numbers under + and ×."""

    zero, one = 0.0, 1.0

    @staticmethod
    def of(weights: torch.Tensor) -> torch.Tensor:
        return weights

    @staticmethod
    def log(x: torch.Tensor) -> torch.Tensor:
        return x.log()

    @staticmethod
    def mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * y

    @staticmethod
    def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    @staticmethod
    def dot(x: torch.Tensor, y: torch.Tensor, dim: int) -> torch.Tensor:
        """Sum of products along `dim`."""
        return (x * y).sum(dim)

    @staticmethod
    def mix(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x [N, P, j], y [N, P, j, L] → [N, L, P]: the sum of products along j."""
        return (x[:, :, None] @ y)[:, :, 0].transpose(1, 2)

    @staticmethod
    def matmul(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x [..., A] times weights [A, B]."""
        return x @ weights

    @staticmethod
    def exact(*factors: torch.Tensor) -> bool:
        """Whether no product of one number from each of the tensors can have underflowed or overflowed."""
        smallest = largest = 1.0
        for x in factors:
            if x.numel():
                smallest *= float(torch.where(x == 0, torch.inf, x).min().clamp(max=1.0))
                largest *= float(x.max().clamp(min=1.0))
        return smallest >= SMALLEST and largest <= 1 / SMALLEST


class Log:
    """Logarithms of real numbers ≥ 0 under logsumexp and +."""

    zero, one = -torch.inf, 0.0

    @staticmethod
    def of(weights: torch.Tensor) -> torch.Tensor:
        return weights.log()

    @staticmethod
    def log(x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    @staticmethod
    def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(x, y)

    @staticmethod
    def dot(x: torch.Tensor, y: torch.Tensor, dim: int) -> torch.Tensor:
        return (x + y).logsumexp(dim)

    @staticmethod
    def mix(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x[..., None] + y).logsumexp(2).transpose(1, 2)

    @staticmethod
    def matmul(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (x.unsqueeze(-1) + weights).logsumexp(-2)

    @staticmethod
    def exact(*factors: torch.Tensor) -> bool:
        return True


Semiring = type[Plain] | type[Log]
