"""Rule extrapolation: how does a model complete a prompt that no string of the language starts with?

Reizinger et al., ICML 2024 (arXiv 2405.01964), case study 1; Mészáros et al., NeurIPS 2024 (arXiv 2409.13728). Unlike
there, an unfinished completion fails, finished ones stand under a name of their own, and every number has its denominator,
its interval over prompts and its exact chance level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import ndtri

from lmtest.evaluators.chance import uniform_chance
from lmtest.evaluators.contract import Evaluated
from lmtest.evaluators.evaluator import Size, regularly
from lmtest.languages.base import Language, Row
from lmtest.languages.prompts import PromptSet, empty_prompt, prompts_of_length, published_prompts, split_heldout
from lmtest.measurement import measurement
from lmtest.models.contract import LanguageModel
from lmtest.models.decoding import Completions, Decoding, decode
from lmtest.validation import Table

NAME = "rule_extrapolation"


class RuleExtrapolationConfig(Table):
    """The `[evaluators.rule_extrapolation]` table of a study."""

    prompts: Literal["all", "published"] = "all"
    """All of `prompt_length` symbols, or those that the language file declares, with their weights."""
    prompt_length: int = 8
    max_new_tokens: int = Field(64, ge=1, le=100_000)
    """Completions longer than so many tokens (EOS counted) are unfinished."""
    heldout: float = 0.5
    """Share of the impossible prompts that no objective is shown; 1: none is shown any, and nothing is split."""
    split_seed: int = 0
    decodings: list[Literal["greedy", "sampled"]] = Field(["greedy", "sampled"], min_length=1)
    samples: int = Field(250, ge=1, le=1_000_000)
    """Sampled completions of a prompt set, at least; a small set repeats its prompts, all equally often."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Of sampled decoding: its logits are divided by it. Greedy decoding knows none."""

    def evaluator(self, language: Language) -> RuleExtrapolation:
        return RuleExtrapolation(language, self)


