"""Progress on the terminal: one bar for the run, one a cell, with steps, excess nats and time left."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lmtest.cells import Cell
from lmtest.terminal import plain
from lmtest.workshop import Workshop

EARLY = 0.05
"""Share of its steps before which a cell's pace says little: the first ones are probed often."""


class Bars:
    """The bars of one run, on stderr; on a pipe, one line for each finished cell."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", justify="left", markup=False),
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
        self.steps: dict[Cell, int] = {}
        self.began: dict[Cell, tuple[float, int]] = {}
        """When a cell was first heard of, and at which step: what was resumed took no time now."""
        self.reached: dict[Cell, int] = {}
        self.pace: dict[tuple[str, str], float] = {}
        """Seconds a step by language and model: they differ by an order of magnitude."""
        self.jobs = 1

    def start(self, workshop: Workshop, all_cells: Sequence[Cell], waiting: Sequence[Cell], jobs: int) -> None:
        self.steps = {cell: workshop.steps(cell) for cell in waiting}
        self.jobs = min(jobs, max(1, len(waiting)))
        self.console.print(
            f"{workshop.study.title}\n{len(waiting)} of {len(all_cells)} cells to do; results go to {workshop.directory}"
        )
        if waiting:
            self.total = self.progress.add_task("all cells", total=sum(self.steps.values()), excess="", left="")
        self.progress.start()

    def step(self, cell: Cell, step: int, excess: float) -> None:
        now = time.monotonic()
        if cell not in self.tasks:
            self.tasks[cell] = self.progress.add_task(_label(cell), total=self.steps[cell], excess="", left="")
            self.began[cell] = now, step
        since, first = self.began[cell]
        if step - first >= max(1.0, EARLY * self.steps[cell]):
            self.pace[cell.language, cell.model] = (now - since) / (step - first)
        self.reached[cell] = step
        self.progress.update(self.tasks[cell], completed=step, excess=f"{excess:+.4f} nats")
        self._advance()

    def done(self, cell: Cell) -> None:
        if cell in self.tasks:
            self.progress.update(self.tasks[cell], completed=self.steps[cell], visible=False)
        self.reached[cell] = self.steps[cell]
        if not self.console.is_terminal:
            left = self._left()
            self.console.print(f"done: {_label(cell)} ({self._done()} of {len(self.steps)}{left and f', {left}'})")
        self._advance()

    def stop(self) -> None:
        self.progress.stop()

    def _done(self) -> int:
        return sum(self.reached.get(cell) == steps for cell, steps in self.steps.items())

    def _left(self) -> str:
        """Time left: the steps to come at the pace of their model, or at a mean pace where that is not known yet."""
        if not self.pace:
            return ""
        seconds = sum((steps - self.reached.get(cell, 0)) * self._pace(cell) for cell, steps in self.steps.items())
        minutes, seconds = divmod(round(seconds / self.jobs), 60)
        return f"about {minutes} min left" if minutes > 1 else f"about {60 * minutes + seconds} s left"

    def _pace(self, cell: Cell) -> float:
        """Of its language and model; else the mean of its model's, else of all."""
        same = [pace for (_, model), pace in self.pace.items() if model == cell.model] or list(self.pace.values())
        return self.pace.get((cell.language, cell.model), sum(same) / len(same))

    def _advance(self) -> None:
        if self.total is not None:
            self.progress.update(self.total, completed=sum(self.reached.values()), left=self._left())


def _label(cell: Cell) -> str:
    seeds = f"seeds {cell.seeds[0]}–{cell.seeds[-1]}" if len(cell.seeds) > 1 else f"seed {cell.seeds[0]}"
    return plain(f"{cell.language} {cell.model} {cell.variant} {seeds}")
