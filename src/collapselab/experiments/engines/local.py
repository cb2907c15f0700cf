"""Runs one after another in this process. Any number of processes may do this in the same folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from collapselab.errors import InputError
from collapselab.experiments.grid import Grid, GridRun
from collapselab.experiments.running import Watcher, next_move
from collapselab.storage import FolderInUse
from collapselab.training import Stopper, run_recipe
from collapselab.training.timing import TimedKinds

_LOOK_AGAIN_SECONDS = 1.0


class ThisProcess:
    """The default engine. Runs that another process works on are skipped, and looked at again later."""

    def run_all(self, grid: Grid, left: Sequence[GridRun], watcher: Watcher, stopper: Stopper) -> None:
        """See `collapselab.experiments.running.Engine`."""
        watcher.estimated(len(left), len(grid.all()), seconds_left(grid, left, watcher, stopper))
        _run_all(grid, list(left), watcher, stopper)


def _run_all(grid: Grid, left: list[GridRun], watcher: Watcher, stopper: Stopper) -> None:
    is_waiting = False
    lost: dict[tuple[str | None, int], InputError] = {}
    while left:
        others = []
        for run in left:
            move = next_move(grid, run, lost)
            if move == "wait" or (move == "do" and not _do(grid, run, watcher, stopper)):
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


def _do(grid: Grid, run: GridRun, watcher: Watcher, stopper: Stopper) -> bool:
    """Do a run; return False if another process has begun it."""
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
