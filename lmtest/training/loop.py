"""The training loop: a stack of seeds, one objective, fixed steps or a stop by certificate; resumes to the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lmtest.errors import Interrupted, UsageError
from lmtest.languages.base import Language, Row, Support
from lmtest.models.stack import Dropout, Noise, StackedModel
from lmtest.seeds import generator, torch_generator
from lmtest.training import checkpoint
from lmtest.training.batches import Batch, Strings, completions, cross_entropy, packed_batch, tree_batch, whole
from lmtest.training.draws import Draws
from lmtest.training.objectives import MaximumLikelihood, Objective
from lmtest.validation import Table

SAVE_SECONDS = 30.0


class TrainingConfig(Table):
    """The `[training]` table of a study."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["one_cycle", "inverse_sqrt", "constant"] = "one_cycle"
    warmup: int = Field(1000, ge=0)
    """Steps of linear warm-up under inverse_sqrt; one_cycle warms up over the first 30 %."""
    weight_decay: float = Field(0.01, ge=0)
    beta2: float = Field(0.999, gt=0, lt=1)
    """AdamW's memory of squared gradients: near the floor they fall fast, and a long memory makes the loss spike."""
    batch: Literal["support"] | Annotated[int, Field(ge=1)] = "support"
    """"support": every string of the language with its exact weight; a number: so many fresh strings a step."""
    targets: Literal["sampled", "law"] = "sampled"
    """What a fresh string's positions are trained on: the symbol that did come next, or the exact next-symbol law, which
    has the same loss in expectation and none of its noise (the whole support always has its exact weights)."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm, of each seed for itself; inf: no clipping."""
    stack: int = Field(4, ge=1)
    """Seeds that train as one model; fixed by the study, so that the number of jobs cannot change a bit."""
    probe_every: int = Field(100, ge=1)
    stop_below: float | None = Field(None, gt=0)
    """A seed stops as soon as its certificate's upper end (on draws of its own) is below so many nats per string."""

    def check(self, language: Language) -> None:
        """Raises UsageError where the language cannot be trained on so."""
        if self.batch == "support" and language.support() is None:
            raise UsageError(
                f'batch = "support" needs a language whose strings can be listed; {language.name} has too many: '
                "give a number of fresh strings per step, such as batch = 128"
            )


