"""The documentation's page on how often verdicts are wrong: `python -m lmtest.claims.calibration_page > docs/calibration.md`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from lmtest.claims import calibration as c

SEEDS = (5, 8, 10, 20)
STUDIES = 2000
FOR_POWER = 500
TOO_OFTEN = 4 / 3
"""Times its nominal rate beyond which, and beyond two standard errors more, an error is set in bold."""
UNGUARDED = ("threshold", "order", "equivalence", "heterogeneity")
KINDS = {
    "threshold": "mean > bound",
    "order": "the second mean is more than a margin over the first",
    "difference": "two means differ by more than a margin, either way",
    "equivalence": "two means differ by less than a margin",
    "trend": "Kendall's τ of three groups is > 0; the truth: no trend",
    "correlation": "Spearman's ρ over five groups is > 0; the truth: none",
    "heterogeneity": "seeds differ by more than prompts explain (one law), or their SD is over a margin (at the margin)",
}
TOP = """# How often verdicts are wrong

Made by `python -m lmtest.claims.calibration_page > docs/calibration.md`; a test simulates some of it again.

Each cell is a set of simulated studies of one claim, put to the very comparisons that `lmtest run` makes. The truth lies on the
bound or the margin itself, where an error is likeliest: a *supported* is then false, nominally in at most 5 % of the studies; a
*refuted* is that of a claim that is true by a hair, nominally in 2.5 % (the interval is two-sided, 95 %). Power is the share of
*supported* where the truth lies {beyond} beyond the bound or margin, at p ≤ 0.05 before Holm's correction. A cell reads

    false supported % / false refuted % / power %

from {studies} studies for each rate and {power} for power: two Monte-Carlo standard errors are ±1.0 at 5 % and ±0.7 at 2.5 %.
Bold: more than a third above nominal, these errors added. The margin is {margin}, the standard deviation over seeds {spread} where
a law has one for all means. “Paired”: the differences of seeds follow the law themselves, which is the worst case; without a
margin, both groups do, so that differences are symmetric. Laws “0 or 1, mostly 0” and “skewed to the right” are the mirror images of
the others, so that claims that look down are covered by those that look up.

## What a verdict rests on

| claim | usual test | assumes at the edge |
| --- | --- | --- |
| threshold; order, difference paired by seed; trend; correlation | sign flips | a law that is symmetric about its mean |
| order, difference | permutation of means | laws that differ by a shift; or equal numbers of seeds and laws near normal |
| equivalence, all intervals of means | Welch's and Student's t | means that are near normal |
| heterogeneity | Cochran's Q; with a margin also chi-square of the SD | for the margin: means of seeds that are normal |

