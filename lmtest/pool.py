"""Cells on processes: one process a core with one thread each, progress to the terminal, Ctrl-C and SIGTERM save and stop."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from lmtest.cells import Cell
from lmtest.errors import Interrupted, LmtestError
from lmtest.threads import one_thread
from lmtest.workshop import Workshop

REPORT_SECONDS = 0.2
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a scheduler that wants the machine back, a terminal that goes away (Windows has no such thing)."""


class Flag(Protocol):
    """A threading.Event or a multiprocessing one."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...


Report = Callable[[Cell, int, float], None]
Done = Callable[[Cell], None]

_worker: dict[str, Any] = {}


@contextmanager
def stop_signals(flag: Flag) -> Iterator[None]:
    """While inside, what stops a run sets `flag`; a second SIGINT raises KeyboardInterrupt at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.set()

    # What is ignored stays so: nohup wants a run to outlive its terminal.
    numbers = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """What stops a run waits while inside; processes that are started there inherit it. Windows has no such thing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Python that is started inside imports nothing from the current folder, whose files may be named like modules."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def run_cells(workshop: Workshop, cells: Sequence[Cell], jobs: int, report: Report, done: Done) -> None:
    """Runs the cells, in this process (one job) or in `jobs` others; the results do not depend on how many.

    Raises Interrupted once everything is saved after SIGINT or SIGTERM, and the first error of a cell after the others
    have saved.
    """
    if jobs == 1 or len(cells) <= 1:
        flag = threading.Event()
        with stop_signals(flag), one_thread():
            for cell in cells:
                workshop.run(cell, _throttled(lambda step, excess, cell=cell: report(cell, step, excess)), flag.is_set)  # type: ignore[misc]
                done(cell)
        return
    context = multiprocessing.get_context("spawn")
    with (
        _signals_blocked(),
        _safe_path(),
    ):  # the queue starts a process of its own, which outlives a terminal that goes away
        messages: Any = context.Queue()
        stop = context.Event()
    initial = (workshop.directory, workshop.device, messages, stop)
    with stop_signals(stop), ProcessPoolExecutor(min(jobs, len(cells)), context, _start_worker, initial) as pool:
        # In the workers signals are blocked for good, while they are still importing too: this process decides.
        with _signals_blocked(), _safe_path():
            futures: dict[Future[None], Cell] = {pool.submit(_run_in_worker, cell): cell for cell in cells}
        open_, failure = set(futures), None
        while open_:
            finished, open_ = wait(open_, timeout=REPORT_SECONDS, return_when=FIRST_COMPLETED)
            _drain(messages, report)
            for future in finished:
                error = future.exception()
                if error is None:
                    done(futures[future])
                elif failure is None or isinstance(failure, Interrupted):
                    failure = error
                    stop.set()  # what has not begun raises Interrupted then; cancelled, it would never end if a worker dies
    if isinstance(failure, BrokenProcessPool):
        raise LmtestError(
            "a worker was killed, perhaps by the system, for want of memory: what was saved is whole; take fewer --jobs, or a "
            "smaller study, and --resume goes on"
        ) from failure
    if failure is not None and not isinstance(failure, LmtestError | OSError):
        raise LmtestError(f"a worker failed: {type(failure).__name__}: {failure}") from failure
    if failure is not None:
        raise failure
    if stop.is_set():
        raise Interrupted("stopped; everything is saved")


def _drain(messages: Any, report: Report) -> None:
    while True:
        try:
            report(*messages.get_nowait())
        except queue.Empty:
            return


def _start_worker(directory: Path, device: str, messages: Any, stop: Any) -> None:
    for number in STOPPING:  # Ctrl-C reaches the whole group: the parent decides
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    # A killed parent must not leave workers behind that train on unseen; what they have saved is whole.
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker.update(workshop=Workshop.load(directory, device), messages=messages, stop=stop)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(cell: Cell) -> None:
    messages, stop = _worker["messages"], _worker["stop"]
    if stop.is_set():
        raise Interrupted("stopped before it began")
    report = _throttled(lambda step, excess: messages.put((cell, step, excess)))
    _worker["workshop"].run(cell, report, stop.is_set)


def _throttled(send: Callable[[int, float], None]) -> Callable[[int, float], None]:
    last = 0.0

    def report(step: int, excess: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPORT_SECONDS:
            last = now
            send(step, excess)

    return report
