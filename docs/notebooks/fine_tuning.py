"""Reading club: do two models of one function fine-tune alike? (arXiv 2405.01964, case study 3; arXiv 2210.14199)

`marimo edit docs/notebooks/fine_tuning.py` to read and change it; `python docs/notebooks/fine_tuning.py` to have it told.
"""

import marimo

app = marimo.App(app_title="One function, many fine-tunings")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo

    def say(text):
        """Shown in the notebook; printed where it is run as a script."""
        if mo.app_meta().mode == "script":
            print(text + "\n")
        return mo.md(text)

    root = Path(__file__).resolve().parents[2]
    return mo, root, say


@app.cell
def _(say):
    say(
        "# One function, many fine-tunings\n\n"
        "A small transformer can be written into one twice as wide so that no prediction changes. The two have one loss, and one function. "
        "Do they learn something new alike? The paper says that the larger one is better by more than 10 %. Two controls tell what "
        "such a gap is worth: a layer of zeros, which never trains and so *is* the small model, and the small model itself."
    )
    return


@app.cell
def _(mo):
    sigma = mo.ui.slider(0.0, 1.0, 0.5, value=1.0, label="How unequal the copies are (0: plain copies)")
    sigma
    return (sigma,)


@app.cell
def _(say):
    say("Six seeds learn aⁿbⁿ, are rewritten, and are fine-tuned to aⁿbⁿaⁿ.")
    return


@app.cell
def _(mo, root, sigma):
    from rich.console import Console

    from lmtest import run_study
    from lmtest.display import Bars

    claims = (
        'claims=[{id="function",statement="The rewritten models give every symbol the same log-probability, within 1e-10.",'
        'kind="threshold",direction="below",model="transformer",variants=["wide","zeros"],measure="function_difference_float64",'
        'prompt_set="id",decoding="exact",bound=1e-10},'
        '{id="faster",statement="Written into a wider model, the transformer needs fewer steps for the new language.",kind="order",'
        'model="transformer",variants=["wide","normal"],paired=true,measure="log_steps_to_threshold",'
        'prompt_set="anbnan.full.all",decoding="exact"}]'
    )
    run = run_study(
        root / "runs" / "fine_tuning.toml",
        seeds="0-5",
        overrides=[
            "models.wide_from_scratch={architecture='lstm',layers=1,width=4}", "models.trained_by_sgd={architecture='lstm',layers=1,width=4}",
            "exceptions=[]", "training.stack=6", "training.steps=900",
            "variants={normal={objective='maximum_likelihood',models=['transformer']}}",
            f"derived={{wide={{kind='widen',sigma={sigma.value:.1f}}},zeros={{kind='deepen',layers=1,reads='zero'}}}}",
            "evaluators={fine_tuning={learning_rates=[2e-3,4e-3],steps=400,batch=4096,threshold=0.1,"
            "evaluate_at=[20,40,60,80,100,120,140,160,180,200,220,240,260,280,300,325,350,375],"
            "tasks=[{kind='continuation',name='anbnan',language='anbnan_tiny'}]}}",
            claims,
        ],
        resume=True,
        display=Bars(Console(stderr=True)) if mo.app_meta().mode == "script" else None,
    )  # fmt: skip
    return (run,)


@app.cell
def _(run, say):
    import numpy as np

    found = run.measurements[run.measurements["model"] == "transformer"]
    steps = found[(found["measure"] == "log_steps_to_threshold") & (found["prompt_set"] == "anbnan.full.all")]
    table = steps.pivot(index="seed", columns="variant", values="value")
    differs = found[found["measure"] == "function_difference_float64"].groupby("variant")["value"].max()
    say(
        "Largest difference of any log-probability: "
        + ", ".join(f"{name} {value:.1e}" for name, value in differs.items())
        + " (double precision).\n\nSteps to within 0.1 nats of the new floor, by seed:\n\n"
        + "\n".join(
            "| " + " | ".join(map(str, row)) + " |"
            for row in [
                ["seed", *table.columns],
                ["---"] * (table.shape[1] + 1),
                *np.exp(table).round().reset_index().astype(object).to_numpy(),
            ]
        )
        + "\n\nRatio to the small model, geometric mean: "
        + ", ".join(f"{name} {np.exp((table[name] - table['normal']).mean()):.2f}" for name in ("wide", "zeros"))
    )
    return


@app.cell
def _(run, say):
    told = [
        f"{v.statement} **{v.verdict.capitalize()}** (effect {v.effect:.3g} [{v.lower:.3g}, {v.upper:.3g}], p = {v.p_value:.2g})"
        + (f"; {v.note}" if v.note else "")
        for v in run.verdicts.itertuples()
    ]
    say(
        "## Verdicts\n\n"
        + "\n\n".join(told)
        + "\n\nWhat the function does not decide, a gap in steps does: it is one of optimisation."
    )
    return


if __name__ == "__main__":
    app.run()
