"""OOD prompts one by one: the most frequent completion of each, and the order in which they are shown."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from lmtest.report.tables import HEADLINE, Key, RunTables, records
from lmtest.report.text import short

TOOLTIP = 100
"""Characters of a completion that a tooltip shows."""


def modal_completions(run: RunTables) -> list[tuple[str, str, dict[Key, tuple[str, bool, float, float]]]]:
    """For each OOD prompt: (prompt, broken rules, {key: (completion, finished, its share, share that keep R1)}).

    The completion is the most frequent one over seeds under greedy decoding (ties: the first seed's); prompts come in
    the order of the table.
    """
    rows = run.greedy_ood().sort_values("seed", kind="stable")
    cells: dict[str, dict[Key, tuple[str, bool, float, float]]] = {}
    for (model, variant, prompt), group in rows.groupby(["model", "variant", "prompt"], sort=False):
        key, prompt = (str(model), str(variant)), str(prompt)
        finished = group["finished"].eq(True)
        pairs = zip(group["completion"].astype(str), finished, strict=True)
        (completion, ended), times = Counter(pairs).most_common(1)[0]
        kept = float((finished & group[HEADLINE].eq(True)).mean()) if HEADLINE in group else float("nan")
        cells.setdefault(prompt, {})[key] = (completion, ended, times / len(group), kept)
    prompts = run.greedy_ood().drop_duplicates("prompt").sort_values(["broken", "prompt"])
    return [(row["prompt"], row["broken"] or "", cells[row["prompt"]]) for row in records(prompts)]


def group_gap(prompts: int) -> int:
    """Empty columns between groups of so many prompts in all."""
    return max(1, round(prompts / 80))


def ordered_prompts(run: RunTables, rows: pd.DataFrame) -> tuple[dict[str, list[str]], list[tuple[float, str]], str]:
    """Groups of prompts by broken rules (largest first), tick places with labels, and the name of the axis.

    Inside a group prompts go by the difference of the two symbols' counts, else by the share of seeds that keep R1.
    """
    table = rows.groupby("prompt", as_index=False).agg(
        broken=("broken", "first"), kept=("kept", "mean"), prompt_set=("prompt_set", "first")
    )
    symbols = list(run.language["symbols"])
    two = len(symbols) == 2
    difference = table["prompt"].map(lambda prompt: prompt.count(symbols[0]) - prompt.count(symbols[1])) if two else 0
    table = table.assign(broken=table["broken"].fillna("").astype(str), difference=difference, share=-table["kept"])
    table = table.sort_values(["difference", "prompt_set", "share", "prompt"] if two else ["share", "prompt"])
    groups = {name: list(table.loc[table["broken"] == name, "prompt"]) for name in table["broken"].value_counts().index}
    if not two:
        return groups, [], f"OOD prompts, by the share of seeds that keep {HEADLINE}"
    ticks, left = [], 0
    of = dict(zip(table["prompt"], table["difference"], strict=True))
    for group in groups.values():
        for value in dict.fromkeys(of[prompt] for prompt in group):
            size = sum(of[prompt] == value for prompt in group)
            if size >= 0.025 * len(table):
                ticks.append((left + size / 2, f"{value:+d}".replace("-", "−") if value else "0"))
            left += size
        left += group_gap(len(table))
    return groups, ticks, f"OOD prompts, by #{symbols[0]} − #{symbols[1]} in the prompt"


def prompt_table(run: RunTables) -> list[dict[str, Any]]:
    """One row an OOD prompt; a cell for each trained (model, variant), None where it was not asked."""
    return [
        {"prompt": prompt, "broken": broken, "cells": [_cell(found.get(key)) for key in run.trained]}
        for prompt, broken, found in modal_completions(run)
    ]


def _cell(done: tuple[str, bool, float, float] | None) -> dict[str, Any] | None:
    if done is None:
        return None
    completion, finished, share, kept = done
    text = short(completion, finished)
    # A page of many models has thousands of cells: only what is shortened has a tooltip, and that an end.
    whole = "" if text == completion else completion[:TOOLTIP] + "…" * (len(completion) > TOOLTIP)
    return {"text": text, "whole": whole, "share": share, "kept": kept}
