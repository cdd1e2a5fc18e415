"""The training loop: a stack of seeds, one curriculum, fixed steps or a stop by certificate; resumes to the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmtest.errors import Interrupted, UsageError
from lmtest.models.stack import Noise, StackedModel, copy_in
from lmtest.seeds import torch_generator
from lmtest.training import checkpoint
from lmtest.training.batches import cross_entropy
from lmtest.training.config import TrainingConfig
from lmtest.training.curriculum import Curriculum
from lmtest.training.optimizers import SGD, AdamW, Optimizer

SAVE_SECONDS = 30.0

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
    curriculum: Curriculum,
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

    `probe` is called every `probe_every` steps, at the end, and at the steps `probe_at`; `report(step, excess nats per
    string)` is called at every step.
    Raises Interrupted after saving where `interrupted()` turns true, UsageError on a checkpoint that does not fit.
    """
    steps = Steps(model, curriculum, config)
    progress = checkpoint.Progress()
    if path.exists():
        progress, parameters, state = checkpoint.load(path, identity)
        _check_progress(progress, model.seeds, config.steps, path)
        model.load_state(parameters)
        if not progress.finished:
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


def _check_progress(progress: checkpoint.Progress, seeds: Sequence[int], steps: int, path: Path) -> None:
    """Raises UsageError where a checkpoint is further than its training goes, did not end where it says so, or is of others."""
    stopped, found = progress.stopped, f"step {progress.step} of {steps}"
    if progress.finished > (progress.step == steps or len(stopped) == len(seeds)) or progress.step > steps:
        found += ", finished" if progress.finished else ""
    elif wrong := [row for row, step in stopped.items() if row >= len(seeds) or step > progress.step]:
        found += f", row {wrong[0]} of {len(seeds)} stopped at step {stopped[wrong[0]]}"
    elif strange := {row["seed"] for row in progress.probes} - {*seeds}:
        found += f", a probe of seed {min(strange)}, which is not there"
    else:
        return
    raise UsageError(f"the checkpoint {path} is damaged ({found}); delete it, and --resume trains this part again")


class Steps:
    """One update after the other: lessons, loss, clipping, optimiser."""

    def __init__(self, model: StackedModel, curriculum: Curriculum, config: TrainingConfig) -> None:
        self.model, self.curriculum, self.config = model, curriculum, config
        self.parameters = list(model.parameters.values())
        decay = config.weight_decay
        self.optimizer: Optimizer = (
            SGD(self.parameters, decay) if config.optimizer == "sgd" else AdamW(self.parameters, config.beta2, decay)
        )

    def update(self, step: int, stopped: Sequence[int]) -> float:
        """One step of every seed but the `stopped` ones; returns the excess of the loss over the floor, nats per string."""
        kept = [parameter.detach()[stopped].clone() for parameter in self.parameters] if stopped else []
        seeds, device = self.model.seeds, self.model.device
        generators = [torch_generator(seed, "dropout", step, device=device) for seed in seeds]
        losses = []  # of each lesson [S]
        lessons = self.curriculum.lessons(step)
        for batch, _ in lessons:
            dropout = [Noise(g, rows) for g, rows in zip(generators, batch.rows_of(len(seeds)), strict=True)]
            losses.append(cross_entropy(self.model.logits(batch.tokens, dropout, batch.tree), batch))
        loss = sum(loss / divisor for loss, (_, divisor) in zip(losses, lessons, strict=True))
        assert isinstance(loss, Tensor)
        loss.sum().backward()  # seeds share nothing, so the gradient of the sum is each seed's own
        self._clip()
        self.optimizer.step(learning_rate(self.config, step))
        with torch.no_grad():
            for parameter, old in zip(self.parameters, kept, strict=False):
                parameter[stopped] = old
        return float(losses[0].detach().mean()) - self.curriculum.floor

    def _clip(self) -> None:
        if math.isinf(self.config.clip):
            return
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)  # [S]
        factors = (self.config.clip / (norms + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factors.view(-1, *[1] * (grad.dim() - 1)))

    def state(self) -> dict[str, Tensor]:
        """What the optimiser remembers, by parameter name."""
        return {name: value.cpu().contiguous() for name, value in self._memory().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what an optimiser remembered; UsageError where names or shapes are not this one's."""
        copy_in(self._memory(), state)

    def _memory(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}": value
            for name, memory in zip(self.model.parameters, self.optimizer.memory, strict=True)
            for kind, value in memory.items()
        }
