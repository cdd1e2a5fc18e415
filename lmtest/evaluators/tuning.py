"""Fine-tuning: a copy of a stack learns a task, some or all of its parameters at one constant learning rate.

Everything that could tell two models of one function apart but is no part of the task is left out: no clipping of gradients
(a norm over all parameters would tie copies of a neuron to each other), no weight decay, no dropout, no schedule, and a new
output layer starts at zero, so that it is the same in models of every width.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lmtest.evaluators.downstream import NOTHING, Examples, Protocol
from lmtest.models.layers import linear
from lmtest.models.stack import StackedModel, Tree
from lmtest.models.transformer import Transformer
from lmtest.training.batches import Batch, cross_entropy
from lmtest.training.optimizers import AdamW

ROWS = 512
"""Strings whose hidden states are computed at once: bounds the memory."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Learner:
    """A model under fine-tuning: `model` and `head` are copies of its own, `trained` those of their tensors that change.

    Without a `head` the model's own output layer answers. With one, a batch's `tokens` may be hidden states [S, B, T, D].
    """

    model: StackedModel
    head: dict[str, Tensor] | None
    trained: list[Tensor]

    def logits(self, batch: Batch) -> Tensor:
        """Answers [S, B, T, outputs]."""
        if self.head is None:
            return self.model.logits(batch.tokens, None, batch.tree)
        hidden = batch.tokens if batch.tokens.is_floating_point() else _hidden(self.model, batch)
        return linear(self.head, "head", hidden)


def learner(model: StackedModel, protocol: Protocol, outputs: int | None) -> Learner:
    """A copy of a stack, about to learn a task: with the outputs it has (None), or with `outputs` new ones (a transformer).

    A probe has new outputs in any case: as many as the model's own where None is said. What a model holds is not trained.
    """
    copied = copy.copy(model)
    free = [name for name in model.parameters if name not in model.held]
    names = set() if protocol == "probe" else set(trained_names(free, protocol))
    copied.parameters = {
        name: value.detach().clone().requires_grad_(name in names) for name, value in model.parameters.items()
    }
    trained = [copied.parameters[name] for name in model.parameters if name in names]
    if outputs is None and protocol != "probe":
        return Learner(copied, None, trained)
    assert isinstance(model, Transformer)
    n = model.vocabulary.n_outputs if outputs is None else outputs
    like, s = model.parameters["embedding"].detach(), len(model.seeds)
    head = {
        "head.weight": like.new_zeros(s, model.config.width, n).requires_grad_(),
        "head.bias": like.new_zeros(s, n).requires_grad_(),
    }
    return Learner(copied, head, [*trained, *head.values()])


def trained_names(names: Sequence[str], protocol: Protocol) -> list[str]:
    """The parameters of a model that are trained: all, or those of the last layer and of what stands behind the layers."""
    if protocol == "full":
        return [*names]
    of = {name: int(match[1]) if (match := re.match(r"(?:layers|blocks)\.(\d+)\.", name)) else -1 for name in names}
    # A layer of which only norms are trained is none: in post-norm the last norm moves behind layers of zeros.
    last = max((layer for name, layer in of.items() if "norm" not in name), default=-1)
    return [
        name for name, layer in of.items() if (layer >= last or layer == -1) and name not in ("embedding", "positions")
    ]


def tune(
    pupil: Learner,
    lesson: Callable[[int], Batch],
    rate: float,
    steps: int,
    at: Collection[int],
    examine: Callable[[Learner, int], Found],
) -> dict[int, Found]:
    """Trains in place by AdamW: what `examine` says at the steps `at`, the last of `steps` included, by step.

    `lesson(step)`: what update number `step` (from 0) is trained on; each seed follows its own gradient, in nats per string.
    """
    adam = AdamW(pupil.trained)
    found = {}
    for step in range(steps + 1):
        if step in at or step == steps:
            with torch.no_grad():
                found[step] = examine(pupil, step)
        if step < steps:
            batch = lesson(step)
            cross_entropy(pupil.logits(batch), batch).sum().backward()
            adam.step(rate)
    return found


def read_batch(model: Transformer, batch: Batch) -> Batch:
    """The batch with the hidden states of a model that stays as it is, [S, B, T, D], in the place of its tokens.

    Where each string is asked one thing alone, only what stands there is kept (T = 1).
    """
    at = _asked_once(batch.weights.sum(-1) > 0)
    hidden = _hidden_states(model, batch.tokens, batch.tree, at)
    if at is None:
        return Batch(hidden, batch.weights, batch.tree)
    return Batch(hidden, batch.weights.gather(-2, at[..., None, None].expand(*at.shape, 1, batch.weights.shape[-1])))


def read_examples(model: Transformer, examples: Examples) -> Examples:
    """The same of strings to train on."""
    at = _asked_once(examples.targets != NOTHING)
    hidden = _hidden_states(model, examples.inputs, None, at)
    targets = examples.targets if at is None else examples.targets.gather(-1, at[..., None])
    return Examples(hidden, targets, examples.outputs, examples.same)


def _asked_once(asked: Tensor) -> Tensor | None:
    """Where something is asked, bool [..., T] → the place of the one thing that is, [...]; None where there are more."""
    return asked.int().argmax(-1) if bool((asked.sum(-1) == 1).all()) else None


def _hidden_states(model: Transformer, tokens: Tensor, tree: Tree | None, at: Tensor | None) -> Tensor:
    """Tokens [N, T] or [S, N, T] → [S, N, T, D], or [S, N, 1, D] at places [N] or [S, N]; ROWS strings at a time."""
    parts = []
    with torch.no_grad():
        for start in range(0, tokens.shape[-2], ROWS):
            hidden = model.hidden(tokens[..., start : start + ROWS, :], tree)
            if at is not None:
                places = at[..., start : start + ROWS, None, None].expand(*hidden.shape[:2], 1, hidden.shape[-1])
                hidden = hidden.gather(2, places)
            parts.append(hidden)
    return torch.cat(parts, 1)


def _hidden(model: StackedModel, batch: Batch) -> Tensor:
    assert isinstance(model, Transformer)
    return model.hidden(batch.tokens, batch.tree)
