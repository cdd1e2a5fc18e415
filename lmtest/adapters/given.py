"""A model that somebody gives: what it is called, what it can read, and a guard that keeps it to the contract."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmtest import limits
from lmtest.errors import LmtestError, UsageError
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.contract import LanguageModel


def _any_length(longest: float) -> None:
    """Reads strings of any length."""


PASSED_ON = (LmtestError, KeyboardInterrupt, limits.Overtime)
"""What is no failure of a stranger's code; all else is, even SystemExit."""


@dataclass(frozen=True)
class Given:
    """A model with the name that it has in tables; `check` raises UsageError where strings of so many symbols do not fit it."""

    name: str
    model: LanguageModel
    check: Callable[[float], None] = _any_length
    note: str = ""
    """What the user should know of how it is read."""


class Defaults:
    """Torch's default device and dtype as a stranger's code leaves them: in force while it runs (`with`), and nowhere else."""

    def __init__(self) -> None:
        self.device, self.dtype = torch.get_default_device(), torch.get_default_dtype()

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(self, *_: object) -> None:
        self._exchange()

    def _exchange(self) -> None:
        before = torch.get_default_device(), torch.get_default_dtype()
        if self.device != before[0]:
            torch.set_default_device(self.device)
        if self.dtype != before[1]:
            torch.set_default_dtype(self.dtype)
        self.device, self.dtype = before


class Guarded:
    """A stranger's object held to the contract: laws of the right shape as float64 on the CPU, failures as LmtestError."""

    def __init__(
        self, model: LanguageModel, vocabulary: Vocabulary, name: str, defaults: Defaults | None = None
    ) -> None:
        self.model, self.vocabulary, self.name, self.defaults = model, vocabulary, name, defaults or Defaults()

    def next_log_probs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T], BOS first → [S, N, T, V] float64, nats; UsageError where it is anything else."""
        try:
            with torch.no_grad(), self.defaults:
                law = self.model.next_log_probs(tokens.clone())
        except PASSED_ON:
            raise
        except BaseException as error:
            raise LmtestError(
                f"{self.name} failed on tokens of shape {tuple(tokens.shape)}: {describe_failure(error)}"
            ) from error
        try:
            return self._checked(law, (*tokens.shape, self.vocabulary.n_outputs))
        except PASSED_ON:
            raise
        except BaseException as error:  # of tensors in name alone: nested, fake, of odd dtypes, of a class of their own
            raise UsageError(
                f"{self.name}: expected next_log_probs to give a plain tensor, found one that cannot be read: "
                f"{describe_failure(error)}"
            ) from error

    def _checked(self, law: Any, shape: tuple[int, ...]) -> torch.Tensor:
        wanted = f"expected next_log_probs to give a tensor [seeds, {', '.join(map(str, shape))}] of log-probabilities"
        if not isinstance(law, torch.Tensor):
            if inspect.iscoroutine(law):
                law.close()  # or Python warns of it
            raise UsageError(f"{self.name}: {wanted}, found {type(law).__name__}")
        fits = law.dim() == 4 and tuple(law.shape[1:]) == shape and len(law) > 0
        if not (fits and law.is_floating_point()) or law.is_meta:
            outputs = f"the last axis is {' '.join(self.vocabulary.outputs)}"
            raise UsageError(
                f"{self.name}: {wanted} ({outputs}), found {tuple(law.shape)} of {law.dtype} on {law.device}"
            )
        limits.check(f"seeds of {self.name}", len(law), limits.MOST_SEEDS, "give fewer")
        return torch.empty(law.shape, dtype=torch.float64).copy_(law.detach().cpu().to_dense())


def describe_failure(error: BaseException) -> str:
    """What went wrong in a stranger's code, and where: one line instead of a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 (it is a stranger's __str__)
        said = "(what it says cannot be printed)"
    return f"{type(error).__name__}: {' '.join(said.split())[:300]}{where}"
