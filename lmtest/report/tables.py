"""A run directory as tables: loaded, checked, and summarised over seeds. Nothing here draws or formats."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmtest import columns
from lmtest.errors import UsageError
from lmtest.report.resolved import Environment, Resolved
from lmtest.validation import read_json, validate

Key = tuple[str, str]
"""A row of the result tables: (model, variant)."""

RULE_COLUMNS = ("grammatical", "broken")  # of the completions of rule extrapolation alone
RESOLVED = ("schema_version", "name", "title", "config", "languages", "published")

REFERENCE = "reference"
REFERENCE_ORDER = ("language", "rule_keeper", "normative", "ngram", "uniform", "stop")
RULES, IN_CONTEXT, PERTURBATION = "rule_extrapolation", "in_context", "perturbation"  # evaluators
TUNING = FINE_TUNING, FLATNESS, FUNCTION = "fine_tuning", "flatness", "function"
HEADLINE = "R1"
"""The measure that the pictures show and the main table reports."""
HEADLINES = (HEADLINE, f"{HEADLINE}_finished")
"""What published values may be of to stand beside it: papers count finished completions alone."""


@dataclass(frozen=True)
class RunTables:
    """The files of one run directory, or what they say of one of its languages (`of`); nats per string throughout."""

    resolved: dict[str, Any]
    env: dict[str, Any]
    certificates: pd.DataFrame
    measurements: pd.DataFrame
    trajectory: pd.DataFrame
    completions: pd.DataFrame
    verdicts: pd.DataFrame
    published: pd.DataFrame

    def of(self, language: str) -> RunTables:
        """The same tables for one language alone."""
        claims = self.resolved["config"].get("claims", [])
        concerned = [claim["id"] for claim in claims if claim.get("language") in (None, language)]
        published = [row for row in self.resolved["published"] if row.get("language") in (None, language)]
        completions = select(self.completions, language=language)
        # The rules of other languages leave empty columns behind.
        always = (*columns.COMPLETIONS, *RULE_COLUMNS)
        known = [name for name in completions if name in always or completions[name].notna().any()]
        rest = {"languages": {language: self.resolved["languages"][language]}, "published": published}
        return replace(
            self,
            resolved=self.resolved | rest,
            certificates=select(self.certificates, language=language),
            measurements=select(self.measurements, language=language),
            trajectory=select(self.trajectory, language=language),
            completions=completions[known],
            verdicts=self.verdicts[self.verdicts["claim"].isin(concerned)] if len(self.verdicts) else self.verdicts,
            published=select(self.published, language=language),
        )

    @property
    def languages(self) -> list[str]:
        return list(self.resolved["languages"])

    @property
    def language(self) -> dict[str, Any]:
        """What is known of the only language of these tables."""
        [language] = self.resolved["languages"].values()
        entry: dict[str, Any] = language
        return entry

    @property
    def floor(self) -> float:
        """The entropy of the language, nats per string: the lowest loss there is."""
        return float(self.language["entropy"]["value"])

    @property
    def epsilon(self) -> float:
        return float(self.language["epsilon"])

    @property
    def temperature(self) -> float:
        """Of sampled decoding; 1 where the study says nothing, as studies did before it could be chosen."""
        evaluators = self.resolved["config"].get("evaluators", {})
        return float(evaluators.get(RULES, {}).get("temperature", 1.0))

    @property
    def derived(self) -> dict[str, dict[str, Any]]:
        """Variants made from trained ones (or from the exact law, whose model then has their name), as declared."""
        found: dict[str, dict[str, Any]] = self.resolved["config"].get("derived", {})
        return found

    def has(self, evaluator: str) -> bool:
        """Whether anything was measured by an evaluator."""
        return bool((self.measurements["evaluator"] == evaluator).any())

    @cached_property
    def of_rules(self) -> bool:
        """Whether it is about rule extrapolation: unless something else is there without it."""
        return self.has(RULES) or not any(self.has(name) for name in (IN_CONTEXT, *TUNING))

    @cached_property
    def trained(self) -> list[Key]:
        """(model, variant) of what was trained or built, in the order of the certificates."""
        frames = [frame[frame["variant"] != REFERENCE] for frame in (self.certificates, self.measurements)]
        pairs = pd.concat([frame[["model", "variant"]] for frame in frames])
        return list(dict.fromkeys(pairs.itertuples(index=False, name=None)))

    @cached_property
    def references(self) -> list[Key]:
        """(model, "reference") of the reference models, the exact law first."""
        names = set(self.measurements.loc[self.measurements["variant"] == REFERENCE, "model"])
        known = [name for name in REFERENCE_ORDER if name in names]
        return [(name, REFERENCE) for name in (*known, *sorted(names.difference(known)))]

    @cached_property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for model, _ in self.trained))

    @cached_property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(variant for _, variant in self.trained))

    @cached_property
    def heldout(self) -> str:
        """The prompt set on which generalisation is read off: held-out OOD prompts, or all where none are held out."""
        return "ood_heldout" if (self.measurements["prompt_set"] == "ood_heldout").any() else "ood"

    @cached_property
    def margins(self) -> list[float]:
        """Margins (nats per string) of the study's claims that losses are equivalent."""
        claims = self.resolved["config"].get("claims", [])
        found = {
            float(claim["margin"])
            for claim in claims
            if claim.get("kind") == "equivalence" and "margin" in claim and claim.get("measure", "kl") == "kl"
        }
        return sorted(found)

    def certificate(self, key: Key) -> pd.DataFrame:
        """The certificates of one (model, variant), by seed."""
        return select(self.certificates, model=key[0], variant=key[1]).sort_values("seed")

    @cached_property
    def _places(self) -> dict[tuple[str, ...], Any]:
        """(model, variant, measure, prompt set, decoding) → places of its rows."""
        columns = ["model", "variant", "measure", "prompt_set", "decoding"]
        groups: Any = self.measurements.groupby(columns, sort=False)
        places: dict[tuple[str, ...], Any] = groups.indices
        return places

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        return self.measurements["value"].to_numpy(np.float64), self.measurements["seed"].to_numpy()

    @cached_property
    def _chances(self) -> dict[tuple[str, ...], float]:
        rows = self.measurements.assign(chance=self.measurements["chance"].astype(float))
        means = rows.groupby(["measure", "prompt_set", "decoding"], sort=False)["chance"].mean()
        return {tuple(map(str, key)): float(value) for key, value in zip(means.index, means, strict=True)}

    def values(self, key: Key, measure: str, prompt_set: str, decoding: str) -> pd.Series:
        """The values of one (model, variant), by seed, in the order of the table."""
        places = self._places.get((*key, measure, prompt_set, decoding), np.array([], int))
        values, seeds = self._numbers  # a page asks for thousands: whole rows would be slow
        return pd.Series(values[places], index=pd.Index(seeds[places], name="seed"))

    def measured(self, key: Key, measure: str, prompt_set: str, decoding: str) -> pd.DataFrame:
        """The measurements of one (model, variant), by seed."""
        rows = self.measurements.iloc[self._places.get((*key, measure, prompt_set, decoding), [])]
        return pd.DataFrame(rows).sort_values("seed")

    def chance(self, measure: str, prompt_set: str, decoding: str) -> float:
        """The uniform law on the same prompts, NaN where nothing was measured."""
        return self._chances.get((measure, prompt_set, decoding), math.nan)

    def reference(self, name: str, measure: str, prompt_set: str, decoding: str) -> float:
        """The value of a reference model, NaN where it was not measured; of the uniform law its exact chance level."""
        if name == "uniform":
            return self.chance(measure, prompt_set, decoding)
        values = self.measured((name, REFERENCE), measure, prompt_set, decoding)["value"].dropna()
        return float(values.iloc[0]) if len(values) else math.nan

    def published_values(self) -> list[dict[str, Any]]:
        """Published numbers: compared with ours where the run did so, else as the study names them."""
        return records(self.published) if len(self.published) else list(self.resolved["published"])

    def greedy_ood(self) -> pd.DataFrame:
        """One greedy completion for each trained (model, variant, seed) and OOD prompt."""
        rows = self.completions[self.completions["prompt_set"].astype(str).str.startswith("ood")]
        rows = rows[(rows["decoding"] == "greedy") & (rows["variant"] != REFERENCE)]
        return rows.sort_values("replicate", kind="stable").drop_duplicates(["model", "variant", "seed", "prompt"])


