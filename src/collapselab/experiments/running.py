"""What engines have in common: the interfaces of engines and watchers, and what comes before and between runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from collapselab.errors import InputError
from collapselab.experiments.grid import Grid, GridRun
from collapselab.records.experiment import LOCK
from collapselab.storage import exclusive
from collapselab.training import Stopper


@runtime_checkable
class Watcher(Protocol):
    """Called while an experiment goes on. Each method does nothing unless overridden."""

    def timing(self, job: str) -> None:
        """Before a run of a new kind is timed."""

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        """Before anything starts."""

    def waiting(self, runs: int) -> None:
        """When other processes work on all `runs` that are left, or on the runs that these start from."""

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        """Before a run of `steps`; finished runs have `steps_before` of the `steps_of_all` of all runs."""

    def progress(self, done: int, total: int, doing: str) -> None:
        """Within a run: steps done, steps in all, `training` or `measuring`."""

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        """After a run."""

    def note(self, text: str) -> None:
        """When a reader should know something else."""

    def at_once(self, steps: int, steps_of_all: int, text: str) -> None:
        """While several runs go on at once: steps done of those of all runs, and what goes on."""

    def extra(self, name: str, seed: int) -> None:
        """Before something is computed from finished runs."""


class Silent(Watcher):
    """Ignores everything."""


@runtime_checkable
class Engine(Protocol):
    """How the runs of a grid are done."""

    def run_all(self, grid: Grid, left: Sequence[GridRun], watcher: Watcher, stopper: Stopper) -> None:
        """Do every run that is left, at least one.

        Raises:
            InputError: some cannot start; all others are done by then.
            RunInterrupted: told to stop.
        """
        ...


def next_move(
    grid: Grid, run: GridRun, lost: dict[tuple[str | None, int], InputError]
) -> Literal["do", "wait", "leave"]:
    """Decide about a run: do it; wait, as another process works on it or on its start; or leave it.

    Args:
        grid: its grid.
        run: which.
        lost: errors of runs that cannot be done, by job and seed; this one is added if its start will never exist.
    """
    if run.is_finished:  # meanwhile, by another process
        return "leave"
    after = run.job.after
    error = lost.get((after, run.seed))
    if error is None and after is not None and not grid.of(run.seed)[after].is_finished:
        return "wait"
    if error := error or _missing_start(grid, run):
        lost[run.job.name, run.seed] = error
        return "leave"
    return "wait" if run.folder.in_use() else "do"


def _missing_start(grid: Grid, run: GridRun) -> InputError | None:
    """Return why a run cannot start: the finished run that should have written its weights ended before."""
    job = run.job
    if job.after is None or job.recipe.start is None:
        return None
    checkpoint = Path(job.recipe.start.checkpoint)
    # Relative to a folder that need not exist yet.
    if os.path.exists(os.path.normpath(run.folder.path / checkpoint)):
        return None
    before = grid.of(run.seed)[job.after].record
    return InputError(
        f"{job.name}, seed {run.seed}: starts from {checkpoint.name} of {job.after}, which ended at step {before.steps} "
        f"({before.ended}); change values of {job.after} and remove {grid.out / 'runs' / job.after}"
    )


@contextmanager
def writing(out: Path, stopper: Stopper) -> Iterator[None]:
    """Keep other processes from writing what all runs of an experiment share; wait for one that does.

    Raises:
        InputError: the path cannot be a folder.
        RunInterrupted: told to stop while waiting.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({error.strerror}); choose another out=") from error
    with exclusive(out / LOCK, while_waiting=stopper.check):
        yield


def check_data(grid: Grid, *, is_whole: bool) -> None:
    """Check that the samples of every unfinished run and of extras exist before hours are spent on the first run.

    Args:
        grid: the runs.
        is_whole: whether the experiment needs all of them.

    Raises:
        InputError: some do not; the message names the runs that do without them.
    """
    missing: dict[str, InputError] = {}
    for job in (run.job for run in grid.all() if not run.is_finished):
        if (error := grid.samples.problem(job.recipe)) is not None:
            missing.setdefault(job.name, error)
    some_recipe = grid.all()[0].job.recipe
    for spec in grid.extra_data:
        if (error := grid.samples.problem(some_recipe.model_copy(update={"data": spec}))) is not None:
            raise error
    if not missing:
        return
    first = next(iter(missing.values()))
    others = sorted({run.job.name for run in grid.all()} - set(missing))
    if others and not is_whole:
        raise InputError(f"{first}; or run only the others with only={','.join(others)}")
    raise first
