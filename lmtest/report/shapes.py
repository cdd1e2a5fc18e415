"""Which prompts in-context learning was measured on, and which models were changed where: read off names and declarations."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from lmtest.report.rows import label
from lmtest.report.tables import HEADLINE, IN_CONTEXT, PERTURBATION, REFERENCE, Key, RunTables, select

LANGUAGE: Key = ("language", REFERENCE)
"""The exact law; on in-context prompts it is the Bayes predictor."""
SEEN = "seen"
"""The family of prompts that variants are changed on."""
PERTURBED = ("exchange", "taught")
"""Kinds of derived variants that compute something else: others go on training, or keep their function."""
NAME = re.compile(r"(\w+)\.k(\d+)\.n(\d+)")


class Shape(NamedTuple):
    """A set of in-context prompts: n examples of length k each."""

    family: str
    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.family}.k{self.k}.n{self.n}"


def shapes(run: RunTables) -> list[Shape]:
    """The shapes that were measured: families in the order of the study, in each by k and n."""
    names = dict.fromkeys(select(run.measurements, evaluator=IN_CONTEXT)["prompt_set"].astype(str))
    found = [Shape(m[1], int(m[2]), int(m[3])) for m in map(NAME.fullmatch, names) if m]
    families = list(dict.fromkeys(shape.family for shape in found))
    return sorted(found, key=lambda shape: (families.index(shape.family), shape.k, shape.n))


def scratch(run: RunTables) -> list[Key]:
    """What was trained from scratch."""
    return [key for key in run.trained if key[1] not in run.derived]


def called(run: RunTables, key: Key) -> str:
    """How a row is called beside what was trained from scratch: by its model, where that has one such variant."""
    several = len({variant for _, variant in scratch(run)}) > 1
    return label(run, key) if key not in scratch(run) or several else key[0]


@dataclass(frozen=True)
class Derived:
    """A derived variant of one model, or of the exact law; `before` is what it was made from."""

    name: str
    key: Key
    before: Key
    config: dict[str, Any]

    @property
    def taught(self) -> bool:
        return bool(self.config["kind"] == "taught")

    @property
    def exact(self) -> bool:
        """Whether it is the language's own law that was changed."""
        return self.key[1] == REFERENCE

    @property
    def _prompts(self) -> dict[str, Any]:
        """What says k and examples; nothing where the contexts are no prompts."""
        contexts: dict[str, Any] = self.config if self.taught else self.config.get("contexts", {})
        return contexts if "examples" in contexts else {}

    @property
    def k(self) -> int | None:
        return self._prompts.get("k")

    @property
    def examples(self) -> list[int]:
        return list(self._prompts.get("examples", []))

    @property
    def anywhere(self) -> bool:
        return bool(self._prompts.get("anywhere", False))

    @property
    def where(self) -> str:
        """The contexts, in words."""
        if not self.examples and "contexts" not in self.config:
            return "everywhere"
        if not self.examples:
            contexts = self.config["contexts"]
            return f"prefixes of {contexts['length']} symbols with P < {contexts['below']:g}"
        ns = ", ".join(map(str, self.examples))
        return f"prompts, k = {self.k}, n = {ns}{', anywhere' if self.anywhere else ''}"

    def covers(self, shape: Shape) -> bool:
        """Whether prompts of this shape are among those that it was changed on; anywhere, what holds a shorter one is."""
        if shape.family != SEEN or shape.k != self.k:
            return False
        return shape.n >= min(self.examples) if self.anywhere else shape.n in self.examples


def derived(run: RunTables) -> list[Derived]:
    """All variants that lost their function to something, those of the exact law first, then by model."""
    bases = [variant for variant in run.variants if variant not in run.derived]
    found = [
        Derived(key[0], key, LANGUAGE, run.derived[key[0]]) for key in run.references if key[0] in run.derived
    ]  # fmt: skip
    order = list(run.derived)
    found.sort(key=lambda one: order.index(one.name))
    for model, variant in run.trained:
        if (config := run.derived.get(variant)) is not None and config["kind"] in PERTURBED:
            base = config.get("of") or (bases[0] if bases else "")
            found.append(Derived(variant, (model, variant), (model, base), config))
    return found


def cost(run: RunTables, of: Derived, measure: str = "kl_added") -> pd.DataFrame:
    """What a derived variant costs: value, lower and upper by seed, nats per string (or a share)."""
    rows = select(run.measurements, evaluator=PERTURBATION, model=of.key[0], variant=of.key[1], measure=measure)
    return rows.sort_values("seed").set_index("seed")[["value", "lower", "upper"]].astype(float)


def accuracy(run: RunTables, key: Key, shape: Shape) -> pd.Series:
    """In-context accuracy on one shape, by seed."""
    return run.measured(key, "accuracy", str(shape), "greedy").set_index("seed")["value"].astype(float)


def chosen(run: RunTables) -> Shape | None:
    """The shape that is looked at where one must do: one that most derived variants were changed on, with most examples."""
    found = shapes(run)
    if not found:
        return None
    family = SEEN if any(shape.family == SEEN for shape in found) else found[0].family
    found = [shape for shape in found if shape.family == family]
    counts = Counter({shape: sum(one.covers(shape) for one in derived(run)) for shape in found})
    best = max(counts.values())
    if best:
        return max((shape for shape, count in counts.items() if count == best), key=lambda shape: shape.n)
    return max(found, key=lambda shape: (shape.n, -shape.k))


def asked(run: RunTables) -> tuple[str, str, str] | None:
    """(measure, prompt set, title) of what derived variants are judged by: in-context accuracy, else the headline rule."""
    if (shape := chosen(run)) is not None:
        examples = f"{shape.n} example{'s' if shape.n != 1 else ''} of length {shape.k}"
        return "accuracy", str(shape), f"in-context accuracy, {examples}"
    rows = select(run.measurements, measure=HEADLINE, prompt_set=run.heldout)
    return (HEADLINE, run.heldout, f"{HEADLINE} kept, OOD prompts") if len(rows) else None
