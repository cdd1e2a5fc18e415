"""What a Hugging Face folder holds, read by us: the library sees a configuration and tensors, and opens no file for itself but
those of the tokenizer, which must lie in the folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors
import torch

from lmtest.errors import UsageError
from lmtest.validation import read_json

NUMBERS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
BUFFERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def read_config(folder: Path, transformers: Any) -> Any:
    """config.json as the library's object. UsageError: none, an unknown kind, code of its own, quantised weights."""
    names = _names(folder)
    if "config.json" not in names:
        raise UsageError(
            f"{folder} is no local folder of a Hugging Face model (no config.json): save one with save_pretrained; "
            "nothing is downloaded"
        )
    path = folder / "config.json"
    told = read_json(path)
    known, kind = transformers.CONFIG_MAPPING, told.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        code = "; it has code of its own (auto_map), which is not run" if told.get("auto_map") else ""
        raise UsageError(
            f"{path}: expected a model_type that transformers {transformers.__version__} knows, found {kind!r}{code}"
        )
    if told.get("quantization_config"):
        raise UsageError(f"{path}: expected plain weights, found quantised ones: save the model in single precision")
    _check_files(folder, names)
    return known[kind].from_pretrained(folder, local_files_only=True)  # decodes infinities, which are no JSON


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the folder's safetensors by name, as stored. UsageError: none, other files, damaged, no plain numbers."""
    names = _names(folder)
    weights: dict[str, torch.Tensor] = {}
    for name in _weight_files(folder, names):
        path = folder / name
        if not path.is_file():
            raise UsageError(f"cannot read {path}: expected a file")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                weights |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
        except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}): save the model again") from None
    for key, tensor in weights.items():
        if tensor.dtype not in NUMBERS | BUFFERS:
            raise UsageError(
                f"{folder}: expected weights of 16, 32 or 64 bits, found {key} of {tensor.dtype}: save the model in single "
                "precision"
            )
    return weights


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:  # nothing, no folder, or a name that none can have
        return []


def _check_files(folder: Path, names: Collection[str]) -> None:
    """Raises UsageError where one of the small files sends the tokenizer to files that are none of the folder's.

    Names of files that were there when a tokenizer was saved, and are not here, are common and do no harm.
    """
    for name in names:
        if name.endswith("config.json") or name == "special_tokens_map.json":
            for key, value in read_json(folder / name).items():
                if key.endswith(("_file", "_files")):
                    listed = [str(name) for name in (value if isinstance(value, list) else [value]) if name]
                    wrong = [name for name in listed if name not in names and os.path.lexists(folder / name)]
                    if wrong:
                        raise UsageError(
                            f"{folder / name}: expected {key!r} to name files of the folder, found {wrong[0]!r}"
                        )


def _weight_files(folder: Path, names: Collection[str]) -> list[str]:
    if "model.safetensors" in names:
        return ["model.safetensors"]
    index = "model.safetensors.index.json"
    if index in names:
        targets = read_json(folder / index).get("weight_map")
        listed: list[Any] = list(targets.values()) if isinstance(targets, dict) else [targets]
        wrong = [t for t in listed if not isinstance(t, str) or t not in names or not t.endswith(".safetensors")]
        if wrong or not listed:
            raise UsageError(
                f"{folder / index}: expected names of *.safetensors files of the folder, found {wrong[0] if wrong else None!r}"
            )
        return sorted(set(listed))
    other = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".safetensors"))), None)
    why = ", which may run code when it is read" if other and not other.endswith(".safetensors") else ""
    raise UsageError(
        f"{folder}: expected weights in model.safetensors, found {other or 'none'}{why}; on a machine that trusts it, load "
        "the model and save_pretrained(FOLDER), which writes safetensors"
    )
