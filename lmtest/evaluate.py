"""Any model on any language: its certificate, and what one evaluator measures. The same as `lmtest evaluate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from lmtest import atomic
from lmtest.adapters.checks import check_model
from lmtest.adapters.given import Given
from lmtest.adapters.hugging_face import HuggingFaceModel, from_folder
from lmtest.adapters.python_object import FORM, from_factory
from lmtest.columns import CERTIFICATES, MEASUREMENTS
from lmtest.errors import LmtestError, UsageError, nearest
from lmtest.evaluators.answers import mean
from lmtest.evaluators.evaluator import Evaluator
from lmtest.evaluators.registry import EvaluatorsConfig
from lmtest.languages.base import Language
from lmtest.measurement import Interval
from lmtest.models.stack import StackedModel
from lmtest.overrides import apply_override
from lmtest.saturation import CHUNK_TOKENS, Certificate, SaturationConfig, certify
from lmtest.seeds import generator, stream_seed
from lmtest.trained import trained_model
from lmtest.validation import validate

Kind = Literal["run", "hf", "python"]
STUDY, VARIANT = "evaluate", "given"
"""What stands in the columns of tables that belong to no study."""
OUTSIDE = "mass_outside"
WEIGHTS = ("flatness", "fine_tuning")
"""Evaluators of weights, not of laws alone."""


@dataclass(frozen=True)
class Evaluation:
    """One model on one language: tables with the columns of a run directory, and what to know of how the model was read."""

    certificates: pd.DataFrame
    measurements: pd.DataFrame
    note: str = ""

    def write(self, directory: Path) -> None:
        """certificates.parquet and measurements.parquet; the folder is to be new (`check_new`)."""
        atomic.write_parquet(directory / "certificates.parquet", self.certificates)
        atomic.write_parquet(directory / "measurements.parquet", self.measurements)


def load_model(
    model: str,
    language: Language,
    *,
    kind: Kind | None = None,
    model_name: str | None = None,
    variant: str | None = None,
    device: str = "cpu",
) -> Given:
    """A run directory, a Hugging Face folder or `module:factory` → the model of a language; which it is, is seen where not said.

    `model_name` and `variant` choose among a run's models. Raises UsageError where it is none of the three, or not of the kind
    that is said.
    """
    if kind not in (None, "run", "hf", "python"):
        raise UsageError(f"unknown kind {kind!r}; {nearest(str(kind), ('run', 'hf', 'python'))}")
    kind = kind or _kind(model)
    if kind != "run" and (model_name or variant):
        raise UsageError(f"--model-name and --variant choose among the models of a run directory; {model!r} is none")
    if kind == "run":
        return trained_model(Path(model), language, model=model_name, variant=variant, device=device)
    return from_folder(Path(model), language, device) if kind == "hf" else from_factory(model, language)


def _kind(model: str) -> Kind:
    if os.path.lexists(Path(model) / "resolved.json"):
        return "run"
    if os.path.isdir(model):  # False, where Path's raises, on names that no folder can have
        return "hf"
    if FORM.fullmatch(model):
        return "python"
    raise UsageError(
        f"cannot find the model {model!r}: expected a run directory, a local folder of a Hugging Face model, or module:factory"
    )


def evaluate(
    language: Language,
    given: Given,
    evaluator: str = "rule_extrapolation",
    settings: Sequence[str] = (),
    *,
    draws: int = SaturationConfig().draws,
    epsilon: float = SaturationConfig().epsilon,
) -> Evaluation:
    """The certificate of a model, nats per string, and the measurements of one evaluator; a row a seed.

    `settings` are `key=value` of the evaluator's table; `draws` are fresh strings, where the language cannot be summed exactly. What
    a model gives to tokens outside the language counts as loss, and is measured as `mass_outside`. Raises UsageError on a wrong
    evaluator or setting, where the model breaks its contract (see `check_model`), and where strings do not fit it.
    """
    saturation = validate(SaturationConfig, {"epsilon": epsilon, "draws": draws}, "the certificate's options")
    judge, model = evaluator_of(language, evaluator, settings), given.model
    if evaluator in WEIGHTS and not isinstance(model, StackedModel):
        raise UsageError(
            f"{evaluator} changes or differentiates weights, and needs a model of a run directory; of {given.name} only the laws "
            "are known: choose rule_extrapolation, string_mass or in_context"
        )
    given.check(max(judge.longest, language.longest))
    seeds = model.seeds if isinstance(model, StackedModel) else range(check_model(language, model, given.name))
    whole = model.whole if isinstance(model, HuggingFaceModel) else model
    # The streams of a study: differences to the models of a run are paired.
    certificate = certify(language, whole, draws, generator(0, "certificate"))
    if np.isnan(certificate.kl).any():
        raise LmtestError(
            f"{given.name} gives no law (NaN) behind some strings of {language.name}: it has no certificate"
        )
    measurements, _ = judge.evaluate(model, tuple(seeds), stream_seed(0, "decoding", STUDY))
    if isinstance(model, HuggingFaceModel):
        row = _outside_row(*mass_outside(language, model, draws))
        measurements = pd.concat([measurements, pd.DataFrame([row])], ignore_index=True)
    if not len(measurements):
        raise UsageError(f"{evaluator} has nothing to measure on {given.name}")
    labels = {"study": STUDY, "language": language.name, "model": given.name, "variant": VARIANT}
    certificates = _certificate_table(certificate, tuple(seeds), saturation).assign(**labels)
    saturated = dict(zip(certificates["seed"], certificates["saturated"], strict=True))
    measurements = measurements.assign(saturated=measurements["seed"].map(saturated), **labels)
    return Evaluation(certificates[list(CERTIFICATES)], measurements[list(MEASUREMENTS)], given.note)


def evaluator_of(language: Language, name: str, settings: Sequence[str]) -> Evaluator:
    """The evaluator of that name with `key=value` settings, for one language; UsageError on unknown names and keys."""
    if name not in EvaluatorsConfig.model_fields:
        raise UsageError(f"unknown evaluator {name!r}; {nearest(name, EvaluatorsConfig.model_fields)}")
    data: dict[str, Any] = {name: {}}
    for setting in settings:
        apply_override(data[name], setting)
    return validate(EvaluatorsConfig, data, "--set").build(language)[0]


def check_new(directory: Path) -> None:
    """Raises UsageError where a folder to write to has something in it already."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(f"{directory} exists, and is not empty: name another folder with --out")


