"""From a study's tables to the samples of a claim: one value a seed for each of its variants."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from lmtest.claims.schema import KL, Claim, Heterogeneity, Threshold, resolve_model
from lmtest.claims.statistics import Sample


@dataclass(frozen=True)
class Tables:
    """The study's tables; a table without rows may also be without columns."""

    measurements: pd.DataFrame
    certificates: pd.DataFrame
    completions: pd.DataFrame

    def model(self, claim: Claim) -> str | None:
        """The trained model a claim is about; None where there is no trained model at all, and so no seeds."""
        models = {
            str(name)
            for table in (self.measurements, self.certificates, self.completions)
            if len(table)
            for name in table.loc[table["variant"] != "reference", "model"].unique()
        }
        return resolve_model(claim, models) if models else None


@dataclass
class Samples:
    """The samples of a claim by variant, in the order of the claim, and the reasons why they cannot decide it."""

    values: dict[str, Sample] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    outcomes: npt.NDArray[np.bool_] | None = None
    """Heterogeneity only: one outcome per prompt and seed, [prompts, seeds]."""

    @property
    def seeds_used(self) -> int:
        """Seeds with a finite value, in the smallest group."""
        return min(int(np.isfinite(values).sum()) for values in self.values.values())

    @property
    def usable(self) -> bool:
        """Whether every group has seeds and every value is there and finite."""
        return not self.notes and all(len(values) > 0 for values in self.values.values())


def draw_samples(claim: Claim, tables: Tables) -> Samples:
    """A claim's samples; for a threshold the distances from its bound, positive on the claimed side."""
    if isinstance(claim, Heterogeneity):
        return _outcomes(claim, tables)
    samples, model = Samples(), tables.model(claim)
    for variant in claim.groups:
        rows = _rows(claim, tables, model, variant)
        if not rows["seed"].is_unique:
            samples.notes.append(f"expected one row a seed, found several of {claim.selection} for {variant}")
            rows = rows.iloc[:0]
        values = _checked(rows["value"], rows["seed"], f"{claim.selection} of {variant}", samples)
        if isinstance(claim, Threshold):
            values = _distances(claim, tables, variant, rows, values, samples)
        samples.values[variant] = values
    return samples


def shortages(claim: Claim, samples: Samples, tables: Tables, asked: int, required: float) -> list[str]:
    """What keeps a claim from a verdict: seeds that are missing, or not saturated by their certificate."""
    model, notes = tables.model(claim), []
    for variant in claim.groups:
        if (present := len(samples.values[variant])) < asked:
            notes.append(f"only {present} of {asked} seeds of {variant} are there")
        certified = _select(tables.certificates, model=model, variant=variant)
        saturated = int(certified.groupby("seed")["saturated"].all().sum()) if len(certified) else 0
        if saturated < required * asked - 1e-9:  # a share such as 0.28 of 25 is not 7 in floats
            notes.append(f"only {saturated} of {asked} seeds of {variant} are saturated")
    return notes


def _distances(
    claim: Threshold, tables: Tables, variant: str, rows: pd.DataFrame, values: Sample, samples: Samples
) -> Sample:
    if claim.bound is not None:
        level = np.full(len(values), claim.bound)
    elif claim.baseline == "chance":
        level = _checked(rows["chance"], rows["seed"], f"chance on {claim.selection} of {variant}", samples)
    else:
        reference = _rows(claim, tables, claim.baseline, "reference")["value"].to_numpy(dtype=np.float64)
        level = np.full(len(values), reference.mean() if len(reference) else math.nan)
        if not np.isfinite(level).all():
            note = f"no finite value of the reference model {claim.baseline} for {claim.selection}"
            samples.notes += [note] if note not in samples.notes else []
    if samples.notes:
        return values
    sign = 1.0 if claim.direction == "above" else -1.0
    tied = np.isclose(values, level, rtol=1e-12, atol=0)  # rounding is no distance
    return np.where(tied, 0.0, sign * (values - level))


def _outcomes(claim: Heterogeneity, tables: Tables) -> Samples:
    rows = _select(
        tables.completions,
        model=tables.model(claim),
        variant=claim.variant,
        prompt_set=claim.prompt_set,
        decoding=claim.decoding,
        replicate=0,
    )
    if rows.empty or claim.measure not in rows:
        note = f"no outcome per prompt of {claim.selection} for {claim.variant}"
        return Samples({claim.variant: np.empty(0)}, [note])
    # A prompt set may hold a prompt twice: its k-th occurrence is an item of its own.
    rows = rows.assign(occurrence=rows.groupby(["seed", "prompt"]).cumcount())
    matrix = rows.pivot(index=["prompt", "occurrence"], columns="seed", values=claim.measure).astype("float64")
    samples = Samples()
    means = matrix.mean(skipna=False)
    name = f"{claim.selection} of {claim.variant}"
    samples.values[claim.variant] = _checked(means, means.index.to_series(), name, samples)
    samples.outcomes = matrix.to_numpy() == 1
    return samples


def _checked(values: pd.Series, seeds: pd.Series, name: str, samples: Samples) -> Sample:
    array = values.to_numpy(dtype=np.float64)
    if bad := [str(seed) for seed in seeds[~np.isfinite(array)]]:
        samples.notes.append(f"{name} is no finite number at seed {', '.join(bad)}")
    return array


def _rows(claim: Claim, tables: Tables, model: str | None, variant: str) -> pd.DataFrame:
    """The rows a claim is about, for one model and variant, by seed: from the certificates for "kl"."""
    if claim.measure == KL:
        rows = _select(tables.certificates, model=model, variant=variant).rename(columns={"kl": "value"})
    else:
        rows = _select(
            tables.measurements,
            model=model,
            variant=variant,
            measure=claim.measure,
            prompt_set=claim.prompt_set,
            decoding=claim.decoding,
        )
    return rows.sort_values("seed") if len(rows) else pd.DataFrame({"seed": [], "value": [], "chance": []})


def _select(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    keep = np.ones(len(table), dtype=bool)
    for column, value in wanted.items() if len(table) else ():
        keep &= (table[column] == value).to_numpy(dtype=bool)
    return table[keep]
