"""A stack of seeds: many models of one architecture, trained and run as one, each with its own row of parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.seeds import torch_generator


@dataclass(frozen=True)
class Shape:
    """A parameter of one seed: its shape, and how it starts.

    "zeros", "ones"; "normal" and "uniform" with a standard deviation or bound; "steps": softplus of it is log-uniform in
    [1e-3, 1e-1]; "logarithms": log 1, log 2, … along the last axis; "lasting": from 3 to 6 along the last axis.
    """

    size: tuple[int, ...]
    start: str
    scale: float = 0.0


@dataclass(frozen=True)
class Tree:
    """A prefix tree as one sequence of M nodes: a node's token stands at its depth and sees its ancestors and itself.

    Strings that share a prefix share its nodes, so the whole support of aⁿbⁿ (n ≤ 16) is 153 tokens instead of 528.
    """

    depth: Tensor  # [M]
    ancestors: Tensor  # [M, M] bool


class Noise(NamedTuple):
    """A seed's dropout: its own generator, and how many rows of the batch are its own.

    So it is the same alone and in a stack, where another seed may need more rows of the same width.
    """

    generator: torch.Generator
    rows: int


Dropout = Sequence[Noise]
"""One for each seed."""


class StackedModel(ABC):
    """S models over one vocabulary; `parameters` are named tensors [S, …], seed s owns row s of each."""

    held: frozenset[str] = frozenset()
    """Names of parameters that stay as they are when the model is trained on."""

    def __init__(
        self, vocabulary: Vocabulary, seeds: Sequence[int], shapes: dict[str, Shape], device: str = "cpu"
    ) -> None:
        self.vocabulary, self.seeds, self.device = vocabulary, tuple(seeds), torch.device(device)
        generators = [torch_generator(seed, "initialisation") for seed in self.seeds]
        self.parameters = {
            name: torch.stack([_initial(shape, g) for g in generators]).to(self.device).requires_grad_()
            for name, shape in shapes.items()
        }

    @property
    def n_parameters(self) -> int:
        """Parameters of one seed."""
        return sum(value[0].numel() for value in self.parameters.values())

    @property
    @abstractmethod
    def drops_out(self) -> bool:
        """Whether training draws dropout noise."""

    @abstractmethod
    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        """Tokens [B, T] (shared) or [S, B, T] (each seed its own) → logits [S, B, T, V]; causal, PAD-independent.

        A BOS begins a new string wherever it stands: nothing before it has any effect on what follows, so that a row may
        hold several strings. With a `tree` (only where `tree_saves` says so), tokens [1, M] are its nodes instead.
        """

    def tree_saves(self, nodes: int, tokens: int, positions: int) -> bool:
        """Whether reading a tree of so many nodes is exact, and cheaper than `tokens` in rows of so many positions."""
        return False

    @abstractmethod
    def prefill(self, tokens: Tensor, lengths: Tensor, room: int) -> tuple[Tensor, Any]:
        """Reads prompts [N, T] with BOS, `lengths` [N] symbols → log-probabilities [S, N, V] of the next token, and a cache
        with room for `room` more tokens."""

    @abstractmethod
    def advance(self, cache: Any, tokens: Tensor) -> Tensor:
        """One more token for every row, [S, N] → log-probabilities [S, N, V] of the one after it; the cache grows."""

    @abstractmethod
    def select(self, cache: Any, rows: Tensor) -> Any:
        """A new cache of the rows [M] of a cache, in that order; a row may be taken several times, or not at all."""

    def next_log_probs(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T], BOS first → next-symbol laws [S, N, T, V] float64, nats."""
        with torch.no_grad():
            return self.logits(tokens.to(self.device)).double().log_softmax(-1).cpu()

    def state(self) -> dict[str, Tensor]:
        """Named parameters [S, …], copied to the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self.parameters.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copies named parameters in; UsageError where names or shapes are not this model's."""
        copy_in(self.parameters, state)


def copy_in(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str = "the checkpoint") -> None:
    """Overwrites named tensors by those of a checkpoint (`what`); UsageError where names or shapes differ."""
    expected = {name: tuple(value.shape) for name, value in tensors.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))[0]
        raise UsageError(
            f"{what} does not fit the model: {wrong} has shape {found.get(wrong, 'missing')}, "
            f"expected {expected.get(wrong, 'no such parameter')}"
        )
    with torch.no_grad():
        for name, value in state.items():
            tensors[name].copy_(value)


def check_context(longest: float, context: int) -> None:
    """Raises UsageError where strings of `longest` symbols (infinite: of any length) do not fit so many positions."""
    if longest >= context:
        length = f"up to {longest:.0f} symbols" if math.isfinite(longest) else "any length"
        raise UsageError(
            f"strings (and prompts with their completions) of {length} do not fit a context of {context} positions "
            "(BOS included); raise `context`, shorten the completions, or set max_length in the language file"
        )


def _initial(shape: Shape, generator: torch.Generator) -> Tensor:
    if shape.start == "normal":
        return torch.empty(shape.size).normal_(0.0, shape.scale, generator=generator)
    if shape.start == "uniform":
        return torch.empty(shape.size).uniform_(-shape.scale, shape.scale, generator=generator)
    if shape.start == "steps":
        return torch.empty(shape.size).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp().expm1().log()
    if shape.start == "logarithms":
        return torch.arange(1.0, shape.size[-1] + 1).log().expand(shape.size)
    if shape.start == "lasting":
        return torch.linspace(3.0, 6.0, shape.size[-1]).expand(shape.size)
    return torch.full(shape.size, 1.0 if shape.start == "ones" else 0.0)


def drop(x: Tensor, rate: float, dropout: Dropout | None) -> Tensor:
    """Inverted dropout on x [S, B, …] with each seed's own noise; the identity without noise or at rate 0."""
    if dropout is None or rate == 0.0:
        return x
    keep = torch.ones(x.shape, dtype=torch.bool, device=x.device)
    for s, (generator, rows) in enumerate(dropout):
        keep[s, :rows] = torch.rand((rows, *x.shape[2:]), generator=generator, device=x.device) >= rate
    return x * keep / (1 - rate)
