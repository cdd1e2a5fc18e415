"""What is done with a cell: trained, derived, certified, evaluated; and the reference models beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lmtest import atomic
from lmtest.cells import TABLES, Cell
from lmtest.columns import CERTIFICATES, COMPLETIONS, IDENTITY, MEASUREMENTS, TRAJECTORY
from lmtest.errors import UsageError
from lmtest.evaluators.evaluator import Evaluator
from lmtest.evaluators.registry import trainable
from lmtest.evaluators.rule_extrapolation import RuleExtrapolation
from lmtest.languages import Language, build_language
from lmtest.languages.hmm_mixture import HmmMixture
from lmtest.models.contract import LanguageModel
from lmtest.models.reference import reference_models
from lmtest.models.stack import StackedModel
from lmtest.models.transformer import Transformer
from lmtest.saturation import Certificate, added_kl, certify
from lmtest.seeds import generator, stream_seed
from lmtest.study import Study
from lmtest.training import LanguageCurriculum, TrainingConfig, train
from lmtest.training.checkpoint import Progress, load
from lmtest.training.curriculum import Curriculum
from lmtest.training.loop import Steps
from lmtest.validation import read_json, validate
from lmtest.variants.exchange import Cost, Exchanged, exchange_cost
from lmtest.variants.preserve.certificate import double, function_certificate, impossible_prompts
from lmtest.variants.preserve.tables import Preserving
from lmtest.variants.registry import Exchange, Longer, Taught
from lmtest.variants.rows import DIFFERENCE, DIFFERENCE_FLOAT64, DOCUMENTS, added_rows, exchange_rows, function_rows
from lmtest.variants.taught import Teaching

OUTSIDE = 64
"""Impossible prompts of a function certificate, where no evaluator has any."""
PROBE_DRAWS = 200
"""Fresh strings of a certificate along the way, where the language cannot be summed exactly."""


@dataclass(frozen=True)
class Workshop:
    """What every cell of a study needs: the study by name, its languages, where to write, and on which device."""

    name: str
    study: Study
    languages: dict[str, Language]
    directory: Path
    device: str

    @classmethod
    def load(cls, directory: Path, device: str) -> Workshop:
        """From the resolved.json of a run directory: all that another process needs. UsageError where it is damaged."""
        path = directory / "resolved.json"
        resolved = read_json(path)
        try:
            study = validate(Study, resolved["config"], str(path))
            languages = {
                name: build_language(name, entry["definition"], str(path))
                for name, entry in resolved["languages"].items()
            }
            return cls(resolved["name"], study, languages, directory, device)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} is damaged ({type(error).__name__}: {error}): restore it, or run the study again"
            ) from None

    @cached_property
    def evaluators(self) -> dict[str, list[Evaluator]]:
        """By language: prompts, chance levels and the sorting of short strings are computed once."""
        return {name: self.study.evaluators.build(language) for name, language in self.languages.items()}

    def build(self, cell: Cell) -> StackedModel:
        vocabulary = self.languages[cell.language].vocabulary
        return self.study.models[cell.model].build(vocabulary, cell.seeds, self.device)

    def training(self, cell: Cell) -> TrainingConfig:
        """How a cell that trains does so."""
        first, derivation = self.study.training_of(cell.language, cell.model), self.study.derived.get(cell.variant)
        if isinstance(derivation, Longer):
            return derivation.training_of(first)
        return derivation.training if isinstance(derivation, Taught) else first

    def steps(self, cell: Cell) -> int:
        """Updates of a cell; 0 for a variant that is made without any."""
        made = isinstance(self.study.derived.get(cell.variant), Exchange | Preserving)
        return 0 if made else self.training(cell).steps

    def rehearse(self, cell: Cell) -> Steps:
        """The training of a cell with untrained models, to be timed."""
        model = self.build(cell)
        return Steps(model, self._curriculum(cell, model, model), self.training(cell))

    def run(self, cell: Cell, report: Callable[[int, float], None], interrupted: Callable[[], bool]) -> None:
        """Trains, derives or resumes the cell, then certifies and evaluates it; writes its four tables."""
        labels = {"language": cell.language, "model": cell.model, "variant": cell.variant}
        derivation = self.study.derived.get(cell.variant)
        parent = None if derivation is None else self._parent(cell)
        if isinstance(derivation, Exchange):
            assert parent is not None
            tables = self._exchange(derivation, parent, labels, cell.seeds)
            trajectory = pd.DataFrame()
        elif isinstance(derivation, Preserving):
            assert isinstance(parent, Transformer)
            tables = self._preserve(derivation, parent, labels, cell.seeds)
            trajectory = pd.DataFrame()
        else:
            model = self.build(cell)
            progress = self._train(cell, model, parent, report, interrupted)
            added = [] if parent is None else self._added(model, parent, labels["language"], cell.seeds)
            tables = self.measure(model, labels, cell.seeds, self._last_probes(cell, progress), added)
            trajectory = self._label(pd.DataFrame(progress.probes), labels)
        tables["trajectory"] = trajectory.reindex(columns=list(TRAJECTORY))
        for name in TABLES:
            atomic.write_parquet(cell.table(self.directory, name), tables[name])

    def _train(
        self,
        cell: Cell,
        model: StackedModel,
        parent: StackedModel | None,
        report: Callable[[int, float], None],
        interrupted: Callable[[], bool],
    ) -> Progress:
        language, config, evaluators = (
            self.languages[cell.language],
            self.training(cell),
            self.evaluators[cell.language],
        )
        steps_of = {e.name: set(e.probed_at(config.steps, config.probe_every)) for e in evaluators}
        decoding_seed = stream_seed(0, "decoding", cell.model, cell.variant)
        few = min(PROBE_DRAWS, self.study.saturation.draws)

        def probe(model: StackedModel, step: int) -> list[dict[str, Any]]:
            certificate = self._certify(language, model, few, "probe", step)
            kl = dict(zip(cell.seeds, certificate.kl.tolist(), strict=True))
            saturated = dict(zip(cell.seeds, certificate.saturated(self.study.saturation).tolist(), strict=True))
            probed = [e for e in evaluators if step in steps_of[e.name]]
            rows = [row for evaluator in probed for row in evaluator.probe(model, cell.seeds, decoding_seed)]
            return [row | {"step": step, "kl": kl[row["seed"]], "saturated": saturated[row["seed"]]} for row in rows]

        def stop(model: StackedModel, step: int) -> torch.Tensor:
            below = config.stop_below
            assert below is not None
            # Draws of its own: the final certificate is on strings that no stopping rule has seen.
            return torch.from_numpy(self._certify(language, model, few, "stop", step).upper < below)

        if parent is not None:
            model.load_state(parent.state())
        return train(
            model,
            self._curriculum(cell, model, parent),
            config,
            cell.checkpoint(self.directory),
            self.identity(cell),
            probe=probe,
            probe_at=set().union(*steps_of.values()),
            stop=None if config.stop_below is None else stop,
            report=report,
            interrupted=interrupted,
        )

    def _curriculum(self, cell: Cell, model: StackedModel, parent: StackedModel | None) -> Curriculum:
        language, derivation = self.languages[cell.language], self.study.derived.get(cell.variant)
        if isinstance(derivation, Taught):
            assert isinstance(language, HmmMixture)
            assert parent is not None
            return Teaching(derivation, language, parent)
        prompts, config, variant, before = (
            trainable(self.evaluators[cell.language]),
            self.training(cell),
            cell.variant,
            0,
        )
        if isinstance(derivation, Longer):
            variant, before = self.study.parent(variant), self.study.training_of(cell.language, cell.model).steps
        return LanguageCurriculum(model, language, self.study.variants[variant], prompts, config, before)

    def _parent(self, cell: Cell) -> StackedModel:
        """The trained models that a derived cell is made from."""
        parent = replace(cell, variant=self.study.parent(cell.variant))
        model = self.build(parent)
        _, parameters, _ = load(parent.checkpoint(self.directory), self.identity(parent))
        model.load_state(parameters)
        return model

    def references(self) -> dict[str, pd.DataFrame]:
        """The same tables for the reference models of every language, the exact law with exchanges among them (no trajectory)."""
        tables = []
        for name, language in self.languages.items():
            for key, model in reference_models(language).items():
                tables.append(self.measure(model, {"language": name, "model": key, "variant": "reference"}, (0,)))
            for key, derivation in self.study.derived.items():
                if isinstance(derivation, Exchange):
                    labels = {"language": name, "model": key, "variant": "reference"}
                    tables.append(self._exchange(derivation, language, labels, (0,)))
        return {key: pd.concat([table[key] for table in tables], ignore_index=True) for key in tables[0]}

    def _exchange(
        self, derivation: Exchange, model: LanguageModel, labels: dict[str, str], seeds: tuple[int, ...]
    ) -> dict[str, pd.DataFrame]:
        """The tables of a model with exchanges; what they cost is added to its certificate, for draws would not hit them."""
        language = self.languages[labels["language"]]
        contexts = derivation.contexts.build(language)
        cost = exchange_cost(language, model, contexts, derivation.draws, generator(0, "exchange"))
        rows = exchange_rows(cost, contexts.name, seeds, 0 if cost.exact else derivation.draws)
        return self.measure(Exchanged(model, contexts), labels, seeds, rows=rows, before=model, cost=cost)

    def _preserve(
        self, derivation: Preserving, parent: Transformer, labels: dict[str, str], seeds: tuple[int, ...]
    ) -> dict[str, pd.DataFrame]:
        """The tables of a variant that computes the same function, with the certificate that it does, in both precisions."""
        language = self.languages[labels["language"]]
        rules = [e for e in self.evaluators[labels["language"]] if isinstance(e, RuleExtrapolation)]
        prompts = [row for e in rules for row in e.outside] or impossible_prompts(language, OUTSIDE)
        model, rows, draws = derivation.apply(parent), [], self.study.saturation.draws
        exact = double(parent)
        for measure, before, after in (
            (DIFFERENCE, parent, model),
            (DIFFERENCE_FLOAT64, exact, derivation.apply(exact)),
        ):
            rng = generator(0, "function certificate")
            rows += function_rows(measure, function_certificate(language, before, after, prompts, draws, rng), seeds)
        return self.measure(model, labels, seeds, rows=rows)

    def _added(
        self, model: StackedModel, parent: StackedModel, language: str, seeds: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        """What a model's loss is above its parent's, on the certificate's own strings."""
        draws, rng = self.study.saturation.draws, generator(0, "certificate")
        value, lower, upper = added_kl(self.languages[language], parent, model, draws, rng)
        return added_rows(value, lower, upper, DOCUMENTS, seeds, draws)

    def measure(
        self,
        model: LanguageModel,
        labels: dict[str, str],
        seeds: tuple[int, ...],
        known: Mapping[str, list[dict[str, Any]]] | None = None,
        rows: Sequence[dict[str, Any]] = (),
        before: LanguageModel | None = None,
        cost: Cost | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Certificate and evaluators of one model: certificates, measurements, completions.

        `known`: by evaluator the rows that are known from the end of training. `rows`: more measurements. `before`, `cost`: the
        model that was certified instead, and what to add to its certificate.
        """
        language, evaluators = self.languages[labels["language"]], self.evaluators[labels["language"]]
        certificate = self._certify(language, before or model, self.study.saturation.draws, "certificate")
        if cost is not None:
            if (
                before is language
            ):  # exactly 0: what its own certificate shows is rounding, and may be more than the cost
                zero = np.zeros_like(certificate.kl)
                certificate = replace(certificate, kl=zero, lower=zero, upper=zero, exact=True)
            certificate = certificate.plus(cost.value, cost.lower, cost.upper, cost.exact)
        saturated = certificate.saturated(self.study.saturation)
        certificates = pd.DataFrame(
            {
                "seed": seeds,
                "kl": certificate.kl,
                "kl_lower": certificate.lower,
                "kl_upper": certificate.upper,
                "kl_per_token": certificate.kl / certificate.tokens,
                "exact": certificate.exact,
                "saturated": saturated,
            }
        )
        decoding_seed = stream_seed(0, "decoding", labels["model"], labels["variant"])
        measured, completed = [pd.DataFrame(rows)] if rows else [], []
        for evaluator in evaluators:
            if known and evaluator.name in known:
                measured.append(pd.DataFrame(known[evaluator.name]))
                continue
            measurements, completions = evaluator.evaluate(model, seeds, decoding_seed)
            measured.append(measurements)
            if len(completions):
                completed.append(completions)
        measurements = pd.concat(measured, ignore_index=True)
        measurements["saturated"] = measurements["seed"].map(dict(zip(seeds, saturated, strict=True)))
        completions = pd.concat(completed, ignore_index=True) if completed else pd.DataFrame(columns=list(COMPLETIONS))
        completions = self._label(completions, labels)
        return {
            "certificates": self._label(certificates, labels)[list(CERTIFICATES)],
            "measurements": self._label(measurements, labels)[list(MEASUREMENTS)],
            "completions": completions[[*IDENTITY, *(c for c in completions.columns if c not in IDENTITY)]],
        }

    def _certify(self, language: Language, model: LanguageModel, draws: int, *stream: str | int) -> Certificate:
        # The same draws for every model of a study: differences between models are then paired.
        rng: np.random.Generator = generator(0, *stream)
        return certify(language, model, draws, rng)

    def _label(self, table: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
        return table.assign(study=self.name, **labels)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Whose checkpoint it is: a change in any of these makes it another model's."""
        return {
            "language": cell.language,
            "vocabulary": list(self.languages[cell.language].symbols),
            "model": self.study.models[cell.model].model_dump(mode="json"),
            "variant": cell.variant,
            "seeds": list(cell.seeds),
        }

    def _last_probes(self, cell: Cell, progress: Progress) -> dict[str, list[dict[str, Any]]]:
        """By evaluator what the probe of the last step says, where that is all there is to say."""
        found: dict[str, list[dict[str, Any]]] = {}
        for evaluator in self.evaluators[cell.language]:
            if evaluator.last_probe_is_all:
                rows = [r for r in progress.probes if r["evaluator"] == evaluator.name and r["step"] == progress.step]
                kept = [{k: v for k, v in row.items() if k not in ("step", "kl", "saturated")} for row in rows]
                found |= {evaluator.name: kept} if kept else {}
        return found
