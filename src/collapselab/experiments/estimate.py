"""Estimate the time of a grid of runs from steps and measurements timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

from collapselab.experiments.grid import Grid
from collapselab.records.experiment import TIMINGS, KindTiming, read_timings
from collapselab.records.stored import write_model
from collapselab.training import Recipe, RunInterrupted, Stopper
from collapselab.training.timing import time_recipe

_VALID_SECONDS = 1800.0  # the load of the machine changes


def seconds_left(grid: Grid, on_timing: Callable[[str], None], stopper: Stopper) -> float:
    """Return the seconds that all unfinished runs will take; extras are not included.

    One run of each kind (network, form of the samples, batch size, what is measured) is timed for a second or two; the
    others are estimated from it. Timings are cached beside the runs for half an hour, so that short slots do not each
    spend their time on them.

    Args:
        grid: the runs.
        on_timing: called with the name of each run that is timed.
        stopper: asked before each whether to stop.

    Raises:
        RunInterrupted: told to stop.
    """
    timings = read_timings(grid.out)
    total = 0.0
    for job, seed in grid.all():
        if grid.is_finished(job.name, seed):
            continue
        recipe, kind = job.recipe, _kind(job.recipe)
        timed = timings.kinds.get(kind)
        if timed is None or not 0 <= time.time() - timed.at < _VALID_SECONDS:
            if stopper.reason:
                raise RunInterrupted(0, stopper.reason)
            on_timing(job.name)
            timing = time_recipe(recipe, grid.data(recipe))
            timed = KindTiming(at=time.time(), step=timing.step, sample=timing.sample)
            timings = timings.model_copy(update={"kinds": timings.kinds | {kind: timed}})
            write_model(grid.out / TIMINGS, timings)
        done = grid.steps_done(job.name, seed)
        measured = sum(at >= done for at in recipe.measured_steps())
        total += (recipe.steps - done) * timed.step + measured * timed.sample * _num_samples(recipe, grid)
    return total


def _kind(recipe: Recipe) -> str:
    kind = {"model", "batch_size", "precision", "num_threads", "measuring"}
    form = {"name", "image_size", "channels"}
    return recipe.model_dump_json(include=kind) + recipe.data.model_dump_json(include=form)


def _num_samples(recipe: Recipe, grid: Grid) -> int:
    """Return the samples of both splits; the data are only read where the recipe does not say."""
    train, test = recipe.data.train.count, recipe.data.test.count
    if train is not None and test is not None:
        return train + test
    data = grid.data(recipe)
    return len(data.train) + len(data.test)
