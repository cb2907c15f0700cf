"""What the command line writes to a terminal, a pipe or neither: results, notes and progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from collapselab.errors import InputError, one_line


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
