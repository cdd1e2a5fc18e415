"""What stands below each picture."""

from __future__ import annotations

from lmtest.report.tables import HEADLINE

CAPTIONS = {
    "loss_against_rule_extrapolation": f"{HEADLINE} on all OOD prompts (greedy; an unfinished completion counts as "
    "broken) against the excess of the loss over the floor, along training: one thin line a seed, its end marked, "
    "hollow where the seed is not saturated; ticks on the left axis are published values, measured at other losses.",
    "rule_extrapolation_per_seed": f"{HEADLINE} on OOD prompts that no objective was shown (greedy): one point a seed "
    "with its 95 % interval over prompts, hollow where not saturated; the mean over seeds as a line, reference models "
    "dashed.",
    "prompts": "Greedy completions: one row a seed, one column a prompt, grouped by the rules that the prompt has "
    "already broken (joint: none of them alone, but together they can no longer hold).",
    "certificates": "Excess of the loss over the floor with its 95 % interval, one row a seed, hollow where not "
    "saturated; a margin of equivalence bounds the difference between two variants' means.",
    "rule_extrapolation_by_architecture": f"{HEADLINE} on OOD prompts that no objective was shown (greedy; an unfinished "
    "completion counts as broken): one dot a seed, hollow where not saturated; the mean over seeds as a bar and as the "
    "number on the right; vertical lines are the uniform law's exact level (dotted) and stop-at-once (dashed). Black "
    "ticks are published values with their spread (often of finished completions alone, and at other losses).",
    "loss_by_architecture": "Excess of the loss over the floor along training, both axes logarithmic: one thin line a "
    "seed, the mean over seeds thick; below ε lies saturation.",
    "string_mass": "Probability that a model gives to all short strings (EOS included, summed exactly), split by the rules "
    "that they keep, along training: means over seeds, both axes logarithmic; bars at the right edge are the language's "
    "own masses, and masses below the axis are drawn on it.",
    "in_context": "In-context accuracy (greedy) against the number of examples in the prompt: a column a family of prompts, "
    "a row a length k; one thin line a seed, the mean over seeds thick. Black is the Bayes predictor, the language itself; a "
    "gap means that the language gives every such prompt probability zero, and above a panel stands the share of such prompts.",
    "in_context_along_training": "In-context accuracy with most examples against the excess of the loss over the floor, along "
    "training: one thin line a seed, its end marked, hollow where the seed is not saturated; the number is the mean over "
    "seeds.",
    "calibration": "Is a model right as often as it is sure? How often its likeliest symbol is an answer drawn from the true law, "
    "against its confidence, in bins; dots in proportion to the prompts in them; one thin line a seed, all seeds thick; ECE is "
    "the mean over seeds. (A label is the likeliest answer, not a drawn one: about labels even who knows the law is less sure "
    "than right.)",
    "perturbation": "What is lost, and what it costs: the outcome on prompts that were changed against what the loss rises by; "
    "one point a seed with its 95 % interval. Black: the exact law; colours: models, whose level before the change is the dashed "
    "line (its seeds the band). λ is the penalty on leaving the former self. Left of ε, the loss cannot tell.",
    "perturbation_by_n": "The exact law with its two likeliest symbols exchanged on prompts: KL to the changed law, and accuracy of "
    "the Bayes predictor before → after; prompts of one number of examples at the start of a document, of several, and anywhere.",
    "spread": "Does the failure spread? Accuracy on every prompt shape, means over seeds, first before teaching; framed are the "
    "shapes that were shown.",
    "fine_tuning_curves": "The loss of each task along full fine-tuning, at the learning rate chosen for each seed: the mean over "
    "seeds, and the range of seeds as a band around the baseline, which is thick; controls are dashed. Both axes logarithmic.",
    "fine_tuning_gap": "Steps to the threshold over those of the baseline, paired by seed (geometric mean): bold with its 95 % "
    "interval each seed at the rate chosen for it, lighter both at one rate of the grid (where half of the pairs "
    "reached it). Left of 1: faster than the baseline. Hollow: some pairs never reached it, and the rest speak. Controls, below "
    "the rule, are the small model again, or of its size.",
    "fine_tuning_examples": "The loss after full fine-tuning against the number of strings to learn from, means over seeds at the "
    "chosen rates, both axes logarithmic. The baseline is thick, controls are dashed.",
    "transfer_predictors": "Does flatness before fine-tuning tell its speed? Steps to the threshold at the chosen rate against two "
    "measures of sharpness, one point a seed, both axes logarithmic; controls are hollow. A rescaled ReLU changes the trace, "
    "not the relative sharpness.",
}
