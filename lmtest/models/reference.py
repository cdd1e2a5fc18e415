"""Reference models: laws that are declared rather than learned, so that an evaluator can be judged by them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

import torch

from lmtest.languages.base import Language
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.automata import MOST_SYMBOLS
from lmtest.models.contract import LanguageModel
from lmtest.models.ngram import NGram
from lmtest.models.normative import Normative

SEARCH_LENGTH = 1000
"""The rule keeper looks for completions of at most so many symbols, …"""
SEARCH_STATES = 20_000
"""… and gives up on a set of rules after so many joint states: some sets can only be had in an infinite search."""

_Joint = tuple[Hashable, ...]
"""The states of all rules together."""


class Uniform:
    """Every symbol and EOS with the same probability, whatever came before."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T] → [1, N, T, V] float64, nats."""
        size = self.vocabulary.n_outputs
        return torch.full((1, *tokens.shape, size), -math.log(size), dtype=torch.float64, device=tokens.device)


class StopAtOnce:
    """EOS with probability 1, whatever came before."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T] → [1, N, T, V] float64, nats."""
        eos = torch.full_like(tokens, self.vocabulary.eos)
        return _certain(eos, self.vocabulary.n_outputs)[None]


class RuleKeeper:
    """The language's own law on live prefixes; on impossible ones, the shortest completion that keeps the rules.

    It sits exactly at the floor of the loss, so it is the witness that the loss does not decide rule extrapolation. On
    an impossible prefix the next token of that completion has probability 1: the shortest after which every rule that
    can still hold does hold (ties: first symbol in vocabulary order; EOS where all of them hold already). Where those
    rules cannot be had together, it keeps as many as it can, and of equally many the ones declared first.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        self.rules = list(language.rules.values())
        self._plan: dict[_Joint, int] = {}
        self._step = lru_cache(maxsize=1_000_000)(self._advance)

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T], BOS first → [1, N, T, V] float64, nats; EOS for certain from an EOS or PAD on."""
        law = self.language.next_log_probs(tokens)[0]
        dead = law.isnan().any(-1)
        choices = torch.full_like(tokens, self.language.vocabulary.eos)
        for i in dead.any(-1).nonzero().flatten().tolist():
            choices[i] = torch.tensor(self._choices(tokens[i].tolist(), dead[i].tolist()))
        kept = _certain(choices, self.language.vocabulary.n_outputs).to(law)
        return torch.where(dead[..., None], kept, law)[None]

    def _choices(self, tokens: Sequence[int], dead: Sequence[bool]) -> list[int]:
        """The next token at each dead position of one row; EOS elsewhere, where nobody reads it."""
        eos = self.language.vocabulary.eos
        joint = self._prune([rule.start() for rule in self.rules])
        choices: list[int] = []
        for t, token in enumerate(tokens):
            if t and token >= eos:
                return choices + [eos] * (len(tokens) - t)
            if t:
                joint = self._step(joint, token)
            choices.append(self._next(joint) if dead[t] else eos)
        return choices

    def _next(self, joint: _Joint) -> int:
        if joint not in self._plan:
            ahead = joint
            for symbol in self._completion(joint):
                # The rest of a best completion is a best completion: so the whole way is settled at once.
                self._plan.setdefault(ahead, symbol)
                ahead = self._step(ahead, symbol)
            self._plan.setdefault(ahead, self.language.vocabulary.eos)
        return self._plan[joint]

    def _completion(self, joint: _Joint) -> list[int]:
        alive = [i for i, state in enumerate(joint) if state is not None]
        for size in range(len(alive), 0, -1):
            for chosen in itertools.combinations(alive, size):
                found = self._search(chosen, joint)
                if found is not None:
                    return found
        return []

    def _search(self, chosen: Sequence[int], joint: _Joint) -> list[int] | None:
        """Breadth first: the first of the shortest completions after which the chosen rules hold, if one is found."""
        rules = [self.rules[i] for i in chosen]
        start = tuple(joint[i] for i in chosen)
        came_from: dict[_Joint, tuple[_Joint, int] | None] = {start: None}
        level = [start]
        for _ in range(SEARCH_LENGTH + 1):
            longer = []
            for states in level:
                if all(rule.accepts(state) for rule, state in zip(rules, states, strict=True)):
                    return _way(came_from, states)
                for symbol in range(len(self.language.symbols)):
                    after = tuple(rule.step(state, symbol) for rule, state in zip(rules, states, strict=True))
                    alive = all(rule.alive(state) for rule, state in zip(rules, after, strict=True))
                    if alive and after not in came_from:
                        came_from[after] = (states, symbol)
                        longer.append(after)
            level = longer
            if not level or len(came_from) > SEARCH_STATES:
                return None
        return None

    def _advance(self, joint: _Joint, symbol: int) -> _Joint:
        stepped = [None if s is None else rule.step(s, symbol) for rule, s in zip(self.rules, joint, strict=True)]
        return self._prune(stepped)

    def _prune(self, states: Sequence[Hashable]) -> _Joint:
        """Rules that are broken beyond repair no longer matter: their state becomes None."""
        pairs = zip(self.rules, states, strict=True)
        return tuple(state if state is not None and rule.alive(state) else None for rule, state in pairs)


def has_normative(language: Language) -> bool:
    """Whether the normative predictor can be had: for few symbols, and a mean length."""
    return len(language.symbols) <= MOST_SYMBOLS and math.isfinite(language.mean_length())


def reference_models(language: Language) -> dict[str, LanguageModel]:
    """The reference models of a language by name.

    The rule keeper only where there are rules to keep, the n-gram where its counts are known exactly, the normative
    predictor for at most MOST_SYMBOLS symbols and a finite mean length.
    """
    models: dict[str, LanguageModel] = {
        "language": language,
        "uniform": Uniform(language.vocabulary),
        "stop": StopAtOnce(language.vocabulary),
    }
    if language.rules:
        models["rule_keeper"] = RuleKeeper(language)
    return models | _fitted(language)


@lru_cache(maxsize=8)
def _fitted(language: Language) -> dict[str, LanguageModel]:
    """Those that take a while to fit, once for each language object."""
    models: dict[str, LanguageModel] = {}
    if (ngram := NGram.fit(language)) is not None:
        models["ngram"] = ngram
    if has_normative(language):
        models["normative"] = Normative.fit(language)
    return models


def _way(came_from: Mapping[_Joint, tuple[_Joint, int] | None], states: _Joint) -> list[int]:
    symbols = []
    while (step := came_from[states]) is not None:
        states, symbol = step
        symbols.append(symbol)
    return symbols[::-1]


def _certain(choices: torch.Tensor, size: int) -> torch.Tensor:
    """Outputs [N, T] → log-probabilities [N, T, size] that put all mass on them."""
    log_probs = torch.full((*choices.shape, size), -math.inf, dtype=torch.float64, device=choices.device)
    return log_probs.scatter_(-1, choices[..., None], 0.0)
