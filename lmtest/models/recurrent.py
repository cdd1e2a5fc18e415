"""What all recurrent models share: a state of fixed size, read token by token; decoding and forking work on the state."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtest.models.layers import embed, linear, per_seed, places
from lmtest.models.stack import Dropout, StackedModel, Tree

State = dict[str, Tensor]
"""Named tensors [S, N, …]: everything that a model remembers of N rows."""


@dataclass
class StateCache:
    """The state after what each row has read."""

    state: State


class Recurrent(StackedModel):
    """A model that is a function of (state, token); `logits` reads whole strings at once and must agree with it."""

    @abstractmethod
    def initial(self, rows: int) -> State:
        """The state before a BOS, for `rows` rows."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token for every row, [S, N], none a BOS behind others → logits [S, N, V] of the next one, and the new state.

        The old state is left as it is.
        """

    def prefill(self, tokens: Tensor, lengths: Tensor, room: int) -> tuple[Tensor, StateCache]:
        tokens, lengths = per_seed(tokens.to(self.device), len(self.seeds)), lengths.to(self.device)
        n, t = tokens.shape[1:]
        like = next(iter(self.parameters.values())).detach()  # a model in double precision has its state so too
        state = {name: value.to(like) for name, value in self.initial(n).items()}
        last = like.new_empty(len(self.seeds), n, self.vocabulary.n_outputs)
        with torch.no_grad():
            for i in range(t):
                logits, after = self.step(tokens[:, :, i], state)
                reading = lengths >= i  # [N]; a row whose end is behind it keeps its state
                state = {name: torch.where(_over(reading, old), after[name], old) for name, old in state.items()}
                last = torch.where((lengths == i)[:, None], logits, last)
        return last.double().log_softmax(-1).cpu(), StateCache(state)

    def advance(self, cache: StateCache, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            logits, cache.state = self.step(tokens.to(self.device), cache.state)
        return logits.double().log_softmax(-1).cpu()

    def select(self, cache: StateCache, rows: Tensor) -> StateCache:
        return StateCache({name: value[:, rows.to(value.device)] for name, value in cache.state.items()})


class Blocks(Recurrent):
    """Embedding, residual blocks, a norm and the output head: what is left to say is a block, its state, and the norm."""

    n_blocks: int

    @abstractmethod
    def block(self, i: int, x: Tensor, place: Tensor | None, state: State | None) -> Tensor:
        """x [S, B, T, D] → the same behind block i. `place` [S, B, T]: each token's place in its string, None where every row
        is one string; where there is a `state`, T = 1 and the block's part of it is renewed."""

    @abstractmethod
    def normalise(self, x: Tensor) -> Tensor:
        """The norm before the output head, on x [S, …, D]."""

    @property
    def drops_out(self) -> bool:
        return False

    def logits(self, tokens: Tensor, dropout: Dropout | None = None, tree: Tree | None = None) -> Tensor:
        tokens = per_seed(tokens, len(self.seeds))
        place = places(tokens, self.vocabulary.bos)
        x = embed(self.parameters, "embedding", tokens)  # [S, B, T, D]
        for i in range(self.n_blocks):
            x = self.block(i, x, place, None)
        return linear(self.parameters, "output", self.normalise(x))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        x, after = embed(self.parameters, "embedding", tokens)[:, :, None], dict(state)  # [S, N, 1, D]
        for i in range(self.n_blocks):
            x = self.block(i, x, None, after)
        return linear(self.parameters, "output", self.normalise(x))[:, :, 0], after


def _over(rows: Tensor, value: Tensor) -> Tensor:
    """A flag of each row [N] against a state [S, N, …]."""
    return rows.view(1, -1, *[1] * (value.dim() - 2))
