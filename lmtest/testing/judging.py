"""Claims put to a finished run: by the same schema, checks and tests as a study's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmtest.claims import judge
from lmtest.directory import Run
from lmtest.errors import UsageError, nearest
from lmtest.languages import Language
from lmtest.study import Study, with_claims
from lmtest.testing.verdict import Verdict, recorded, settle
from lmtest.workshop import Workshop

ClaimTable = dict[str, Any]
"""The keys of a `[[claims]]` table."""


def judge_claim(run: Run, **claim: Any) -> Verdict:
    """One claim, in the words of a `[[claims]]` table, about a finished run.

    `id` and `statement` may be left out; or `id` alone names a claim that the run's study declares. Holm's correction has
    this claim alone: judge several together with `judge_claims`. UsageError where the claim does not fit the run.
    """
    workshop = Workshop.load(run.directory, "cpu")
    table = named(claim, workshop.study)
    verdict = judge_claims(run, workshop.study, workshop.languages, [table], run.directory.name)[0]
    if (seen := recorded.get()) is not None:
        seen.append(verdict)
    return verdict


def assert_supported(run: Run, **claim: Any) -> Verdict:
    """`judge_claim`; raises Refuted or Undecided (AssertionErrors) where the claim is not supported."""
    return settle(judge_claim(run, **claim))


def judge_claims(
    run: Run, study: Study, languages: Mapping[str, Language], tables: Sequence[ClaimTable], where: str
) -> list[Verdict]:
    """Claims judged together on a finished run of `study`: Holm's correction runs over all of them."""
    asked = with_claims(study, languages, tables, where)
    found = judge(
        asked.claims,
        run.measurements,
        run.certificates,
        run.table("completions"),
        len(asked.seed_list),
        asked.saturation.required,
    )
    rows = found[[name for name in Verdict._fields if name in found]].to_dict("records")
    return [Verdict(**{str(k): v for k, v in row.items()}, study=where, family=len(rows)) for row in rows]


def named(claim: ClaimTable, study: Study) -> ClaimTable:
    """A claim with its id and statement; where `id` alone is given, the claim of that id that the study declares.

    UsageError where it declares none of that id.
    """
    if set(claim) == {"id"}:
        declared = {each.id: each.model_dump(exclude_none=True) for each in study.claims}
        if claim["id"] not in declared:
            raise UsageError(
                f"the study declares no claim {claim['id']!r}; {nearest(str(claim['id']), declared)}; or give the keys of a "
                "[[claims]] table"
            )
        return declared[claim["id"]]
    name = str(claim.get("id", "claim"))
    return {"id": name, "statement": name} | claim