def load(directory: Path) -> RunTables:
    """Reads a run directory; raises UsageError that names what is missing and the command that makes it.

    Only trajectory, completions, verdicts and published may be missing: a study without probes or claims has none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(
            f"expected a run directory, found no folder {directory}: `lmtest run STUDY.toml --out {directory}` makes one"
        )
    resolved = _json(directory / "resolved.json")
    if absent := [key for key in RESOLVED if key not in resolved]:
        raise UsageError(
            f"{directory / 'resolved.json'} lacks {', '.join(absent)}: {_remedy(directory / 'resolved.json')}"
        )
    env = _json(directory / "env.json")
    for schema, value, name in ((Resolved, resolved, "resolved.json"), (Environment, env, "env.json")):
        try:
            validate(schema, value, str(directory / name))
        except UsageError as error:
            raise UsageError(f"{error}: {_remedy(directory / name)}") from None
    return RunTables(
        resolved=resolved,
        env=env,
        certificates=_parquet(directory / "certificates.parquet", columns.CERTIFICATES),
        measurements=_parquet(directory / "measurements.parquet", columns.MEASUREMENTS),
        trajectory=_parquet(directory / "trajectory.parquet", columns.TRAJECTORY, optional=True),
        completions=_completions(directory / "completions.parquet"),
        verdicts=_parquet(directory / "verdicts.parquet", columns.VERDICTS, optional=True),
        published=_parquet(directory / "published.parquet", columns.PUBLISHED, optional=True),
    )


def select(frame: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """The rows of `frame` whose columns equal the given values."""
    keep = pd.Series(True, index=frame.index)
    for column, value in equal.items():
        keep &= frame[column] == value
    return frame[keep]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `frame` as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _remedy(path: Path) -> str:
    """What makes a missing or damaged file anew; resolved.json alone says whose run it is, so nothing can."""
    if path.name == "resolved.json":
        return "restore it, or start afresh with another --out"
    return f"delete it where it is damaged, and `lmtest run STUDY.toml --out {path.parent} --resume` makes it"


def _require(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"expected a finished run, found no file {path.name} in {path.parent}: {_remedy(path)}")


def _json(path: Path) -> dict[str, Any]:
    _require(path)
    try:
        return read_json(path)
    except UsageError as error:
        raise UsageError(f"{error}: {_remedy(path)}") from None


def _parquet(path: Path, needed: columns.Columns, *, optional: bool = False) -> pd.DataFrame:
    if optional and not path.is_file():
        return pd.DataFrame(columns=list(needed))
    _require(path)
    table = columns.read(path, needed, _remedy(path))
    return pd.DataFrame(columns=list(needed)) if optional and table.empty else table


def _completions(path: Path) -> pd.DataFrame:
    """Completions; what rule extrapolation says of them is left empty where it was not asked."""
    frame = _parquet(path, columns.COMPLETIONS, optional=True)
    if (frame["evaluator"] == RULES).any() and (absent := [c for c in RULE_COLUMNS if c not in frame]):
        raise UsageError(f"{path} lacks the columns {', '.join(absent)}: it is of another version; {_remedy(path)}")
    return frame.reindex(columns=[*dict.fromkeys([*frame.columns, *RULE_COLUMNS])])
