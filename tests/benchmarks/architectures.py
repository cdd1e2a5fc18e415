"""Training steps per second of every architecture and how they grow with length; by hand: it measures, it does not judge.

    python tests/benchmarks/architectures.py [--small] [--device cuda]

Sizes are those of runs/rule_extrapolation_languages.toml: a stack of 4 seeds, 16 strings a seed, one thread. A step is
forward, backward, clipping and AdamW; the median of several, all architectures in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from lmtest.languages import Language, build_language
from lmtest.study import Study
from lmtest.training import LanguageCurriculum, MaximumLikelihood, TrainingConfig
from lmtest.training.loop import Steps
from lmtest.validation import read_toml, validate

STUDY = Path(__file__).parents[2] / "runs" / "rule_extrapolation_languages.toml"
SEEDS, STRINGS, TIMED = 4, 16, 5


def strings_of(length: int) -> Language:
    """All strings of one length over two symbols: no padding, nothing else to wait for."""
    law = {"law": "uniform", "low": length, "high": length}
    table = {"kind": "arranged", "title": "", "counted": "a", "filler": "b", "length": law}
    return build_language("strings", table | {"count": "even_strings", "arrangement": "shuffled"}, "benchmark")


def step_seconds(study: Study, name: str, length: int, device: str) -> float:
    """Median seconds of a step."""
    language = strings_of(length)
    config = study.models[name].model_copy(update={"context": length + 1} if name == "linear" else {})
    model = config.build(language.vocabulary, range(SEEDS), device)
    training = TrainingConfig(steps=TIMED + 2, batch=STRINGS)
    objective = MaximumLikelihood(objective="maximum_likelihood")
    steps = Steps(model, LanguageCurriculum(model, language, objective, [], training), training)
    times = []
    for step in range(TIMED + 2):
        began = time.perf_counter()
        steps.update(step, [])
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="two short lengths: seconds instead of minutes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lengths = (15, 31) if arguments.small else (15, 31, 63, 127, 255)
    study = validate(Study, read_toml(STUDY), str(STUDY))
    print(f"{'steps per second, strings of':32}" + "".join(f"{length:>9}" for length in lengths))
    for name in study.models:
        rates = [1 / step_seconds(study, name, length, arguments.device) for length in lengths]
        print(f"{name:32}" + "".join(f"{rate:9.1f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