def mass_outside(language: Language, model: HuggingFaceModel, draws: int) -> tuple[Interval, int]:
    """Probability of tokens that are no symbol: the mean over a string's positions, then over fresh strings, with its interval."""
    rows = sorted(language.sample_ids(draws, generator(0, OUTSIDE)), key=len)
    step = max(1, CHUNK_TOKENS // (len(rows[-1]) + 1))
    found = []
    for i in range(0, len(rows), step):
        distinct = list(dict.fromkeys(rows[i : i + step]))
        tokens, lengths = language.vocabulary.pack(distinct)
        counted = torch.arange(tokens.shape[1]) <= lengths[:, None]
        outside = model.all_log_probs(tokens)[0, ..., -1].exp().where(counted, 0.0)
        shares = dict(zip(distinct, (outside.sum(-1) / (lengths + 1)).tolist(), strict=True))
        found += [shares[row] for row in rows[i : i + step]]
    return mean(np.array(found)), len(found)


def _outside_row(interval: Interval, count: int) -> dict[str, Any]:
    value, lower, upper = interval
    return {
        "seed": 0,
        "evaluator": STUDY,
        "measure": OUTSIDE,
        "prompt_set": "documents",
        "decoding": "exact",
        "value": value,
        "lower": lower,
        "upper": upper,
        "count": count,
        "chance": float("nan"),
    }


def _certificate_table(certificate: Certificate, seeds: Sequence[int], saturation: SaturationConfig) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "seed": seeds,
            "kl": certificate.kl,
            "kl_lower": certificate.lower,
            "kl_upper": certificate.upper,
            "kl_per_token": certificate.kl / certificate.tokens,
            "exact": certificate.exact,
            "saturated": certificate.saturated(saturation),
        }
    )
