"""Progress of an experiment on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from collapselab.cli.progress import ProgressBars
from collapselab.text import counted, duration, words

_ENDINGS = {"steps": "", "loss": " (loss below its threshold)", "diverged": " (diverged)"}


class GridBars:
    """Shows the progress of an experiment: one bar for all runs, one for the run in progress."""

    def __init__(self, bars: ProgressBars, extras: Sequence[str]) -> None:
        self._bars = bars
        self._extras = " and ".join(words(name) for name in extras)
        self._all, self._run = ("", 0, 0), ""

    def timing(self, job: str) -> None:
        self._bars.note(f"timing a few steps of {job}")

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        then = f", then {self._extras}" if self._extras else ""
        self._bars.note(
            f"{runs_left} of {counted(runs, 'run')} left: about {duration(seconds)} at the current speed{then} (you can "
            "stop with Ctrl-C; the same command resumes)"
        )

    def waiting(self, runs: int) -> None:
        self._bars.note(f"waiting for {counted(runs, 'run')} in other processes")

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        self._bars.hide_all()
        self._all, self._run = (f"run {number} of {runs}", steps_before, steps_of_all), f"{job}, seed {seed}"
        self.progress(0, steps, "starting")

    def progress(self, done: int, total: int, doing: str) -> None:
        text, before, all_steps = self._all
        self._bars.show("all runs", before + done, all_steps, text)
        self._bars.show(self._run, done, total, f"{done:,} of {total:,} steps, {doing}")

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        self._bars.note(f"{number} of {runs}: {job}, seed {seed}: {duration(seconds)}{_ENDINGS[ended]}")

    def note(self, text: str) -> None:
        self._bars.note(text)

    def at_once(self, steps: int, steps_of_all: int, text: str) -> None:
        self._bars.show("all runs", steps, steps_of_all, text)

    def extra(self, name: str, seed: int) -> None:
        self._bars.note(f"computing {words(name)}, seed {seed}")


def shares_left(runs: int) -> str:
    """Say what is missing after a share of an experiment."""
    return (
        f"this share is done; {counted(runs, 'run')} of other shares left. The last share makes figures and verdicts, or the "
        "same command without --jobs"
    )
