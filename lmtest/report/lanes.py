"""What was fine-tuned on what, and beside what it is put: read off names in the tables and what the study declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from lmtest.report.marks import PALETTE
from lmtest.report.rows import label, saturated
from lmtest.report.shapes import scratch
from lmtest.report.tables import FINE_TUNING, TUNING, Key, RunTables, select

NAME = re.compile(r"(\w+)\.(full|last_layer|probe)\.(all|\d+)(?:@(\S+))?")
PROTOCOLS = {"full": "full fine-tuning", "last_layer": "last layer alone", "probe": "linear probe"}
SCORES = {"excess": "exact_match", "cross_entropy": "accuracy"}
"""What a task's loss is called → what its share of right answers is called."""
TITLES = {
    "excess": "Excess, nats per string",
    "cross_entropy": "Cross-entropy, nats per string",
    "exact_match": "Exact match, share of strings",
    "accuracy": "Accuracy, share of strings",
}
CONTROLS = {
    "copies": "Plain duplication and equal splitting: the copies stay equal for ever, so this is the small model with other "
    "learning rates for groups of its parameters. What it gains, size alone does not explain.",
    "zero": "All-zero identity blocks: no matrix gets a gradient, biases are held: this is the small model; its ratio is 1.",
    "rescale": "Rescaling changes nothing in size: what it gains or loses is a matter of the learning rate.",
    "permute": "Permutations change the order of neurons or heads alone; the ratio is 1, up to rounding.",
}
"""What each control says."""


class Lane(NamedTuple):
    """One task learnt by one protocol from so many examples ("all", or a number in digits)."""

    task: str
    protocol: str
    examples: str

    def __str__(self) -> str:
        return ".".join(self)

    def at(self, rate: float | None = None) -> str:
        """The prompt set of its rows: at one learning rate, or at the chosen one (None)."""
        return str(self) if rate is None else f"{self}@{rate:g}"

    @property
    def from_examples(self) -> str:
        """How many strings it is learnt from, in words."""
        return "all strings" if self.examples == "all" else f"{self.examples} string{'s' * (self.examples != '1')}"


def of_tuning(run: RunTables) -> bool:
    """Whether it is about fine-tuning, or what is known of models before."""
    return any(run.has(name) for name in TUNING)


def lanes(measurements: pd.DataFrame) -> list[Lane]:
    """Those that were measured: tasks and protocols in the order of the table, in each the fewest examples first."""
    found = [Lane(*match.groups()[:3]) for match in _names(measurements)]
    pairs = list(dict.fromkeys((lane.task, lane.protocol) for lane in found))
    return sorted(
        dict.fromkeys(found),
        key=lambda lane: (pairs.index((lane.task, lane.protocol)), lane.examples == "all", len(lane.examples), lane),
    )


def rates(measurements: pd.DataFrame, lane: Lane | None = None) -> list[float]:
    """The grid of learning rates, ascending: of one lane, or of all."""
    found = [match for match in _names(measurements) if match[4]]
    return sorted({float(match[4]) for match in found if lane is None or Lane(*match.groups()[:3]) == lane})


def main_lanes(run: RunTables) -> list[Lane]:
    """For each task its full fine-tuning from most examples: what is looked at where one lane must do."""
    full = [lane for lane in lanes(run.measurements) if lane.protocol == "full"]
    return list({lane.task: lane for lane in full}.values())


def loss_of(run: RunTables, lane: Lane) -> str:
    """What the lane's loss is called: "excess" or "cross_entropy"."""
    measured = set(select(run.measurements, evaluator=FINE_TUNING, prompt_set=str(lane))["measure"])
    return next(loss for loss in SCORES if loss in measured)


def tuned(run: RunTables) -> list[Key]:
    """What was fine-tuned."""
    rows = run.measurements[run.measurements["evaluator"] == FINE_TUNING]
    found = set(rows[["model", "variant"]].itertuples(index=False, name=None))
    return [key for key in run.trained if key in found]


