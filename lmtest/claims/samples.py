"""From a study's tables to the samples of a claim: one value a seed for each of its groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
import pandas as pd

from lmtest.claims import statistics as st
from lmtest.claims.bounded import SHARE, Range
from lmtest.claims.check import resolve
from lmtest.claims.groups import KL, Group, Quantity
from lmtest.claims.schema import Claim, Correlation, Heterogeneity, Threshold
from lmtest.claims.statistics import Sample
from lmtest.evaluators.contract import is_share

REFERENCE = "reference"


@dataclass(frozen=True)
class Tables:
    """The study's tables; a table without rows may also be without columns."""

    measurements: pd.DataFrame
    certificates: pd.DataFrame
    completions: pd.DataFrame

    def key(self, claim: Claim, group: Group) -> dict[str, object]:
        """Which rows are a group's: language, model and variant; {} where nothing was trained, and so there are no seeds."""
        known: dict[str, set[str]] = {"language": set(), "model": set(), "variant": set()}
        for table in (self.measurements, self.certificates, self.completions):
            if len(table):
                trained = table[table["variant"] != REFERENCE]
                for name, values in known.items():
                    values |= set(map(str, trained[name].unique()))
        if not known["model"]:
            return {}
        named = {"language": claim.language, "model": group.model, "variant": group.variant}
        # A named one without rows is no error here: its seeds are missing, and the verdict says so.
        return {what: named[what] or resolve(claim, what, None, known[what]) for what in known}


@dataclass
class Samples:
    """The samples of a claim by group, in the order of the claim, and the reasons why they cannot decide it."""

    values: dict[str, Sample] = field(default_factory=dict)
    """Of every seed that is there; where the claim is paired, of those that all groups have, in one order."""
    seeds: dict[str, list[int]] = field(default_factory=dict)
    """Which are there, by group, ascending."""
    notes: list[str] = field(default_factory=list)
    outcomes: npt.NDArray[np.bool_] | None = None
    """Heterogeneity only: one outcome per prompt and seed, [prompts, seeds]."""
    predictors: dict[str, Sample] = field(default_factory=dict)
    """Correlation only: what is to predict the values, of the same seeds in the same order."""
    ranges: dict[str, Range] = field(default_factory=dict)
    """Between what the values of a group are known to lie; missing where nothing is known."""

    @property
    def shared(self) -> set[int]:
        """The seeds that all groups have."""
        first, *others = self.seeds.values()
        return set(first).intersection(*others)

    @property
    def seeds_used(self) -> int:
        """Seeds with a finite value, in the smallest group."""
        return min(int(np.isfinite(x).sum()) for x in (*self.values.values(), *self.predictors.values()))

    @property
    def usable(self) -> bool:
        """Whether every group has seeds and every value is there and finite."""
        return not self.notes and all(len(values) > 0 for values in self.values.values())


def draw_samples(claim: Claim, tables: Tables) -> Samples:
    """A claim's samples; for a threshold the distances from its bound, positive on the claimed side.

    Shares have a known range, and so have distances of shares from a bound.
    """
    if isinstance(claim, Heterogeneity):
        return _outcomes(claim, tables)
    samples = Samples()
    for group in claim.groups:
        key = tables.key(claim, group)
        quantity = claim.quantity(group)
        rows = _one_a_seed(quantity, group, tables, key, samples)
        values = _checked(rows["value"], rows["seed"], _described(quantity, group), samples)
        if is_share(claim.measure) and bool(((values > -1e-9) & (values < 1 + 1e-9)).all()):
            samples.ranges[group.name] = SHARE
        if isinstance(claim, Threshold):
            values = _distances(claim, tables, group, key, rows, values, samples)
        if isinstance(claim, Correlation):
            quantity = claim.predictor.quantity
            known = _one_a_seed(quantity, group, tables, key, samples).set_index("seed")["value"]
            known = known.reindex(rows["seed"])  # a seed without one has NaN, and a note
            samples.predictors[group.name] = _checked(known, rows["seed"], _described(quantity, group), samples)
        samples.values[group.name] = values
        samples.seeds[group.name] = [int(seed) for seed in rows["seed"]]
    if len(samples.ranges) < len(samples.values):
        samples.ranges.clear()  # a value outside tells a measure that only bears the name of a share
    if claim.is_paired:
        for found in (samples.values, samples.predictors):
            for name, x in found.items():
                found[name] = x[[seed in samples.shared for seed in samples.seeds[name]]]
    if isinstance(claim, Correlation) and samples.usable:
        samples.notes += _undefined(claim, samples)
    return samples


def shortages(claim: Claim, samples: Samples, tables: Tables, asked: int, required: float) -> list[str]:
    """What keeps a claim from a verdict: seeds that are missing, or not saturated by their certificate."""
    notes = []
    for group in claim.groups:
        if (present := len(samples.seeds[group.name])) < asked:
            notes.append(f"only {present} of {asked} seeds of {group.name} are there")
        certified = _select(tables.certificates, tables.key(claim, group))
        saturated = int(certified.groupby("seed")["saturated"].all().sum()) if len(certified) else 0
        if saturated < required * asked - 1e-9:  # a share such as 0.28 of 25 is not 7 in floats
            # Prompt sets are put to the same models: one reason, not one for each.
            whose = f"of {group.name} " if group.prompt_set is None else ""
            notes.append(f"only {saturated} of {asked} seeds {whose}are saturated")
    if claim.is_paired and (alone := sorted({*chain(*samples.seeds.values())} - samples.shared)):
        notes.append(f"no pairs at seed {', '.join(map(str, alone))}: not in every group")
    return list(dict.fromkeys(notes))


