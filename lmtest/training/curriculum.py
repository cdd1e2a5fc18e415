"""What a step is trained on: the strings of the language, and the completions that an objective shows beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row, Support
from lmtest.models.stack import StackedModel
from lmtest.seeds import generator
from lmtest.training.batches import Batch, Strings, completions, packed_batch, tree_batch, whole
from lmtest.training.config import TrainingConfig
from lmtest.training.draws import Draws
from lmtest.training.objectives import MaximumLikelihood, Objective


class Lesson(NamedTuple):
    """A batch, and what its cross-entropy is divided by in the loss of every seed."""

    batch: Batch
    divisor: float


class Curriculum(Protocol):
    """What a training loop asks for; a pure function of the step, so that nothing of it needs to be saved."""

    @property
    def floor(self) -> float:
        """What the first lesson's cross-entropy cannot fall below, nats per string; 0 where that is not known."""

    def lessons(self, step: int) -> list[Lesson]:
        """The lessons of update number `step` (from 0), the language's own first."""


class LanguageCurriculum:
    """Maximum likelihood on the language, and what the objective shows beside it."""

    def __init__(
        self,
        model: StackedModel,
        language: Language,
        objective: Objective,
        prompts: Sequence[Row],
        config: TrainingConfig,
        before: int = 0,
    ) -> None:
        """`prompts` are those that the objective may show; `before`: steps that came before the first one, whose strings are
        not to come again. UsageError where the language has no mean length, or does not fit."""
        self.before = before
        self.model, self.language, self.objective, self.config = model, language, objective, config
        self.floor = 0.0 if (exact := language.exact_entropy()) is None else exact
        self.draws = Draws(language)
        # A constant: the length of a step's own strings would weigh long ones less, and move the optimum off the law.
        self.tokens = language.mean_length() + 1
        if math.isinf(self.tokens):
            raise UsageError(
                f"{language.name} has no mean length, so it has no loss per string: set max_length in its file"
            )
        self.support: Batch | None = None
        config.check(language)
        if config.batch == "support" and (support := language.support()) is not None:
            self.support = self._whole(support).to(model.device)
        targets = objective.targets(language, prompts)
        self.shown = None if targets is None else list(zip(prompts, targets, strict=True))

    def lessons(self, step: int) -> list[Lesson]:
        step += self.before
        # Per token: the same size whatever the language.
        lessons = [Lesson(self.support or self._fresh(step), self.tokens)]
        if self.shown is not None:
            assert not isinstance(self.objective, MaximumLikelihood)
            shown = self._prompts(step, self.shown, self.objective.batch)
            lessons.append(Lesson(shown, 1 / self.objective.weight))
        return lessons

    def _whole(self, support: Support) -> Batch:
        """The support as a prefix tree where the model can read one and it saves work, else as packed strings."""
        strings = packed_batch(self.language.vocabulary, [whole(support.rows, support.log_probs.exp().tolist())])
        nodes = len({row[:t] for row in support.rows for t in range(len(row) + 1)})
        saves = self.model.tree_saves(nodes, strings.tokens.numel(), strings.tokens.shape[-1])
        return tree_batch(self.language, support) if saves else strings

    def _fresh(self, step: int) -> Batch:
        assert isinstance(self.config.batch, int)
        n = self.config.batch
        draws = [self.draws.rows(n, seed, step) for seed in self.model.seeds]
        if self.config.targets == "law":
            laws = [self.draws.laws_at(n, seed, step) for seed in self.model.seeds]
            groups = [whole(rows, [1 / n] * n, law) for rows, law in zip(draws, laws, strict=True)]
        else:
            groups = [whole(rows, [1 / n] * n) for rows in draws]
        return packed(self.model, groups, self.language.longest)

    def _prompts(self, step: int, shown: Sequence[tuple[Row, Row]], batch: int) -> Batch:
        n = min(batch, len(shown))
        picks = [generator(seed, "order", step).choice(len(shown), n, replace=False) for seed in self.model.seeds]
        groups = [completions(*zip(*(shown[i] for i in pick), strict=True)) for pick in picks]
        return packed(self.model, groups, max(len(prompt) + len(ending) for prompt, ending in shown))


def packed(model: StackedModel, groups: Sequence[Strings], longest: float) -> Batch:
    """The strings of each seed in rows, where the model is; `longest`: symbols of the longest string that there can be."""
    # A width that depends on the other seeds would shift this seed's dropout.
    fixed = int(longest) + 1 if model.drops_out and math.isfinite(longest) else None
    return packed_batch(model.vocabulary, groups, fixed).to(model.device)
