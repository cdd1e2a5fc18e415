"""Checkpoints: safetensors with everything a run needs to go on to the same bits, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from lmtest import atomic
from lmtest.errors import UsageError
from lmtest.validation import Table, validate

SCHEMA = 1
METADATA = "lmtest"


@dataclass
class Progress:
    """A stack in training: how far it is, which seeds have stopped and when, and what was probed on the way."""

    step: int = 0
    stopped: dict[int, int] = field(default_factory=dict)
    """Row of the stack → the step at which its certificate stopped it."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False


class _Probe(Table):
    """What every probe says beside values of its own."""

    model_config = ConfigDict(extra="allow")
    seed: int
    step: int = Field(ge=0)
    evaluator: str
    measure: str
    value: float


class _Progress(Table):
    step: int = Field(ge=0)
    stopped: dict[Annotated[int, Field(strict=False, ge=0)], Annotated[int, Field(ge=0)]]  # JSON has no numbers as keys
    probes: list[_Probe]
    finished: bool


class _Told(Table):
    """The metadata of a file, which may be damaged."""

    schema_: Literal[1] = Field(alias="schema")
    identity: dict[str, Any]
    progress: _Progress


def save(
    path: Path, identity: Mapping[str, Any], progress: Progress, model: dict[str, Tensor], optimizer: dict[str, Tensor]
) -> None:
    """Parameters as "model.NAME", optimiser state as "optimizer.NAME"; `identity` says whose they are."""
    tensors = {f"model.{k}": v for k, v in model.items()} | {f"optimizer.{k}": v for k, v in optimizer.items()}
    # One metadata entry: several would be written in random order, and equal runs would not be equal bytes.
    metadata = {"schema": SCHEMA, "identity": identity, "progress": vars(progress)}
    atomic.write_bytes(path, safetensors.torch.save(tensors, {METADATA: json.dumps(metadata, sort_keys=True)}))


def load(path: Path, identity: Mapping[str, Any]) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Progress, parameters, optimiser state; UsageError where the file is damaged or belongs to another model."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()[METADATA])
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = validate(_Told, metadata, "its metadata")
        progress, found = Progress(**metadata["progress"] | {"stopped": told.progress.stopped}), told.identity
        if odd := [name for name, tensor in tensors.items() if tensor.dtype not in (torch.float32, torch.float64)]:
            raise ValueError(f"{odd[0]} is of {tensors[odd[0]].dtype}, not of 32 or 64 bits")
    except (UsageError, safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the checkpoint {path} is damaged ({error}); delete it, and --resume trains this part again"
        ) from None
    expected = json.loads(json.dumps(identity))
    if wrong := sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key)):
        raise UsageError(
            f"the checkpoint {path} is of another {wrong[0]}: expected {expected.get(wrong[0])}, "
            f"found {found.get(wrong[0])}; give a fresh --out, or undo the change"
        )
    parts = {
        prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in ("model.", "optimizer.")
    }
    return progress, parts["model."], parts["optimizer."]