@dataclass(frozen=True)
class RuleExtrapolation:
    """The evaluator for one language: its prompts are fixed, models come and go."""

    language: Language
    config: RuleExtrapolationConfig

    name = NAME
    last_probe_is_all = False

    @property
    def longest(self) -> int:
        """Symbols of the longest prompt with its completion."""
        return self.longest_prompt + self.config.max_new_tokens

    def measured(self) -> Evaluated:
        """What there will be a value, or an outcome for each prompt, of."""
        decodings: list[str] = [*self.config.decodings]
        values = {*itertools.product(self.measures, [*self.prompt_sets, "ood"], decodings)}
        single = [m for m in self.measures if m != "finish_rate" and not m.endswith("_finished")]
        return Evaluated(values, {*itertools.product(single, self.prompt_sets, decodings)})

    def sizes(self) -> dict[str, Size]:
        """The prompt sets by name; of those that no string starts with the mass is 0."""
        return {
            name: Size(len(prompts.rows), float(np.exp(prompts.log_mass).sum()))
            for name, prompts in self.prompt_sets.items()
        }

    def probed_at(self, steps: int, every: int) -> set[int]:
        return regularly(steps, every)

    @cached_property
    def prompt_sets(self) -> dict[str, PromptSet]:
        """Disjoint prompt sets by name: id, ood_trained and ood_heldout (or ood where nothing is shown), empty.

        Raises UsageError where there are none.
        """
        inside, outside = self._sides
        held = self.config.heldout
        split = (outside,) if held == 1 else split_heldout(outside, held, self.config.split_seed)
        return {s.name: s for s in (inside, *split, empty_prompt(self.language)) if s.rows}

    @cached_property
    def _sides(self) -> tuple[PromptSet, PromptSet]:
        if self.config.prompts == "published":
            return published_prompts(self.language)
        return prompts_of_length(self.language, self.config.prompt_length)

    @cached_property
    def _weights(self) -> dict[str, np.ndarray]:
        """By prompt set; the parts of a split keep the weights that they have in the whole, so that they can be pooled."""
        _, outside = self._sides
        whole = dict(zip(outside.rows, outside.weights.tolist(), strict=True))
        return {
            name: np.array([whole[row] for row in prompts.rows]) if name in self._ood else prompts.weights
            for name, prompts in self.prompt_sets.items()
        }

    @property
    def _ood(self) -> list[str]:
        return [name for name in self.prompt_sets if name.startswith("ood")]

    @property
    def trainable(self) -> list[Row]:
        """The impossible prompts that objectives may be shown."""
        return [row for name in self._ood if name == "ood_trained" for row in self.prompt_sets[name].rows]

    @property
    def outside(self) -> list[Row]:
        """All impossible prompts."""
        return [row for name in self._ood for row in self.prompt_sets[name].rows]

    @property
    def longest_prompt(self) -> int:
        """Symbols of the longest prompt."""
        return max(len(row) for prompts in self.prompt_sets.values() for row in prompts.rows)

    @property
    def measures(self) -> list[str]:
        kinds = [name for rule in self.language.rules for name in (rule, f"{rule}_completion")]
        return [*(name for kind in kinds for name in (kind, f"{kind}_finished")), "grammatical", "finish_rate"]

    def evaluate(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Every prompt set under every decoding → measurements and completions, one row a seed (and a prompt).

        The columns of DESIGN.md that only the caller knows (study, language, model, variant, saturated) are not here yet.
        """
        measurements, completions = [], []
        for decoding in self.config.decodings:
            outcomes = {
                name: self._outcomes(model, prompts, decoding, seed) for name, prompts in self.prompt_sets.items()
            }
            for name, outcome in outcomes.items():
                completions.append(self._completion_table(self.prompt_sets[name], outcome, decoding, seeds))
            together = {name: [outcome] for name, outcome in outcomes.items()}
            together["ood"] = [outcomes[name] for name in self._ood]
            for name, parts in together.items():
                measurements += self._measure(parts, seeds, name, decoding)
        return pd.DataFrame(measurements), pd.concat(completions, ignore_index=True)

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
        """All impossible prompts, greedy: what is followed along training."""
        ood = [self._outcomes(model, self.prompt_sets[name], "greedy", seed) for name in self._ood]
        return self._measure(ood, seeds, "ood", "greedy")

    def _outcomes(self, model: LanguageModel, prompts: PromptSet, decoding: Decoding, seed: int) -> _Outcomes:
        new_tokens, temperature = self.config.max_new_tokens, self.config.temperature
        repeats = math.ceil(self.config.samples / len(prompts.rows))
        rows, vocabulary = prompts.rows, self.language.vocabulary
        if decoding == "sampled":
            rows = rows * repeats
        done = decode(model, vocabulary, rows, new_tokens, decoding, seed, temperature)
        if decoding == "greedy" and repeats > 1 and bool(done.tied.any()):
            # Exact ties (reference models have them) are broken at random: one completion a prompt would be a matter of luck.
            rows = rows * repeats
            done = decode(model, vocabulary, rows, new_tokens, decoding, seed, temperature)
        weights = self._weights[prompts.name]
        return _Outcomes(rows, weights, done, self._judge(rows, done), self._chances[prompts.name])

    @cached_property
    def _chances(self) -> dict[str, dict[str, np.ndarray]]:
        n = self.config.max_new_tokens
        return {name: uniform_chance(self.language, prompts.rows, n) for name, prompts in self.prompt_sets.items()}

    def _judge(self, rows: list[Row], done: Completions) -> dict[str, np.ndarray]:
        """Measure → [S, N] bool: finished, and the rule holds on the whole string or on the completion alone."""
        n_seeds, n_rows, _ = done.tokens.shape
        alone = done.tokens.flatten(0, 1)
        lengths = done.lengths.flatten()
        prompts, prompt_lengths = self.language.vocabulary.pack(rows * n_seeds)
        whole = torch.cat([prompts[:, 1:], torch.full_like(alone, self.language.vocabulary.pad)], 1)
        whole = whole.scatter(1, prompt_lengths[:, None] + torch.arange(alone.shape[1]), alone)
        whole_lengths = prompt_lengths + lengths
        finished = done.finished.flatten()
        results = {"finish_rate": finished}
        for name, rule in self.language.rules.items():
            results[name] = finished & rule.holds(whole, whole_lengths)
            results[f"{name}_completion"] = finished & rule.holds(alone, lengths)
        grammatical = torch.zeros_like(finished)
        ended = finished.nonzero().flatten()
        if len(ended):
            strings = [tuple(whole[i, : whole_lengths[i]].tolist()) for i in ended]
            grammatical[ended] = self.language.log_prob_ids(strings) > -math.inf
        results["grammatical"] = grammatical
        return {name: value.view(n_seeds, n_rows).numpy() for name, value in results.items()}

    def _measure(
        self, parts: list[_Outcomes], seeds: Sequence[int], prompt_set: str, decoding: Decoding
    ) -> list[dict[str, Any]]:
        rows = []
        weights = np.concatenate([part.weights for part in parts])
        chance = {
            key: weighted_mean(np.concatenate([part.chance[key] for part in parts]), weights) for key in parts[0].chance
        }
        # Each prompt weighs the same however often its set repeats it.
        shares = np.concatenate([part.weights[part.prompt_index] / part.repeats for part in parts])
        for i, seed in enumerate(seeds):
            defined = np.concatenate([part.done.defined[i].numpy() for part in parts])
            finished = np.concatenate([part.judged["finish_rate"][i] for part in parts])
            prompts = np.concatenate([part.prompt_index + 1_000_000 * k for k, part in enumerate(parts)])
            for measure in self.measures:
                base = measure.removesuffix("_finished")
                counted = defined & finished if base != measure else defined
                outcome = np.concatenate([part.judged[base][i] for part in parts])[counted]
                interval = clustered_share(outcome, prompts[counted], shares[counted])
                level = chance[base] if base == measure else chance[base] / chance["finish_rate"]
                count = int(counted.sum())
                rows.append(
                    measurement(seed, NAME, measure, prompt_set, interval, count, decoding=decoding, chance=level)
                )
        return rows

    def _completion_table(
        self, prompts: PromptSet, outcome: _Outcomes, decoding: Decoding, seeds: Sequence[int]
    ) -> pd.DataFrame:
        vocabulary = self.language.vocabulary
        tables = []
        for i, seed in enumerate(seeds):
            kept = outcome.done.defined[i].numpy()
            texts = [
                vocabulary.text(vocabulary.join(row[:n]))
                for row, n in zip(outcome.done.tokens[i].tolist(), outcome.done.lengths[i].tolist(), strict=True)
            ]
            table = pd.DataFrame(
                {
                    "seed": seed,
                    "evaluator": NAME,
                    "prompt_set": prompts.name,
                    "prompt": [vocabulary.text(vocabulary.join(row)) for row in outcome.rows],
                    "weight": prompts.weights[outcome.prompt_index],
                    "decoding": decoding,
                    "replicate": np.arange(len(outcome.rows)) // len(prompts.rows),
                    "completion": texts,
                    "finished": outcome.judged["finish_rate"][i],
                    "broken": [",".join(prompts.broken[k]) for k in outcome.prompt_index],
                    **{name: value[i] for name, value in outcome.judged.items() if name != "finish_rate"},
                }
            )
            tables.append(table[kept])
        return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Outcomes:
    """The completions of one prompt set, judged; `rows` repeats the set's prompts."""

    rows: list[Row]
    weights: np.ndarray
    done: Completions
    judged: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]

    @property
    def prompt_index(self) -> np.ndarray:
        return np.arange(len(self.rows)) % len(self.weights)

    @property
    def repeats(self) -> int:
        return len(self.rows) // len(self.weights)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Σ w·x / Σ w; with equal weights the plain mean, to the last bit."""
    weights = weights / weights.max()  # equal weights become 1
    return float((weights * values).sum() / weights.sum())


