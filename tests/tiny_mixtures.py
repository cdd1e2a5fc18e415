"""Mixtures of HMMs so small that every document can be listed, and their masses by plain loops over states."""

from typing import Any

from lmtest.languages.hmm import Mixture
from lmtest.languages.hmm_construction import Construction
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.validation import validate

Word = tuple[int, ...]

SHARED: dict[str, Any] = {
    "concepts": 2,
    "properties": 2,
    "entities": 1,
    "vocabulary": 3,
    "memory": "distinct",
    "delimiter": {"law": "shared", "probability": 0.2},
    "transitions": {"law": "smoothed_permutation", "smoothing": 0.6},
    "entity_transitions": {"law": "uniform"},
    "entity_inertia": 0.9,
    "start": {"law": "delimiter"},
    "seed": 0,
}
"""Two symbols beside the delimiter, which every state emits with probability 0.2."""

OWN: dict[str, Any] = SHARED | {
    "properties": 3,
    "entities": 2,
    "memory": "uniform",
    "delimiter": {"law": "own"},
    "transitions": {"law": "permutation_mixture", "permutations": 20, "temperature": 0.3},
    "entity_transitions": {"law": "smoothed_permutation", "smoothing": 0.5},
    "start": {"law": "softmax", "temperature": 0.5},
    "seed": 3,
}
"""GINC in small: each concept has transitions of its own to the delimiter, and states share their symbols."""


def tiny(length: int, base: dict[str, Any] = SHARED, **changes: Any) -> HmmMixture:
    """A mixture whose documents have so many symbols."""
    return HmmMixture(validate(Construction, base | changes, "tiny"), length, name="tiny", title="tiny")


def prefix_masses(mixture: Mixture, length: int) -> dict[Word, float]:
    """P(prefix) of every prefix of up to so many symbols that has mass, summed over concepts and paths of states."""
    concepts, entities, properties = mixture.shape
    memory, moves, jumps = mixture.memory.tolist(), mixture.entities.tolist(), mixture.properties.tolist()
    states = [(c, v, s) for c in range(concepts) for v in range(entities) for s in range(properties)]
    live = {((), *state): float(mixture.weights[state[0]] * mixture.start[state]) for state in states}
    masses: dict[Word, float] = {(): 1.0}
    for _ in range(length):
        longer: dict[Any, float] = {}
        for (word, c, v, s), mass in live.items():
            seen = (*word, memory[v][s])
            masses[seen] = masses.get(seen, 0.0) + mass
            for w in range(entities):
                for r in range(properties):
                    p = mass * moves[v][w] * jumps[c][s][r]
                    if p > 0:
                        longer[seen, c, w, r] = longer.get((seen, c, w, r), 0.0) + p
        live = longer
    return {word: mass for word, mass in masses.items() if mass > 0}
