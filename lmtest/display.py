"""Progress on the terminal: one bar for the run, one a cell, with steps, excess nats and time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lmtest.cells import Cell
from lmtest.study import Study


class Bars:
    """The bars of one run, on stderr; on a pipe, one line for each finished cell."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>6.0f}/{task.total:.0f} steps"),
            TextColumn("{task.fields[excess]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=False,
        )
        self.tasks: dict[Cell, TaskID] = {}
        self.total: TaskID | None = None
        self.steps = 0
        self.began = time.monotonic()
        self.reached: dict[Cell, int] = {}
        self.first: dict[Cell, int] = {}

    def start(self, study: Study, all_cells: Sequence[Cell], waiting: Sequence[Cell], where: Path) -> None:
        self.steps, self.began = study.training.steps, time.monotonic()
        self.console.print(f"{study.title}\n{len(waiting)} of {len(all_cells)} cells to do; results go to {where}")
        if waiting:
            self.total = self.progress.add_task("all cells", total=self.steps * len(waiting), excess="", left="")
        self.progress.start()

    def step(self, cell: Cell, step: int, excess: float) -> None:
        if cell not in self.tasks:
            self.tasks[cell] = self.progress.add_task(_label(cell), total=self.steps, excess="", left="")
            self.first[cell] = step
        self.reached[cell] = step
        self.progress.update(self.tasks[cell], completed=step, excess=f"{excess:+.4f} nats")
        self._advance()

    def done(self, cell: Cell) -> None:
        if cell in self.tasks:
            self.progress.update(self.tasks[cell], completed=self.steps, visible=False)
        self.first.setdefault(cell, 0)
        self.reached[cell] = self.steps
        if not self.console.is_terminal:
            self.console.print(f"done: {_label(cell)} after {time.monotonic() - self.began:.0f} s")
        self._advance()

    def stop(self) -> None:
        self.progress.stop()

    def _advance(self) -> None:
        if self.total is None:
            return
        reached = sum(self.reached.values())
        worked = reached - sum(self.first.values())  # what was resumed took no time now
        total = self.progress.tasks[0].total or 0
        seconds = time.monotonic() - self.began
        left = f"{seconds * (total - reached) / worked:.0f} s left" if worked > 0 and reached < total else ""
        self.progress.update(self.total, completed=reached, left=left)


def _label(cell: Cell) -> str:
    seeds = f"seeds {cell.seeds[0]}–{cell.seeds[-1]}" if len(cell.seeds) > 1 else f"seed {cell.seeds[0]}"
    return f"{cell.model} {cell.variant} {seeds}"