def clustered_share(outcomes: np.ndarray, clusters: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Weighted share of true outcomes with Wilson's 95 % interval at the effective number of outcomes.

    That number is Kish's, (Σw)² / Σw²; where prompts (`clusters`) have several outcomes each, it is no more than the
    design effect of their weighted residuals leaves, and no less than Kish's number of prompts. No outcome at all gives
    NaN, never 0.
    """
    if len(outcomes) == 0:
        return math.nan, math.nan, math.nan
    weights = weights / weights.max()
    share = weighted_mean(outcomes, weights)
    _, which = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(which)
    most = effective = _kish(weights)
    if len(sizes) > 1 and 0 < share < 1 and sizes.max() > 1:
        residuals = np.bincount(which, weights * (outcomes - share))
        variance = (residuals**2).sum() / weights.sum() ** 2 * len(sizes) / (len(sizes) - 1)
        fewest = _kish(np.bincount(which, weights) / sizes)
        effective = float(np.clip(share * (1 - share) / variance if variance > 0 else most, fewest, most))
    lower, upper = wilson(share, effective)
    return share, min(lower, share), max(upper, share)  # rounding may cross by 1e-17


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n draws."""
    # Not statsmodels' proportion_confint: half a second to load, in every process that trains.
    z = float(ndtri(0.975))
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / scale, (centre + half) / scale


def _kish(weights: np.ndarray) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())
