"""Reading club: does the loss decide how a model continues an impossible prompt? (arXiv 2405.01964, case study 1)

`marimo edit docs/notebooks/rule_extrapolation.py` to read and change it; `python docs/notebooks/rule_extrapolation.py` to have it told.
"""

import marimo

app = marimo.App(app_title="Rule extrapolation")


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
        "# Rule extrapolation\n\n"
        "A language model that has learnt aⁿbⁿ perfectly never saw a string that starts with `ba`. What does it do with that "
        "prompt? The paper's question is whether the loss can tell. aⁿbⁿ is the conjunction of two rules, R1 (as many a as b) and R2 "
        "(a before b). A prompt that breaks R2 leaves R1 open: will it be kept?"
    )
    return


@app.cell
def _(say):
    from lmtest import load_language

    language = load_language("anbn_tiny")
    floor = language.entropy()
    say(
        f"The language here: {language.title}. The floor of every model's loss is its entropy, {floor.value:.4f} nats per string, exactly: "
        "ln 8, because eight strings are equally likely."
    )
    return (language,)


@app.cell
def _(mo):
    prompt = mo.ui.text("ba", label="A prompt of a and b")
    rule = mo.ui.text("a == b", label="A rule to ask of prompt and completion: a count, such as a == b or a % 2 == 0")
    mo.vstack([prompt, rule])
    return prompt, rule


@app.cell
def _(language, prompt, say):
    import math

    mass = math.exp(language.prefix_log_prob([prompt.value])[0])
    say(
        f"`{prompt.value}` has prefix probability {mass:.4g}: it is "
        + (
            "in distribution, and the loss decides what follows."
            if mass > 0
            else "out of distribution, and no loss says what follows."
        )
    )
    return


@app.cell
def _(say):
    say(
        "Eighteen transformers: six seeds trained on the language alone (normal), six shown completions that break R1 (adversarial), six that keep it (oracle)."
    )
    return


@app.cell
def _(mo, root):
    from rich.console import Console

    from lmtest import run_study
    from lmtest.display import Bars

    claim = (
        'claims=[{id="order",statement="R1 is kept least by adversarial, more by normal, most by oracle models.",kind="order",'
        'variants=["adversarial","normal","oracle"],measure="R1",prompt_set="ood_heldout"}]'
    )
    run = run_study(
        root / "runs" / "rule_extrapolation.toml",
        seeds="0-5",
        overrides=[
            'language="anbn_tiny"', "training.steps=500", "training.stack=6", "training.probe_every=250",
            "evaluators.rule_extrapolation.prompt_length=6", "evaluators.rule_extrapolation.max_new_tokens=17",
            'evaluators.rule_extrapolation.decodings=["greedy"]', "published=[]", "published_tables=[]", claim,
        ],
        resume=True,
        display=Bars(Console(stderr=True)) if mo.app_meta().mode == "script" else None,
    )  # fmt: skip
    return (run,)


@app.cell
def _(run, say):
    certificates = run.certificates[run.certificates["variant"] != "reference"]
    worst = certificates.groupby("variant", sort=False)["kl_upper"].max()
    say(
        "Their losses, in nats per string above the floor (the worst seed): "
        + ", ".join(f"{name} {value:.4f}" for name, value in worst.items())
        + ". At the study's ε of 0.01, "
        + ", ".join(
            f"{n} of {len(c)} {v}"
            for v, c in certificates.groupby("variant", sort=False)
            for n in [int(c["saturated"].sum())]
        )
        + " seeds are saturated."
    )
    return


@app.cell
def _(language, rule, run, say):
    from lmtest.languages.rules import compile_rules

    asked = compile_rules({"asked": {"count": rule.value}}, language.symbols)["asked"]
    answers = run.table("completions")
    answers = answers[(answers["variant"] != "reference") & answers["prompt_set"].str.startswith("ood")]
    kept = [
        bool(finished) and asked.accepts(asked.run(language.vocabulary.ids(start + end)))
        for start, end, finished in zip(answers["prompt"], answers["completion"], answers["finished"], strict=True)
    ]
    shares = (
        answers.assign(kept=kept).groupby(["variant", "seed"], sort=False)["kept"].mean().groupby("variant", sort=False)
    )
    say(
        f"The rule `{rule.value}` on impossible prompts of 6 symbols, share kept (mean over seeds, range): "
        + "; ".join(f"{name} {s.mean():.2f} ({s.min():.2f} to {s.max():.2f})" for name, s in shares)
        + ". An unfinished completion fails."
    )
    return


@app.cell
def _(language, prompt, run, say):
    from lmtest.models.decoding import decode
    from lmtest.trained import trained_model

    told = []
    row = language.vocabulary.ids(prompt.value)
    for variant in ("normal", "adversarial", "oracle"):
        model = trained_model(run.directory, language, variant=variant).model
        done = decode(model, language.vocabulary, [row], 17 - 1, "greedy", seed=0)
        ends = [
            language.vocabulary.text(language.vocabulary.join(done.tokens[s, 0, : done.lengths[s, 0]].tolist()))
            for s in range(min(3, len(done.tokens)))
        ]
        told.append(f"{variant}: " + ", ".join(f"`{prompt.value}·{end}`" for end in ends))
    say("What the first three seeds write behind your prompt. " + "; ".join(told) + ".")
    return


@app.cell
def _(run, say):
    verdict = run.verdicts.iloc[0]
    say(
        f"## Verdict\n\n{verdict['statement']} **{verdict['verdict'].capitalize()}**: the smaller step is {verdict['effect']:.2f} "
        f"[{verdict['lower']:.2f}, {verdict['upper']:.2f}], p = {verdict['p_value']:.2g} over {verdict['seeds_used']} seeds. "
        "One loss, several behaviours." + (f" ({verdict['note']})" if verdict["note"] else "")
    )
    return


if __name__ == "__main__":
    app.run()
