"""Reproduce several experiments on the command line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.cli.errors import in_options
from collapselab.cli.grid_bars import GridBars, shares_left
from collapselab.cli.options import end_stopped
from collapselab.cli.progress import ProgressBars
from collapselab.cli.terminal import note, print_text
from collapselab.errors import InputError, one_line
from collapselab.text import counted, duration

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment
    from collapselab.experiments.runner import Request
    from collapselab.records.outcome import Outcome
    from collapselab.training import Stopper

_FAILED = 2


def reproduce_many(
    requests: Sequence[Request], page: Path, stopper: Stopper, options: Mapping[str, str]
) -> None:
    """Do all experiments; print the verdicts of each, and at the end which failed. Then exit with code 2.

    Args:
        requests: one per experiment.
        page: the page over all of them.
        stopper: says when to stop before the end.
        options: of the command, by the name of their argument, for messages.
    """
    from collapselab.results.many import Many
    from collapselab.training import RunInterrupted

    many, stopped = Many(requests, page), None
    try:
        with ProgressBars() as bars:
            many.run(_Terminal(bars, options), stopper)
    except RunInterrupted as error:
        stopped = error
    for name, why in many.failures.items():
        note(f"error: {name}: {why}")
    if stopped is not None and not (many.failures and stopped.reason == "out of time"):
        end_stopped(page, stopped, f"{stopped.reason}; run the same command again to resume")
    print_text(f"Page: {page}\n")
    if many.failures:
        note(
            f"error: {len(many.failures)} of {counted(len(requests), 'experiment')} failed; run the same command again for these"
        )
        sys.exit(_FAILED)


class _Terminal:
    """Prints what happens to each experiment."""

    def __init__(self, bars: ProgressBars, options: Mapping[str, str]) -> None:
        self._bars, self._options = bars, options
        self._seconds = 0.0

    def runs_of(self, experiment: Experiment) -> GridBars:
        return GridBars(self._bars, list(experiment.extras))

    def estimated(self, experiment: Experiment, runs_left: int, seconds: float) -> None:
        self._seconds += seconds
        about = (
            f"about {duration(seconds)}, {duration(self._seconds)} so far" if runs_left else "nothing to run"
        )
        self._bars.note(f"{experiment.id}: {counted(runs_left, 'run')} left, {about}")

    def begins(self, experiment: Experiment, number: int, count: int) -> None:
        self._bars.hide_all()
        self._bars.note(f"experiment {number} of {count}: {experiment.id}, {experiment.title}")

    def done(self, outcome: Outcome) -> None:
        from collapselab.records.wording import summary

        print_text(
            f"{outcome.record.experiment}: {summary(outcome.judgements, outcome.record.scale)}\n  Page: {outcome.page}\n"
        )

    def shares_left(self, experiment: Experiment, runs: int) -> None:
        self._bars.note(f"{experiment.id}: {shares_left(runs)}")

    def failed(self, experiment: Experiment, error: Exception) -> str:
        """Say why in one line; an error that no user can mend is printed in full too."""
        line = one_line(error)
        if isinstance(error, InputError):
            line = in_options(line, self._options)
        elif not isinstance(error, ImportError | OSError):
            traceback.print_exception(error)
            line = f"{type(error).__name__}: {line}"
        self._bars.note(f"{experiment.id}: failed, going on with the next ({line})")
        return line
