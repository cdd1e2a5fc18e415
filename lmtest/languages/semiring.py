"""Two number systems for the same sums of products: plain, which is fast, and logarithmic, which cannot underflow.

The plain one is used where it is *provably* right: as long as every non-zero number is between `SMALLEST` and its inverse,
no product of two of them and a weight can have underflowed, so every zero is a true zero. Otherwise the logarithmic one.
"""

from __future__ import annotations

import torch

SMALLEST = 1e-140


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
    def matmul(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x [..., A] times weights [A, B]."""
        return x @ weights

    @staticmethod
    def exact(*numbers: torch.Tensor) -> bool:
        """Whether no product of these numbers can have underflowed or overflowed."""
        for x in numbers:
            if x.numel() and not (
                bool(torch.where(x == 0, 1.0, x).min() >= SMALLEST) and bool(x.max() <= 1 / SMALLEST)
            ):
                return False
        return True


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
    def matmul(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (x.unsqueeze(-1) + weights).logsumexp(-2)

    @staticmethod
    def exact(*numbers: torch.Tensor) -> bool:
        return True


Semiring = type[Plain] | type[Log]
