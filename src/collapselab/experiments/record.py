"""What is on record of an experiment: written when it starts, completed when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from collapselab.errors import InputError
from collapselab.experiments.grid import Grid
from collapselab.records.experiment import ExperimentRecord, Hours, read_experiment
from collapselab.records.run_record import RunRecord
from collapselab.storage import now
from collapselab.text import flat
from collapselab.training import Recipe

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
    return asked.model_copy(update=_facts(grid))


def _facts(grid: Grid) -> dict[str, object]:
    """Return what the records of the runs say together."""
    runs = grid.records()
    # In the order of the runs; where these were on several machines, the last one stands for them.
    slots = [slot for run in runs for slot in run.slots]
    return {
        "status": "finished",
        "finished": now(),
        "runs": len(runs),
        "ended": dict(sorted(Counter(str(run.ended) for run in runs).items())),
        "hours": Hours(**{name: _hours(runs, name) for name in ("training", "measuring")}),
        "commits": tuple(sorted({slot.commit for slot in slots if slot.commit})),
        "hardware": slots[-1].hardware,
        "versions": slots[-1].versions,
        "data": _fingerprints(runs),
        "recipes": {job.name: _in_one_line(job.recipe) for job, _ in grid.all()},
    }


def _hours(runs: Sequence[RunRecord], name: str) -> float:
    return round(sum(getattr(run.seconds, name) for run in runs) / 3600, 3)


def _fingerprints(runs: Sequence[RunRecord]) -> dict[str, tuple[str, ...]]:
    """Return the fingerprints of all samples, by the name of their data set."""
    by_name: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.data is not None:
            by_name.setdefault(run.data.name, {})[run.data.fingerprint] = None
    return {name: tuple(fingerprints) for name, fingerprints in by_name.items()}


def _in_one_line(recipe: Recipe) -> str:
    """Describe a recipe by what differs from the defaults."""
    defaults = dict(flat(Recipe().model_dump(mode="json")))
    values = flat(recipe.model_dump(mode="json"))
    return ", ".join(f"{path} {value}" for path, value in values if defaults.get(path, ...) != value)
