"""The runs of a grid, one after another. Any number of processes may do this in the same folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from collapselab.errors import InputError
from collapselab.experiments.grid import Grid, GridRun
from collapselab.records.experiment import LOCK
from collapselab.storage import FolderInUse, exclusive
from collapselab.training import Stopper, run_recipe
from collapselab.training.timing import TimedKinds

_LOOK_AGAIN_SECONDS = 1.0


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

    def extra(self, name: str, seed: int) -> None:
        """Before something is computed from finished runs."""


class Silent(Watcher):
    """Ignores everything."""


def run_all(grid: Grid, left: Sequence[GridRun], watcher: Watcher, stopper: Stopper) -> None:
    """Do every run that is left. Runs that another process works on are skipped, and looked at again later.

    Raises:
        InputError: some cannot start; all others are done by then.
        RunInterrupted: told to stop.
    """
    is_waiting = False
    lost: dict[tuple[str | None, int], InputError] = {}
    while left:
        others = []
        for run in left:
            error = lost.get((run.job.after, run.seed))
            if error is None and _has_to_wait(grid, run):
                others.append(run)
            elif error := error or _missing_start(grid, run):
                lost[run.job.name, run.seed] = error
            elif not _do(grid, run, watcher, stopper):
                others.append(run)
        if len(others) == len(left):
            if not is_waiting:
                watcher.waiting(len(others))
                is_waiting = True
            stopper.check()
            time.sleep(_LOOK_AGAIN_SECONDS)
        left = others
    if lost:
        raise next(iter(lost.values()))


def _has_to_wait(grid: Grid, run: GridRun) -> bool:
    """Whether another process works on a run, or has to finish the one that it starts from."""
    if run.is_finished:  # meanwhile, by another process
        return False
    after = run.job.after
    return (after is not None and not grid.of(run.seed)[after].is_finished) or run.folder.in_use()


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


def _do(grid: Grid, run: GridRun, watcher: Watcher, stopper: Stopper) -> bool:
    """Do a run; return False if another process has begun it."""
    if run.is_finished:
        return True
    job, seed, everything = run.job, run.seed, grid.all()
    before = sum(one.job.recipe.steps for one in everything if one.is_finished)
    steps = sum(one.job.recipe.steps for one in everything)
    start, data = time.perf_counter(), grid.samples.of(job.recipe)
    watcher.run_started(job.name, seed, run.number, len(everything), before, steps, job.recipe.steps)
    try:
        done = run_recipe(job.recipe, run.folder, watcher.progress, data=data, stopper=stopper)
    except FolderInUse:
        return False
    seconds = time.perf_counter() - start
    watcher.run_ended(job.name, seed, run.number, len(everything), str(done.ended), seconds)
    return True


# ---------------------------------------------------------------- before and between runs


def seconds_left(grid: Grid, left: Sequence[GridRun], watcher: Watcher, stopper: Stopper) -> float:
    """Return the seconds that the runs that are left will take, estimated from one run of each kind; extras are not included.

    Raises:
        RunInterrupted: told to stop.
    """
    timings, total = TimedKinds(grid.out), 0.0

    def before(name: str) -> None:
        stopper.check()
        watcher.timing(name)

    for run in left:
        recipe = run.job.recipe
        timing = timings.timing(recipe, grid.samples.of, partial(before, run.job.name))
        total += timing.seconds(recipe, run.steps_done, grid.samples.count(recipe))
    return total


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
