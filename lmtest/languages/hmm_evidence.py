"""Where the delimiters of a document stand: how likely that is under a mixture of HMMs, and documents drawn given it.

Evidence is an int array [T] with one entry a position. Backward messages say how well each state agrees with all that
is still to come (Rabiner, Proc. IEEE 77, 1989, section III); they are kept at maximum 1 with the logarithm of their
scale beside them, so nothing underflows. With them a draw walks forwards and never has to be thrown away.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.hmm import DELIMITER, Mixture, pick, read

ANY, IS_DELIMITER, NO_DELIMITER = 0, 1, 2
"""What may be known of a position."""

MOST_LISTED = 20_000
"""Strings that agree with the evidence: so many are summed over one by one, beyond that they are drawn."""


def log_probability(mixture: Mixture, evidence: np.ndarray) -> float:
    """ln P(the first T symbols agree with the evidence [T]), nats, exact; −inf where none does.

    O(T·C·(V·S² + V²·S)) time. Raises UsageError on evidence that is none.
    """
    return float(_backward(mixture, evidence)[1].logsumexp(0))


def sample_given(mixture: Mixture, evidence: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """Symbol ids [count, T], independent draws from the law of the first T symbols given the evidence [T], exactly.

    Raises UsageError where the evidence has probability 0, and on evidence that is none.
    """
    messages, log_mass = _backward(mixture, evidence)
    if float(log_mass.max()) == -math.inf:
        raise UsageError(
            "cannot draw: no document has its delimiters where the evidence wants them; "
            "expected evidence of positive probability (see log_probability)"
        )
    concepts = pick(np.tile(log_mass.softmax(0).cumsum(0).numpy(), (count, 1)), rng)
    entity_moves, property_moves = mixture.entities.numpy(), mixture.properties.numpy()
    _, _, n_properties = mixture.shape
    laws = mixture.start.numpy()[concepts]  # [count, V, S]: of the state, before the evidence
    columns = []
    for message in messages.numpy():
        state = pick((laws * message[concepts]).reshape(count, -1).cumsum(1), rng)
        entities, properties = state // n_properties, state % n_properties
        columns.append(mixture.memory.numpy()[entities, properties])
        laws = entity_moves[entities][:, :, None] * property_moves[concepts, properties][:, None, :]
    return torch.from_numpy(np.stack(columns, 1))


def list_given(mixture: Mixture, evidence: np.ndarray) -> tuple[Tensor, Tensor] | None:
    """All strings of T symbols that agree with the evidence and have mass: ids [N, T], ln P [N]; None beyond MOST_LISTED.

    Raises UsageError on evidence that is none.
    """
    others = [symbol for symbol in range(mixture.n_symbols) if symbol != DELIMITER]
    choices = {ANY: [DELIMITER, *others], IS_DELIMITER: [DELIMITER], NO_DELIMITER: others}
    options = [choices[code] for code in _codes(evidence)]
    if math.prod(map(len, options)) > MOST_LISTED:
        return None
    symbols = torch.tensor(list(itertools.product(*options)), dtype=torch.int64).view(-1, len(options))
    log_probs = read(mixture, symbols, every=False).log_mass[:, 0]
    return symbols[log_probs > -math.inf], log_probs[log_probs > -math.inf]


def _backward(mixture: Mixture, evidence: np.ndarray) -> tuple[Tensor, Tensor]:
    """Messages [T, C, V, S] ∝ P(evidence from t on | state at t, concept), and ln P(evidence, concept) [C]."""
    delimiter = mixture.memory == DELIMITER
    agrees = {ANY: torch.ones_like(delimiter), IS_DELIMITER: delimiter, NO_DELIMITER: ~delimiter}
    messages: list[Tensor] = []
    ahead = torch.ones_like(mixture.start)
    log_scale = torch.zeros_like(mixture.weights)
    for code in reversed(_codes(evidence)):
        message = agrees[code] * ahead
        top = message.amax((-1, -2))
        scale = torch.where(top > 0, top, 1.0)  # a concept that cannot agree keeps messages of 0
        messages.append(message / scale[:, None, None])
        log_scale = log_scale + scale.log()
        ahead = mixture.entities @ messages[-1] @ mixture.properties.mT
    messages.reverse()
    first = (mixture.start * messages[0]).sum((-1, -2))
    return torch.stack(messages), mixture.weights.log() + log_scale + first.log()


def _codes(evidence: np.ndarray) -> list[int]:
    codes: list[int] = np.asarray(evidence).tolist()
    if np.ndim(evidence) != 1 or not codes or not {*codes} <= {ANY, IS_DELIMITER, NO_DELIMITER}:
        raise UsageError(
            f"expected evidence on at least one position, each {ANY} (any symbol), {IS_DELIMITER} (the delimiter) or "
            f"{NO_DELIMITER} (any other), found {codes}"
        )
    return codes


__all__ = [
    "ANY",
    "IS_DELIMITER",
    "MOST_LISTED",
    "NO_DELIMITER",
    "list_given",
    "log_probability",
    "sample_given",
]
