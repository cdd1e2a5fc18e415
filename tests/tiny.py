"""The main study made tiny: seconds instead of minutes, the same code."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
MAIN = ROOT / "runs" / "rule_extrapolation.toml"

TINY = (
    "training.steps=20",
    "training.probe_every=10",
    "training.stack=2",
    "models.transformer.layers=1",
    "models.transformer.width=16",
    "models.transformer.heads=2",
    "models.transformer.feed_forward=16",
    "evaluators.rule_extrapolation.prompt_length=4",
    "evaluators.rule_extrapolation.max_new_tokens=12",
    "evaluators.rule_extrapolation.samples=40",
)

LANGUAGES_QUICK = ("training.steps=4", "training.probe_every=4", "claims=[]", "evaluators.string_mass.max_length=4")
LANGUAGES_TINY = (
    *("exceptions=[]", 'languages=["ban_small","brackets_nested_small"]', "training.batch=8", "training.stack=1"),
    *(*LANGUAGES_QUICK, "evaluators.rule_extrapolation.samples=20", "evaluators.rule_extrapolation.max_new_tokens=8"),
    'published_tables=[{table="rule_extrapolation_neurips2024",'
    'languages={ban_small="ban",brackets_nested_small="brackets_nested"}}]',
)
"""The study of several languages made tiny: two languages, every model."""
