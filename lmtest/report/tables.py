"""A run directory as tables: loaded, checked, and summarised over seeds. Nothing here draws or formats."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lmtest.errors import UsageError

Key = tuple[str, str]
"""A row of the result tables: (model, variant)."""

IDENTITY = ("study", "language", "model", "variant", "seed")
CERTIFICATES = (*IDENTITY, "kl", "kl_lower", "kl_upper", "kl_per_token", "exact", "saturated")
MEASUREMENTS = (
    *(*IDENTITY, "evaluator", "measure", "prompt_set", "decoding"),
    *("value", "lower", "upper", "count", "chance", "saturated"),
)
TRAJECTORY = (*MEASUREMENTS, "step", "kl")
COMPLETIONS = (
    *(*IDENTITY, "evaluator", "prompt_set", "prompt", "decoding", "replicate"),
    *("completion", "finished", "grammatical", "broken"),
)
VERDICTS = (
    *("claim", "statement", "verdict", "effect", "lower", "upper", "p_value", "seeds_used", "seeds_asked"),
    *("published", "source", "p_raw", "test", "note"),
)
RESOLVED = ("schema_version", "name", "title", "config", "language", "models", "epsilon", "prompt_sets", "published")

REFERENCE = "reference"
REFERENCE_ORDER = ("language", "rule_keeper", "ngram", "uniform", "stop")
HEADLINE = "R1"
"""The measure that the pictures show and the main table reports."""


@dataclass(frozen=True)
class RunTables:
    """The files of one run directory; excess (`kl`) and `epsilon` are nats per string."""

    resolved: dict[str, Any]
    env: dict[str, Any]
    certificates: pd.DataFrame
    measurements: pd.DataFrame
    trajectory: pd.DataFrame
    completions: pd.DataFrame
    verdicts: pd.DataFrame

    @property
    def language(self) -> dict[str, Any]:
        language: dict[str, Any] = self.resolved["language"]
        return language

    @property
    def floor(self) -> float:
        """The entropy of the language, nats per string: the lowest loss there is."""
        return float(self.language["entropy"]["value"])

    @property
    def epsilon(self) -> float:
        return float(self.resolved["epsilon"])

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
        claims = claims.values() if isinstance(claims, dict) else claims
        found = {
            float(claim["margin"])
            for claim in claims
            if claim.get("kind") == "equivalence" and "margin" in claim and claim.get("measure", "kl") == "kl"
        }
        return sorted(found)

    def certificate(self, key: Key) -> pd.DataFrame:
        """The certificates of one (model, variant), by seed."""
        return select(self.certificates, model=key[0], variant=key[1]).sort_values("seed")

    def measured(self, key: Key, measure: str, prompt_set: str, decoding: str) -> pd.DataFrame:
        """The measurements of one (model, variant), by seed."""
        wanted = {"measure": measure, "prompt_set": prompt_set, "decoding": decoding}
        return select(self.measurements, model=key[0], variant=key[1], **wanted).sort_values("seed")

    def chance(self, measure: str, prompt_set: str, decoding: str) -> float:
        """The uniform law on the same prompts, NaN where nothing was measured."""
        rows = select(self.measurements, measure=measure, prompt_set=prompt_set, decoding=decoding)
        return float(rows["chance"].astype(float).mean())

    def greedy_ood(self) -> pd.DataFrame:
        """One greedy completion for each trained (model, variant, seed) and OOD prompt."""
        rows = self.completions[self.completions["prompt_set"].astype(str).str.startswith("ood")]
        rows = rows[(rows["decoding"] == "greedy") & (rows["variant"] != REFERENCE)]
        return rows.sort_values("replicate", kind="stable").drop_duplicates(["model", "variant", "seed", "prompt"])


def load(directory: Path) -> RunTables:
    """Reads a run directory; raises UsageError that names what is missing and the command that makes it.

    Only trajectory, completions and verdicts may be missing: a study without probes or claims has none.
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
    return RunTables(
        resolved=resolved,
        env=_json(directory / "env.json"),
        certificates=_parquet(directory / "certificates.parquet", CERTIFICATES),
        measurements=_parquet(directory / "measurements.parquet", MEASUREMENTS),
        trajectory=_parquet(directory / "trajectory.parquet", TRAJECTORY, optional=True),
        completions=_parquet(directory / "completions.parquet", COMPLETIONS, optional=True),
        verdicts=_parquet(directory / "verdicts.parquet", VERDICTS, optional=True),
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


def modal_completions(run: RunTables) -> list[tuple[str, str, dict[Key, tuple[str, bool, float, float]]]]:
    """For each OOD prompt: (prompt, broken rules, {key: (completion, finished, its share, share that keep R1)}).

    The completion is the most frequent one over seeds under greedy decoding (ties: the first seed's); prompts come in
    the order of the table.
    """
    rows = run.greedy_ood().sort_values("seed", kind="stable")
    cells: dict[str, dict[Key, tuple[str, bool, float, float]]] = {}
    for (model, variant, prompt), group in rows.groupby(["model", "variant", "prompt"], sort=False):
        key, prompt = (str(model), str(variant)), str(prompt)
        finished = group["finished"].eq(True)
        pairs = zip(group["completion"].astype(str), finished, strict=True)
        (completion, ended), times = Counter(pairs).most_common(1)[0]
        kept = float((finished & group[HEADLINE].eq(True)).mean()) if HEADLINE in group else float("nan")
        cells.setdefault(prompt, {})[key] = (completion, ended, times / len(group), kept)
    prompts = run.greedy_ood().drop_duplicates("prompt").sort_values(["broken", "prompt"])
    return [(row["prompt"], row["broken"] or "", cells[row["prompt"]]) for row in records(prompts)]


def ordered_prompts(run: RunTables, rows: pd.DataFrame) -> tuple[dict[str, list[str]], list[tuple[float, str]], str]:
    """Groups of prompts by broken rules (largest first), tick places with labels, and the name of the axis.

    Inside a group prompts go by the difference of the two symbols' counts, else by the share of seeds that keep R1.
    """
    table = rows.groupby("prompt", as_index=False).agg(
        broken=("broken", "first"), kept=("kept", "mean"), prompt_set=("prompt_set", "first")
    )
    symbols = list(run.language["symbols"])
    two = len(symbols) == 2
    difference = table["prompt"].map(lambda prompt: prompt.count(symbols[0]) - prompt.count(symbols[1])) if two else 0
    table = table.assign(broken=table["broken"].fillna("").astype(str), difference=difference, share=-table["kept"])
    table = table.sort_values(["difference", "prompt_set", "share", "prompt"] if two else ["share", "prompt"])
    groups = {name: list(table.loc[table["broken"] == name, "prompt"]) for name in table["broken"].value_counts().index}
    if not two:
        return groups, [], f"OOD prompts, by the share of seeds that keep {HEADLINE}"
    ticks, left = [], 0
    of = dict(zip(table["prompt"], table["difference"], strict=True))
    for group in groups.values():
        for value in dict.fromkeys(of[prompt] for prompt in group):
            size = sum(of[prompt] == value for prompt in group)
            if size >= 0.025 * len(table):
                ticks.append((left + size / 2, f"{value:+d}".replace("-", "−") if value else "0"))
            left += size
        left += 3
    return groups, ticks, f"OOD prompts, by #{symbols[0]} − #{symbols[1]} in the prompt"


def _remedy(path: Path) -> str:
    """What makes a missing or damaged file anew; resolved.json alone says whose run it is, so nothing can."""
    if path.name == "resolved.json":
        return "restore it, or start afresh with another --out"
    return f"delete it where it is damaged, and `lmtest run STUDY.toml --out {path.parent} --resume` makes it"


def _require(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"expected a finished run, found no {path.name} in {path.parent}: {_remedy(path)}")


def _json(path: Path) -> dict[str, Any]:
    _require(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}): {_remedy(path)}") from error
    if not isinstance(value, dict):
        raise UsageError(f"expected an object in {path}, found a {type(value).__name__}: {_remedy(path)}")
    return value


def _parquet(path: Path, columns: tuple[str, ...], *, optional: bool = False) -> pd.DataFrame:
    if optional and not path.is_file():
        return pd.DataFrame(columns=list(columns))
    _require(path)
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise UsageError(f"{path} is not parquet ({error}): {_remedy(path)}") from error
    if optional and frame.empty:
        return pd.DataFrame(columns=list(columns))
    if absent := [column for column in columns if column not in frame.columns]:
        raise UsageError(f"{path} lacks the columns {', '.join(absent)}: it is of another version; {_remedy(path)}")
    return frame
