"""What every rule offers: a property of strings, read symbol by symbol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

import torch


class Rule(ABC):
    """A property of strings, read symbol by symbol; `name` as in the language file, `text` its kind and value."""

    name: str
    text: str

    @abstractmethod
    def holds(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Symbol ids [N, T] (no BOS; anything behind `lengths` [N]) → bool [N]."""

    @abstractmethod
    def start(self) -> Hashable:
        """The state before any symbol."""

    @abstractmethod
    def step(self, state: Hashable, symbol: int) -> Hashable:
        """The state after one more symbol."""

    @abstractmethod
    def accepts(self, state: Hashable) -> bool:
        """Whether the string read so far satisfies the rule."""

    @abstractmethod
    def alive(self, state: Hashable) -> bool:
        """Whether some continuation (of any length, empty too) satisfies the rule: exact, not a bounded search."""

    def twin(self, state: Hashable) -> Hashable:
        """One state for all that differ in which symbol plays which part, and so have equally many continuations of each
        length that hold; the state itself where the rule knows no better."""
        return state

    def run(self, row: Sequence[int]) -> Hashable:
        """The state after all symbol ids of a row."""
        state = self.start()
        for symbol in row:
            state = self.step(state, symbol)
        return state


def before_end(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Symbol ids [N, T] and lengths [N] → bool [N, T]: what stands before the end."""
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
