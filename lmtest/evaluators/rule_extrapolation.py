"""Rule extrapolation: how does a model complete a prompt that no string of the language starts with?

Reizinger et al., ICML 2024 (arXiv 2405.01964), case study 1; Mészáros et al., NeurIPS 2024 (arXiv 2409.13728). Unlike
there, an unfinished completion fails, finished ones stand under a name of their own, and every number has its denominator,
its interval over prompts and its exact chance level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from statsmodels.stats.proportion import proportion_confint

from lmtest.evaluators.chance import uniform_chance
from lmtest.languages.base import Language
from lmtest.languages.prompts import PromptSet, empty_prompt, prompts_of_length, split_heldout
from lmtest.models.contract import LanguageModel
from lmtest.models.decoding import Completions, Decoding, decode
from lmtest.validation import Table

NAME = "rule_extrapolation"


class RuleExtrapolationConfig(Table):
    """The `[evaluators.rule_extrapolation]` table of a study."""

    prompt_length: int = 8
    max_new_tokens: int = Field(64, ge=1)
    """Completions longer than so many tokens (EOS counted) are unfinished."""
    heldout: float = 0.5
    """Share of the impossible prompts that no objective is shown."""
    split_seed: int = 0
    decodings: list[Literal["greedy", "sampled"]] = Field(["greedy", "sampled"], min_length=1)
    samples: int = Field(250, ge=1)
    """Sampled completions of a prompt set, at least; a small set repeats its prompts."""

    def evaluator(self, language: Language) -> RuleExtrapolation:
        return RuleExtrapolation(language, self)


@dataclass(frozen=True)
class RuleExtrapolation:
    """The evaluator for one language: its prompts are fixed, models come and go."""

    language: Language
    config: RuleExtrapolationConfig

    @cached_property
    def prompt_sets(self) -> dict[str, PromptSet]:
        """Disjoint prompt sets by name: id, ood_trained, ood_heldout, empty. UsageError where there are none."""
        inside, outside = prompts_of_length(self.language, self.config.prompt_length)
        trained, heldout = split_heldout(outside, self.config.heldout, self.config.split_seed)
        sets = [inside, trained, heldout, empty_prompt(self.language)]
        return {s.name: s for s in sets if s.rows}

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
            ood = [outcomes[name] for name in ("ood_trained", "ood_heldout")]
            for name, parts in [*((name, [o]) for name, o in outcomes.items()), ("ood", ood)]:
                measurements += self._measure(parts, seeds, name, decoding)
        return pd.DataFrame(measurements), pd.concat(completions, ignore_index=True)

    def probe(self, model: LanguageModel, seeds: Sequence[int], seed: int) -> list[dict[str, Any]]:
        """All impossible prompts, greedy: what is followed along training."""
        ood = [self._outcomes(model, self.prompt_sets[name], "greedy", seed) for name in ("ood_trained", "ood_heldout")]
        return self._measure(ood, seeds, "ood", "greedy")

    def _outcomes(self, model: LanguageModel, prompts: PromptSet, decoding: Decoding, seed: int) -> _Outcomes:
        repeats = math.ceil(self.config.samples / len(prompts.rows)) if decoding == "sampled" else 1
        rows = prompts.rows * repeats
        done = decode(model, self.language.vocabulary, rows, self.config.max_new_tokens, decoding, seed)
        return _Outcomes(rows, len(prompts.rows), done, self._judge(rows, done), self._chances[prompts.name])

    @cached_property
    def _chances(self) -> dict[str, dict[str, np.ndarray]]:
        n = self.config.max_new_tokens
        return {name: uniform_chance(self.language, prompts.rows, n) for name, prompts in self.prompt_sets.items()}

    def _judge(self, rows: list[tuple[int, ...]], done: Completions) -> dict[str, np.ndarray]:
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
        chance = {key: np.concatenate([part.chance[key] for part in parts]) for key in parts[0].chance}
        for i, seed in enumerate(seeds):
            defined = np.concatenate([part.done.defined[i].numpy() for part in parts])
            finished = np.concatenate([part.judged["finish_rate"][i] for part in parts])
            prompts = np.concatenate([part.prompt_index + 1_000_000 * k for k, part in enumerate(parts)])
            for measure in self.measures:
                base = measure.removesuffix("_finished")
                counted = defined & finished if base != measure else defined
                outcome = np.concatenate([part.judged[base][i] for part in parts])[counted]
                value, lower, upper = clustered_share(outcome, prompts[counted])
                level = float(chance[base].mean())
                rows.append(
                    {
                        "seed": seed,
                        "evaluator": NAME,
                        "measure": measure,
                        "prompt_set": prompt_set,
                        "decoding": decoding,
                        "value": value,
                        "lower": lower,
                        "upper": upper,
                        "count": int(counted.sum()),
                        "chance": level if base == measure else level / float(chance["finish_rate"].mean()),
                    }
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

    rows: list[tuple[int, ...]]
    n_prompts: int
    done: Completions
    judged: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]

    @property
    def prompt_index(self) -> np.ndarray:
        return np.arange(len(self.rows)) % self.n_prompts


def clustered_share(outcomes: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Share of true outcomes with Wilson's 95 % interval; several outcomes of one prompt count as their design effect says.

    No outcome at all gives NaN, never 0.
    """
    n = len(outcomes)
    if n == 0:
        return math.nan, math.nan, math.nan
    share = float(outcomes.mean())
    _, which = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(which)
    effective = float(n)
    if len(sizes) > 1 and 0 < share < 1 and sizes.max() > 1:
        residuals = np.bincount(which, outcomes - share)
        variance = (residuals**2).sum() / n**2 * len(sizes) / (len(sizes) - 1)
        effective = float(np.clip(share * (1 - share) / variance if variance > 0 else n, len(sizes), n))
    lower, upper = proportion_confint(share * effective, effective, method="wilson")
    return share, min(float(lower), share), max(float(upper), share)  # rounding may cross by 1e-17