Probe = Callable[[StackedModel, int], list[dict[str, Any]]]
Stop = Callable[[StackedModel, int], Tensor]
Report = Callable[[int, float], None]


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of update number `step` (from 0): a pure function, so nothing of it needs to be saved."""
    peak = config.learning_rate
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        warmup = max(config.warmup, 1)
        return peak * min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))
    # One cycle (Smith & Topin 2019): cosine up from 1/25 of the peak over 30 %, then down to almost nothing.
    top = max(1.0, 0.3 * config.steps)
    if step < top:
        return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / top)) / 2
    return peak * (1e-5 + (1 + math.cos(math.pi * min(1.0, (step - top) / max(1.0, config.steps - top)))) / 2)


def train(
    model: StackedModel,
    language: Language,
    objective: Objective,
    prompts: Sequence[tuple[int, ...]],
    config: TrainingConfig,
    path: Path,
    identity: Mapping[str, Any],
    *,
    probe: Probe = lambda model, step: [],
    probe_at: Collection[int] = (),
    stop: Stop | None = None,
    report: Report = lambda step, excess: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> checkpoint.Progress:
    """Trains `model` in place from its checkpoint at `path` (if there is one) to the end, and saves it there.

    `prompts` are those that the objective may show; `probe` is called every `probe_every` steps, at the end, and at the
    steps `probe_at`; `report(step, excess nats per string)` is called at every step.
    Raises Interrupted after saving where `interrupted()` turns true, UsageError on a checkpoint that does not fit.
    """
    steps = Steps(model, language, objective, prompts, config)
    progress = checkpoint.Progress()
    if path.exists():
        progress, parameters, state = checkpoint.load(path, identity)
        model.load_state(parameters)
        steps.load_state(state)
    last_save = time.monotonic()
    while not progress.finished:
        regular = progress.step % config.probe_every == 0 or progress.step == config.steps
        if regular or progress.step in probe_at:
            progress.probes += probe(model, progress.step)
            if stop is not None and progress.step and regular:
                for row in stop(model, progress.step).nonzero().flatten().tolist():
                    progress.stopped.setdefault(row, progress.step)
        if progress.step == config.steps or len(progress.stopped) == len(model.seeds):
            progress.finished = True
            checkpoint.save(path, identity, progress, model.state(), {})
            return progress
        excess = steps.update(progress.step, sorted(progress.stopped))
        progress.step += 1
        report(progress.step, excess)
        leaving = interrupted()
        if leaving or time.monotonic() - last_save > SAVE_SECONDS:
            checkpoint.save(path, identity, progress, model.state(), steps.state())
            last_save = time.monotonic()
        if leaving:
            raise Interrupted(f"stopped at step {progress.step}; {path} is saved")
    return progress


class Steps:
    """One update after the other: batches, loss, clipping, AdamW."""

    def __init__(
        self,
        model: StackedModel,
        language: Language,
        objective: Objective,
        prompts: Sequence[tuple[int, ...]],
        config: TrainingConfig,
    ) -> None:
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
        self.parameters = list(model.parameters.values())
        self.adam = torch.optim.AdamW(
            self.parameters, lr=1.0, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True
        )

    def update(self, step: int, stopped: Sequence[int]) -> float:
        """One step of every seed but the `stopped` ones; returns the excess of the loss over the floor, nats per string."""
        kept = [parameter.detach()[stopped].clone() for parameter in self.parameters] if stopped else []
        batch = self.support or self._fresh(step)
        dropout = self._dropout(step, batch)
        per_string = cross_entropy(self.model.logits(batch.tokens, dropout, batch.tree), batch)  # [S], nats
        loss = per_string / self.tokens  # per token: the same size whatever the language
        if self.shown is not None:
            assert not isinstance(self.objective, MaximumLikelihood)
            shown = self._prompts(step, self.shown, self.objective.batch)
            more = [
                Noise(noise.generator, rows) for noise, rows in zip(dropout, shown.rows_of(len(dropout)), strict=True)
            ]
            loss = loss + self.objective.weight * cross_entropy(self.model.logits(shown.tokens, more), shown)
        self.adam.zero_grad(set_to_none=True)
        loss.sum().backward()  # seeds share nothing, so the gradient of the sum is each seed's own
        self._clip()
        self.adam.param_groups[0]["lr"] = learning_rate(self.config, step)
        self.adam.step()
        with torch.no_grad():
            for parameter, old in zip(self.parameters, kept, strict=False):
                parameter[stopped] = old
        return float(per_string.detach().mean()) - self.floor

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
        exact = self.config.targets == "law"
        groups = [whole(rows, [1 / n] * n, self.draws.laws(rows) if exact else None) for rows in draws]
        return self._packed(groups, self.language.longest)

    def _prompts(self, step: int, shown: Sequence[tuple[Row, Row]], batch: int) -> Batch:
        n = min(batch, len(shown))
        picks = [generator(seed, "order", step).choice(len(shown), n, replace=False) for seed in self.model.seeds]
        groups = [completions(*zip(*(shown[i] for i in pick), strict=True)) for pick in picks]
        return self._packed(groups, max(len(prompt) + len(ending) for prompt, ending in shown))

    def _packed(self, groups: Sequence[Strings], longest: float) -> Batch:
        # A width that depends on the other seeds would shift this seed's dropout.
        fixed = int(longest) + 1 if self.model.drops_out and math.isfinite(longest) else None
        return packed_batch(self.language.vocabulary, groups, fixed).to(self.model.device)

    def _dropout(self, step: int, batch: Batch) -> Dropout:
        seeds = self.model.seeds
        generators = [torch_generator(seed, "dropout", step, device=self.model.device) for seed in seeds]
        return [Noise(g, rows) for g, rows in zip(generators, batch.rows_of(len(seeds)), strict=True)]

    def _clip(self) -> None:
        if math.isinf(self.config.clip):
            return
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)  # [S]
        factors = (self.config.clip / (norms + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factors.view(-1, *[1] * (grad.dim() - 1)))

    def state(self) -> dict[str, Tensor]:
        """Adam's moments by parameter name."""
        moments = {}
        for name, parameter in self.model.parameters.items():
            for key, value in self.adam.state[parameter].items():
                moments[f"{key}.{name}"] = value.detach().cpu().contiguous()
        return moments

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.model.parameters.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := state.get(f"{key}.{name}")) is not None:
                    self.adam.state[parameter][key] = value.to(parameter.device, copy=True)
