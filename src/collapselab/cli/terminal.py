"""What the command line writes to a terminal, a pipe or neither: results, notes and progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from collapselab.errors import InputError, one_line

# What a shell gives a process that Ctrl-C ended.
INTERRUPTED = 130


class ReaderLeft(Exception):
    """Whoever read standard output has closed it: no error, but nothing more to do."""


def print_text(text: str) -> None:
    """Print to stdout; what its encoding lacks gets a stand-in.

    Raises:
        InputError: stdout cannot be written, as on a full disk.
        ReaderLeft: nobody reads it any more.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate({ord("─"): "-", ord("–"): "-", ord("…"): "..."})
        text = text.encode(encoding, errors="backslashreplace").decode(encoding)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Nothing more can be written, nor may the interpreter try when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from error
        raise InputError(
            f"standard output cannot be written ({one_line(error.strerror or error)})"
        ) from error


def note(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def sample_progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr, if someone is there to look at it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("samples"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


@contextmanager
def step_progress(what: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar over training steps on stderr, if someone is there to look at it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.fields[doing]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, doing="starting")

        def report(done: int, total: int, doing: str) -> None:
            bar.update(task, completed=done, total=total, doing=doing)

        yield report


class GridProgress:
    """Two progress bars on stderr, over a whole grid of runs and over the run that is going on.

    Where nobody looks at it, nothing but the lines that are noted.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._grid: Any = None
        self._run: Any = None
        self._before = 0

    def __enter__(self) -> GridProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[doing]}"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """A line that stays, above the bars."""
        if self._bar is None:
            note(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, what: str, number: int, runs: int, before: int, total: int, steps: int) -> None:
        """A run of `steps` begins; `before` of all runs' `total` steps are behind it."""
        self._before = before
        if self._bar is None:
            return
        if self._grid is None:
            self._grid = self._bar.add_task("all runs", total=total, completed=before, doing="")
            self._run = self._bar.add_task("", total=steps, doing="")
        self._bar.update(self._grid, completed=before, doing=f"run {number} of {runs}")
        self._bar.reset(self._run, total=steps, description=what, doing="starting")

    def update(self, done: int, total: int, doing: str) -> None:
        """Inside a run."""
        if self._bar is not None and self._grid is not None:
            self._bar.update(self._grid, completed=self._before + done)
            self._bar.update(self._run, completed=done, total=total, doing=f"{done:,} steps, {doing}")
