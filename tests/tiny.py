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

LANGUAGES_QUICK = ("training.steps=2", "training.probe_every=2", "claims=[]", "evaluators.string_mass.max_length=4")
LANGUAGES_TINY = (
    *("exceptions=[]", 'languages=["ban_small","brackets_nested_small"]', "training.batch=8", "training.stack=1"),
    *(*LANGUAGES_QUICK, "evaluators.rule_extrapolation.samples=20", "evaluators.rule_extrapolation.max_new_tokens=8"),
    'published_tables=[{table="rule_extrapolation_neurips2024",'
    'languages={ban_small="ban",brackets_nested_small="brackets_nested"}}]',
)
"""The study of several languages made tiny: two languages, every model."""

_CLAIM = (
    '{id="in_context/more",statement="more",kind="order",model="transformer",measure="accuracy",'
    'prompt_sets=["seen.k3.n0","seen.k3.n4"]}'
)
IN_CONTEXT_TINY = (
    f"claims=[{_CLAIM}]",
    *("training.steps=4", "training.probe_every=4", "training.batch=2", "exceptions=[]", "saturation.draws=20"),
    *(
        "evaluators.in_context.prompts=12",
        "evaluators.in_context.examples=[0,2,4]",
        "evaluators.in_context.lengths=[3]",
    ),
    *("evaluators.in_context.order_sets=2", "evaluators.in_context.order_tests=3"),
    *(f"models.{name}.layers=1" for name in ("transformer", "transformer_deep")),
    *(f"derived.{name}.steps=3" for name in ("fail_held_1", "fail_held_3", "fail_held_10", "succeed_held_10")),
    *(f"derived.{name}.models=[]" for name in ("fail_held_1", "fail_held_3", "succeed_held_10")),
    *(
        "derived.exchanged.draws=40",
        "derived.exchanged_anywhere.draws=400",
        "derived.exchanged_k5.contexts.examples=[2]",
    ),
    *(f"derived.exchanged_n{n}.draws=10" for n in (2, 4, 8, 16)),
)
"""The in-context study made tiny."""

FINE_TUNING_TINY = (
    *("training.steps=3", "training.probe_every=3", "exceptions=[]", "saturation.draws=20", "derived.longer.steps=2"),
    *("models.transformer.width=8", "models.transformer.feed_forward=8", "models.trained_by_sgd.width=8"),
    *("models.wide_from_scratch.width=8", "models.wide_from_scratch.feed_forward=8", "derived.padded.coordinates=4"),
    *("evaluators.fine_tuning.steps=4", "evaluators.fine_tuning.evaluate_at=[2]", "evaluators.flatness.probes=2"),
    "evaluators.fine_tuning.strings=64",
    "evaluators.fine_tuning.learning_rates=[1e-2]",
    'evaluators.fine_tuning.tasks=[{kind="continuation",name="anbnan",language="anbnan_tiny",examples=["all",8],'
    'learning_rates=[1e-3,1e-2]},{kind="continuation",name="anb2n",language="anb2n_tiny",protocols=["last_layer","probe"]}]',
    *("evaluators.rule_extrapolation.prompt_length=4", "evaluators.rule_extrapolation.max_new_tokens=4"),
)
"""The fine-tuning study made tiny."""
