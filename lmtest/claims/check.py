"""Whether a study has what its claims are about: asked before anything is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from lmtest.claims.groups import KL, Quantity
from lmtest.claims.schema import Claim, Heterogeneity, Threshold
from lmtest.errors import UsageError, nearest
from lmtest.evaluators.contract import Evaluated


def resolve(claim: Claim, what: str, named: str | None, known: Collection[str]) -> str:
    """The `what` ("model", …) that a claim is about: as named, else the study's only one; raises UsageError else."""
    if named is not None:
        if named not in known:
            raise UsageError(f"claim {claim.id!r}: unknown {what} {named!r}; {nearest(named, known)}")
        return named
    if len(known) != 1:
        raise UsageError(
            f"claim {claim.id!r}: expected {what} = … because the study has {len(known)} {what}s"
            f" ({', '.join(sorted(known)) or 'none'}); name one of them"
        )
    return next(iter(known))


def check_claims(
    claims: Sequence[Claim],
    models: Collection[str],
    variants: Collection[str],
    evaluated: Mapping[str, Evaluated],
) -> None:
    """Raises UsageError where a claim names what the study does not have: a language, a model, a measure, prompts, …

    `models`, `variants`: the trained ones; `evaluated`: by language.
    """
    if repeated := [name for name, times in Counter(claim.id for claim in claims).items() if times > 1]:
        raise UsageError(f"expected a unique id for each claim, found {repeated[0]!r} more than once; rename one")
    for claim in claims:
        language = resolve(claim, "language", claim.language, evaluated)
        for group in claim.groups:
            resolve(claim, "model", group.model, models)
            resolve(claim, "variant", group.variant, variants)
            for quantity in claim.quantities(group):
                if quantity.measure != KL:
                    _check_measured(claim, quantity, evaluated[language])


def _check_measured(claim: Claim, quantity: Quantity, evaluated: Evaluated) -> None:
    asked = (quantity.measure, str(quantity.prompt_set), quantity.decoding)
    for what, found, known in zip(
        ("measure", "prompt_set", "decoding"), asked, zip(*evaluated.values, strict=True), strict=True
    ):
        if found not in (names := {*known, *([KL] if what == "measure" else [])}):
            raise UsageError(f"claim {claim.id!r}: unknown {what} {found!r}; {nearest(found, names)}")
    if asked not in evaluated.values:
        sets = sorted({(prompts, how) for measure, prompts, how in evaluated.values if measure == asked[0]})
        raise UsageError(
            f"claim {claim.id!r}: {asked[0]} is not measured on {asked[1]} ({asked[2]}), only on "
            + ", ".join(f"{prompts} ({how})" for prompts, how in sets)
        )
    if isinstance(claim, Heterogeneity) and asked not in evaluated.outcomes:
        raise UsageError(
            f"claim {claim.id!r}: heterogeneity needs an outcome per prompt, which {claim.measure} on {asked[1]} "
            f"({asked[2]}) has none of; choose among measures "
            f"{', '.join(sorted({m for m, _, _ in evaluated.outcomes}))} and prompt sets "
            f"{', '.join(sorted({s for _, s, _ in evaluated.outcomes}))}"
        )
    if isinstance(claim, Threshold) and claim.baseline == "language" and asked[1].startswith("ood"):
        raise UsageError(
            f"claim {claim.id!r}: the language has no law on {asked[1]} prompts; take rule_keeper as the baseline"
        )
