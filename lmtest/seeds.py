"""Randomness is an argument: named, independent streams that all come from one seed.

A stream is named by what it is for ("initialisation", "order", "decoding", …) and, where it recurs, by a step.
So nothing has to be saved to resume: the stream of step 700 is the same whoever asks for it, and whenever.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, *name: str | int) -> int:
    """The 63-bit seed of the stream called `name` under `seed`; equal names give equal streams."""
    text = "/".join(map(str, (seed, *name)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """A numpy generator for the stream called `name`."""
    return np.random.default_rng(stream_seed(seed, *name))


def torch_generator(seed: int, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for the stream called `name`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *name))
