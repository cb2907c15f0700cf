"""Progress bars on stderr, for the samples of a pass, the steps of a run and the runs of a grid."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from collapselab.cli.terminal import note
from collapselab.errors import printable, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


# Seconds between lines where there is no terminal.
_LINE_SECONDS = 10.0


class ProgressBars:
    """Progress bars while it is open, if stderr is a terminal; else a line every ten seconds, and the notes.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last_line = clock, clock()
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}", markup=False), BarColumn(),
                TextColumn("{task.fields[text]}", markup=False), TimeRemainingColumn(),
            )  # fmt: skip
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def note(self, text: str) -> None:
        """Print a line that stays, above the bars."""
        if self._progress is None:
            note(text)
        else:
            self._progress.console.print(printable_lines(text), markup=False, highlight=False, soft_wrap=True)

    def show(self, name: str, done: int, total: int, text: str, *, restart: bool = False) -> None:
        """Show a bar, or move it.

        Args:
            name: what the bar stands for.
            done, total: how far it is; a total of 0 is unknown.
            text: what is beside the bar.
            restart: whether to estimate the remaining time anew.
        """
        if self._progress is None:
            self._print_line(f"{name}: {text}" if text else name)
            return
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(printable(name), total=total or None, text="")
        if restart:
            self._progress.reset(self._bars[name])
        self._progress.update(self._bars[name], completed=done, total=total or None, text=printable(text))

    def _print_line(self, text: str) -> None:
        now = self._clock()
        if now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            note(text)

    def hide_all(self) -> None:
        """Remove all bars."""
        if self._progress is not None:
            for bar in self._bars.values():
                self._progress.remove_task(bar)
        self._bars.clear()

    def samples(self, what: str, done: int, total: int) -> None:
        """Show the progress of one pass over samples, or of the metrics of all layers after it, in place of what came before."""
        if what not in self._bars:
            self.hide_all()
        unit = "layers" if what.endswith("metrics") else "samples"
        self.show(what, done, total, f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}")

    def estimated_samples(self, shorter: str) -> Callable[[str, int, int], None]:
        """Return what passes over samples report their progress to; long ones are announced.

        Args:
            shorter: what makes them shorter.
        """
        from collapselab.passes.estimate import Estimate

        return Estimate(self.samples, self.note, shorter)

    def work(self, what: str, done: int, total: int) -> None:
        """Show the progress of one piece of work, in place of the piece before it."""
        if what not in self._bars:
            self.hide_all()
        self.show(what, done, total, f"{done:,} of {total:,}" if total else "")

    def steps(self, what: str) -> Callable[[int, int, str], None]:
        """Return what a training run reports its progress to: steps done, steps in all, and what it is doing."""

        def report(done: int, total: int, doing: str) -> None:
            self.show(what, done, total, f"{done:,} of {total:,} steps, {doing}")

        return report