**Ties.** Accuracies, rules kept and the like lie in [0, 1], and often all seeds score 1.0. Then nothing of the right column can be
believed: of seeds that score 1.0 with probability 0.9 and else 0.0, eight are all at 1.0 in 43 % of the studies, and sign flips call
the claim “mean > 0.9”, which is false, supported with p = 1/256. So where a share (or τ, or ρ) ties, that is, has fewer than three
distinct values or more than half of its seeds at one of them, a threshold and a claim with a margin have to pass a second test too,
which holds for every law on the known range, and every interval is widened likewise (Gaffke 2005; for two values it is
Clopper–Pearson's; all n seeds at 1.0 are told from a mean of b with p = bⁿ, and leave the mean an interval from 0.025^(1/n) to 1).
The column `test` of the verdicts says so. Two independent samples are compared by Fisher's combination of a test of each (this one
where it ties, Student's where it does not) at the worst mean that they could share; a standard deviation by squared distances.
Measures without a known range (KL, steps) are not guarded: their ties are taken at face value.

**No margin.** Whether groups differ at all (order and difference without a margin, trend, correlation) needs no guard to be
supported: where they do not, seeds can be exchanged between them, and permutations and flips are exact, ties or not; the same goes
for laws one of which lies below the other throughout, in the direction not claimed. What is not covered are two laws of one mean
that cross, such as one value against a gamble between 0 and 1: see “one value, then 0 or 1” without a margin. A margin closes that
gap, for its claims are guarded. The interval always is, since it says how large the difference is, not whether there is one: with
eight tied seeds it may well hold 0 where the test supports the claim.

A consequence that surprises: eight seeds at exactly 1.0 do not support “mean > 0.9”, while eight different values around 0.98 do.
The first say nothing about the law of the seeds, the second are taken to follow one without rare failures. Whoever does not want to
assume that asks for more seeds, or for a bound that eight perfect seeds can carry (0.5⁸ = 0.004); `lmtest run --dry-run` and
`lmtest power` say which.

**Unequal spreads.** With equal numbers of seeds, which every study has, the studentised permutation test (Janssen 1997; Chung and
Romano 2013) orders all splits as the difference in means does: the two tests are one, so there is nothing to choose.
"""
BREAKS = """
## What still breaks

- *Laws that cross, without a margin.* See above: a claim of order that says by how much is guarded, one that does not is not. A
  trend or a correlation that most seeds have weakly and some seeds have strongly the other way round is of that kind.
- *Skewed laws without ties.* No test on eight values can see that one seed in ten fails badly where none of the eight did: see “one
  in ten fails, no two equal”, and exponential tails with the long end on the unlucky side (threshold and paired claims; unpaired
  ones where spreads differ as well). A test that holds for every law exists, the second one above, but without ties it would take
  away most of the power of all other studies. Measures that are likely to be skewed are better stated on a scale where they are not
  (log steps instead of steps), or with pairs, whose differences are symmetric where both groups vary alike.
- *A margin on the standard deviation.* The chi-square test of heterogeneity with a margin is one for normal means of seeds.
- *Power of the guard.* Where seeds score 0 or 1, eight of them carry only coarse claims; the tables above say how coarse.
"""


def page(studies: int = STUDIES, for_power: int = FOR_POWER, seed: int = 0) -> str:
    """The whole page, the same to the byte for the same arguments and numpy."""
    parts = [
        TOP.format(studies=studies, power=for_power, margin=c.MARGIN, spread=c.SPREAD, beyond=c.BEYOND),
    ]
    for kind, claimed in KINDS.items():
        parts.append(
            f"\n## {kind.capitalize()}: {claimed}\n\n"
            + _table([s for s in c.settings() if s.kind == kind], studies, for_power, seed)
        )
    parts.append("\n## What the guard against ties mends\n\nFalse supported % / false refuted %, eight seeds.\n")
    parts.append("\n| claim | without the guard | with it |\n| --- | --- | --- |\n")
    for setting in c.settings():
        if (
            setting.margin
            and setting.kind in UNGUARDED
            and any(word in setting.law for word in ("0 or 1", "0.5 or 1", "cut", "1/20"))
        ):
            cells = [_errors(c.rates(setting, 8, studies, seed, guard=guard)) for guard in (False, True)]
            parts.append(f"| {setting} | {' | '.join(cells)} |\n")
    parts.append(
        "\n## Holm over a study\n\nAny of ten untrue claims supported, after Holm's correction; nominal: at most 5 %.\n\n"
    )
    parts.append(
        "| ten claims | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |\n" + "| --- " * (1 + len(SEEDS)) + "|\n"
    )
    for kind in ("threshold", "order", "equivalence"):
        found = [_percent(c.family_wise(kind, n, studies, seed=seed), 0.05) for n in SEEDS]
        parts.append(f"| {kind}, normal | {' | '.join(found)} |\n")
    return "".join([*parts, BREAKS])


def cell(setting: c.Setting, n: int, studies: int = STUDIES, for_power: int = FOR_POWER, seed: int = 0) -> str:
    """What stands in the page for one setting and number of seeds."""
    power = c.rates(setting, n, for_power, seed, power=True).supported
    return f"{_errors(c.rates(setting, n, studies, seed))} / {100 * power:.0f}"


def label(setting: c.Setting) -> str:
    """What a row of the page is called."""
    paired = setting.paired and setting.kind not in ("trend", "correlation")
    return setting.law + ("" if setting.margin else "; no margin") + ("; paired" if paired else "")


def _table(settings: Sequence[c.Setting], studies: int, for_power: int, seed: int) -> str:
    lines = [
        "| law of the seeds | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |",
        "| --- " * (1 + len(SEEDS)) + "|",
    ]
    for setting in settings:
        cells = [cell(setting, n, studies, for_power, seed) for n in SEEDS]
        lines.append(f"| {label(setting)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _errors(found: c.Rates) -> str:
    return f"{_percent(found.supported, 0.05)} / {_percent(found.refuted, 0.025)}"


def _percent(rate: float, nominal: float) -> str:
    if math.isnan(rate):
        return "–"
    limit = TOO_OFTEN * nominal + 2 * math.sqrt(nominal * (1 - nominal) / STUDIES)
    return f"**{100 * rate:.1f}**" if rate > limit else f"{100 * rate:.1f}"


if __name__ == "__main__":
    sys.stdout.write(page())
