"""What claims may say of derived variants alone: how far the function is the same, and what the loss rises by."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import MAIN, ROOT, TINY

from lmtest.claims import Threshold
from lmtest.errors import UsageError
from lmtest.languages import load_language
from lmtest.study import load_study
from lmtest.variants.longer import Longer
from lmtest.variants.preserve.certificate import FunctionCertificate
from lmtest.variants.preserve.tables import Widen
from lmtest.variants.rows import DIFFERENCE, DIFFERENCE_FLOAT64, DOCUMENTS, added_rows, derived_values, function_rows

DERIVED = 'derived={wide={kind="widen",of="normal"},split={kind="split",of="normal"}}'
CONTEXTS = '{kind="improbable",length=3,below=0.9}'


def claim(measure: str, prompt_set: str, variants: str = '"wide","split"', kind: str = "threshold") -> str:
    bound = 'bound=1e-10,direction="below",' if kind == "threshold" else ""
    return (
        f'claims=[{{id="equal",kind="{kind}",statement="The same function.",model="transformer",variants=[{variants}],'
        f'{bound}measure="{measure}",prompt_set="{prompt_set}",decoding="exact"}}]'
    )


@pytest.mark.parametrize("kind", ["threshold", "order"])
@pytest.mark.parametrize("measure", ["function_difference", "function_difference_float64"])
@pytest.mark.parametrize("prompt_set", ["id", "ood"])
def test_claims_may_be_about_the_function_that_variants_preserve(kind: str, measure: str, prompt_set: str) -> None:
    study, _ = load_study(MAIN, [*TINY, DERIVED, claim(measure, prompt_set, kind=kind)])
    [stated] = study.claims
    assert stated.kind == kind
    assert isinstance(stated, Threshold) == (kind == "threshold")


def test_claims_may_be_about_what_is_added_to_the_loss() -> None:
    exchange = f'derived={{rare={{kind="exchange",of="normal",contexts={CONTEXTS}}}}}'
    study, languages = load_study(MAIN, [*TINY, exchange, "claims=[]"])
    [(_, where, _)] = derived_values(study.derived["rare"], languages["anbn_small"])
    load_study(MAIN, [*TINY, exchange, claim("kl_added", where, '"rare"')])
    with pytest.raises(UsageError, match="kl_added is not measured on ood"):
        load_study(MAIN, [*TINY, exchange, claim("kl_added", "ood", '"rare"')])
    load_study(ROOT / "runs" / "in_context.toml", [claim("kl_added", "documents", '"fail_held_10"')])


def test_without_such_variants_there_are_no_such_measures() -> None:
    with pytest.raises(UsageError, match="unknown measure 'function_difference_float64'"):
        load_study(MAIN, [*TINY, claim("function_difference_float64", "ood", '"normal"')])
    with pytest.raises(UsageError, match="function_difference is not measured on ood_heldout"):
        load_study(MAIN, [*TINY, DERIVED, claim("function_difference", "ood_heldout")])


def test_what_is_announced_is_what_there_are_rows_of() -> None:
    language = load_language("anbn_small")
    numbers = np.zeros(2)
    certificate = FunctionCertificate(ids=numbers, ood=numbers, exact=True)
    rows = [row for name in (DIFFERENCE, DIFFERENCE_FLOAT64) for row in function_rows(name, certificate, (0, 1))]
    found = {(row["measure"], row["prompt_set"], row["decoding"]) for row in rows}
    assert found == derived_values(Widen(kind="widen"), language)
    added = added_rows(numbers, numbers, numbers, DOCUMENTS, (0, 1), 0)
    found = {(row["measure"], row["prompt_set"], row["decoding"]) for row in added}
    assert found == derived_values(Longer.model_validate({"kind": "longer", "steps": 10}), language)
