"""Write experiment.json: when an experiment starts, and again when it ends."""

from __future__ import annotations

from pathlib import Path

from collapselab.errors import InputError
from collapselab.experiments.grid import Grid
from collapselab.records.experiment import ExperimentRecord, read_experiment

# What decides which runs there are, and what describes them.
_RUNS = ("seeds", "changes", "only", "left_out")
DESCRIPTION = ("title", "paper", "where", "question", "reduced")


def held_record(folder: Path, asked: ExperimentRecord) -> ExperimentRecord | None:
    """Return the record that a folder holds, or None before the first start.

    Raises:
        InputError: the folder holds something else, or another experiment or scale.
    """
    held = read_experiment(folder)
    if held is not None and (held.experiment, held.scale) != (asked.experiment, asked.scale):
        raise InputError(f"{folder}: holds {held.experiment} at scale {held.scale}; choose another out=")
    return held


def finished_record(
    asked: ExperimentRecord, held: ExperimentRecord | None, grid: Grid, *, anything_new: bool
) -> ExperimentRecord:
    """Return the record of a finished experiment.

    Args:
        asked: what was asked for.
        held: the record that the folder held before. If it is of the same runs and none of them is new, when it was
            finished and by which command stays.
        grid: the runs.
        anything_new: whether one of them was not finished before.
    """
    same = held is not None and all(getattr(held, name) == getattr(asked, name) for name in _RUNS)
    if held is not None and held.status == "finished" and same and not anything_new:
        return held.model_copy(update={name: getattr(asked, name) for name in DESCRIPTION})
    recipes = {job.name: job.recipe.in_one_line() for job, _ in grid.all()}
    return asked.finished_with(grid.records()).model_copy(update={"recipes": recipes})