def ordered(run: RunTables) -> list[Key]:
    """What was fine-tuned, controls last."""
    return sorted(tuned(run), key=lambda key: is_control(run, key))


def by_seed(run: RunTables, key: Key, measure: str, prompt_set: str, decoding: str = "exact") -> pd.Series:
    """The values of one (model, variant), by seed."""
    return run.values(key, measure, prompt_set, decoding).sort_index()


def baseline(run: RunTables, key: Key) -> Key | None:
    """What a row is put beside: what it was derived from, else the study's first model and variant; None for these."""
    first = scratch(run)[0] if scratch(run) else None
    if (config := run.derived.get(key[1])) is None:
        return None if key == first else first
    bases = [variant for variant in run.variants if variant not in run.derived]
    base = config.get("of") or (bases[0] if bases else None)
    return (key[0], base) if base and (key[0], base) in run.trained else None


def control(config: Mapping[str, Any]) -> str | None:
    """Which of the controls a derived variant is, if any: what is the small model again, or the same size."""
    kind = config["kind"]
    if (kind == "widen" and not config["sigma"]) or (kind == "split" and config["share"] == 0.5):
        return "copies"
    if kind == "deepen" and config["reads"] == "zero":
        return "zero"
    return "rescale" if kind == "rescale" else "permute" if kind.startswith("permute_") else None


def is_control(run: RunTables, key: Key) -> bool:
    return key[1] in run.derived and control(run.derived[key[1]]) is not None


def preserving(config: Mapping[str, Any]) -> str | None:
    """What a function-preserving variant is made by, in words; None where a derived variant is none."""
    share = config.get("share", 0.0)
    signs = "two equal ones" if share == 0.5 else f"two of {'the same sign' if share < 1 else 'opposite signs'}"
    copies = f"copies that differ, σ = {config.get('sigma', 0.0):g}" if config.get("sigma") else "plain copies"
    heads = f", {config['heads']} heads" if "heads" in config else ""
    layers = config.get("layers", 1)
    words = {
        "widen": f"width × {config.get('ratio')}, {copies}{heads}",
        "pad": f"{config.get('coordinates')} coordinates of the residual stream that are 0",
        "extra_units": f"{config.get('units')} more feed-forward units",
        "extra_heads": f"{config.get('heads')} more heads",
        "split": f"every neuron split into {signs}, which write {share:g} and {1 - share:g}".replace("-", "−"),
        "permute_neurons": "feed-forward neurons in another order",
        "permute_heads": "heads in another order",
        "rescale": f"what neurons read × {config.get('alpha', 1.0):g}, what they write ÷ {config.get('alpha', 1.0):g}",
        "deepen": f"{layers} identity block{'s' * (layers != 1)}, all zero"
        if config.get("reads") == "zero"
        else f"{layers} identity block{'s' * (layers != 1)}: random reads, zero writes",
    }
    return words.get(config["kind"])


def hues(run: RunTables) -> dict[Key, str]:
    """A colour for each trained (model, variant): a variant's own goes to the first model that has it, others follow."""
    first = {variant: next(key for key in run.trained if key[1] == variant) for variant in run.variants}
    order = [*first.values(), *(key for key in run.trained if key not in first.values())]
    return {key: PALETTE[i % len(PALETTE)] for i, key in enumerate(order)}


def head(run: RunTables, key: Key) -> dict[str, Any]:
    """What every row begins with; `beside` where its baseline is another than the study's first."""
    before = baseline(run, key)
    first = next((one for one in run.trained if baseline(run, one) is None), None)
    return {
        "label": label(run, key),
        "colour": hues(run)[key],
        "baseline": before is None,
        "beside": label(run, before) if before not in (None, first) and before else "",
        "control": is_control(run, key),
        "dagger": saturated(run, key)[1],
    }


def _names(measurements: pd.DataFrame) -> list[re.Match[str]]:
    names = dict.fromkeys(measurements.loc[measurements["evaluator"] == FINE_TUNING, "prompt_set"].astype(str))
    return [match for name in names if (match := NAME.fullmatch(name))]