def _undefined(claim: Correlation, samples: Samples) -> list[str]:
    """Where nothing can be correlated because a seed's values, or its predictors, are all one."""
    notes, seeds = [], np.array(sorted(samples.shared))
    for quantity, found in zip(claim.quantities(claim.groups[0]), (samples.values, samples.predictors), strict=True):
        if len(same := seeds[st.all_tied(list(found.values()))]):
            notes.append(f"no correlation at seed {', '.join(map(str, same))}: {quantity} is the same in every group")
    return notes


def _distances(
    claim: Threshold,
    tables: Tables,
    group: Group,
    key: dict[str, object],
    rows: pd.DataFrame,
    values: Sample,
    samples: Samples,
) -> Sample:
    if claim.bound is not None:
        level = np.full(len(values), claim.bound)
    elif claim.baseline == "chance":
        level = _checked(rows["chance"], rows["seed"], f"chance on {_described(claim.quantity(group), group)}", samples)
    else:
        wanted = key | {"model": str(claim.baseline), "variant": REFERENCE}
        reference = _rows(claim.quantity(group), tables, wanted)["value"].to_numpy(dtype=np.float64)
        level = np.full(len(values), reference.mean() if len(reference) else math.nan)
        if not np.isfinite(level).all():
            note = f"no finite value of the reference model {claim.baseline} for {claim.quantity(group)}"
            samples.notes += [note] if note not in samples.notes else []
    if samples.notes or not len(values):
        return values
    sign = 1.0 if claim.direction == "above" else -1.0
    if group.name in samples.ranges:
        low, high = SHARE
        ends = (low - level.max(), high - level.min()) if sign > 0 else (level.min() - high, level.max() - low)
        samples.ranges[group.name] = (float(ends[0]), float(ends[1]))
    tied = np.isclose(values, level, rtol=1e-12, atol=0)  # rounding is no distance
    return np.where(tied, 0.0, sign * (values - level))


def _outcomes(claim: Heterogeneity, tables: Tables) -> Samples:
    [group] = claim.groups
    quantity = claim.quantity(group)
    wanted: dict[str, object] = {"prompt_set": claim.prompt_set, "decoding": claim.decoding, "replicate": 0}
    rows = _select(tables.completions, tables.key(claim, group) | wanted)
    if rows.empty or claim.measure not in rows:
        note = f"no outcome per prompt of {quantity} for {group.name}"
        return Samples({group.name: np.empty(0)}, {group.name: []}, [note])
    # A prompt set may hold a prompt twice: its k-th occurrence is an item of its own.
    rows = rows.assign(occurrence=rows.groupby(["seed", "prompt"]).cumcount())
    matrix = rows.pivot(index=["prompt", "occurrence"], columns="seed", values=claim.measure).astype("float64")
    samples = Samples(ranges={group.name: SHARE})
    means = matrix.mean(skipna=False)
    samples.values[group.name] = _checked(means, means.index.to_series(), _described(quantity, group), samples)
    samples.seeds[group.name] = [int(seed) for seed in means.index]
    samples.outcomes = matrix.to_numpy() == 1
    return samples


def _described(quantity: Quantity, group: Group) -> str:
    """What is measured, and of whom; a prompt set is named by what is measured."""
    return str(quantity) + ("" if group.prompt_set else f" of {group.name}")


def _checked(values: pd.Series, seeds: pd.Series, name: str, samples: Samples) -> Sample:
    array = values.to_numpy(dtype=np.float64)
    if bad := [str(seed) for seed in seeds[~np.isfinite(array)]]:
        samples.notes.append(f"{name} is no finite number at seed {', '.join(bad)}")
    return array


def _one_a_seed(
    quantity: Quantity, group: Group, tables: Tables, key: dict[str, object], samples: Samples
) -> pd.DataFrame:
    """The rows of one group; none where some seed has several."""
    rows = _rows(quantity, tables, key)
    if rows["seed"].is_unique:
        return rows
    samples.notes.append(f"expected one row a seed, found several of {_described(quantity, group)}")
    return rows.iloc[:0]


def _rows(quantity: Quantity, tables: Tables, key: dict[str, object]) -> pd.DataFrame:
    """What is measured of the models of a key, by seed: from the certificates for "kl"."""
    if quantity.measure == KL:
        rows = _select(tables.certificates, key).rename(columns={"kl": "value"})
    else:
        rows = _select(tables.measurements, key | quantity._asdict())
    return rows.sort_values("seed") if len(rows) else pd.DataFrame({"seed": [], "value": [], "chance": []})


def _select(table: pd.DataFrame, wanted: Mapping[str, object]) -> pd.DataFrame:
    keep = np.full(len(table), "model" in wanted)  # without a model there is nothing to choose from
    for column, value in wanted.items() if len(table) else ():
        keep &= (table[column] == value).to_numpy(dtype=bool)
    return table[keep]
