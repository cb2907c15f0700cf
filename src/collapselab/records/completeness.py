"""Check that a run is whole before it is resumed or judged: rows, final references, statistics and recipe must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from collapselab.errors import InputError
from collapselab.records.recipe import Recipe
from collapselab.records.rows import Row
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import RunRecord

_ROWS, _FINAL = "measurements.jsonl", "final_reference.jsonl"

# Step, split, layer.
Place = tuple[int, str, str]


def check_finished(folder: RunFolder, record: RunRecord) -> None:
    """Check that a finished run has every row that it should have.

    Args:
        folder: of the run.
        record: of the run; nothing is checked before it is finished.

    Raises:
        InputError: a file is damaged, or rows are missing or too many.
    """
    if not record.is_finished:
        return
    rows = folder.read_rows()
    _check_rows(folder, rows, _steps_of(folder, record, rows))
    if isinstance(record.recipe, Recipe):
        _compare(folder, _FINAL, _places(folder.read_final_reference()), set(_places(rows)))


def check_resumable(
    folder: RunFolder,
    recipe: Recipe,
    planned: Collection[int] | None,
    measured: int,
    *,
    diverged: bool = False,
) -> None:
    """Check everything that a run has stored up to a step, before more time is spent on it.

    Args:
        folder: of the run.
        recipe: of the run.
        planned: the steps to measure at; None if an earlier version began the run, which may have planned others.
        measured: the last step whose rows are complete, by the saved state.
        diverged: whether that step has none, because the network diverged there.

    Raises:
        InputError: a file is damaged or gone.
    """
    rows = [row for row in folder.read_rows() if row.step <= measured]
    if planned is None:
        planned = {*folder.stored_steps("statistics"), *(row.step for row in rows)}
    steps = {step for step in planned if step < measured} | (set() if diverged else {measured})
    _check_rows(folder, rows, steps)
    for step in sorted(steps):
        folder.check_tensors("statistics", step)
        if recipe.measuring.weak_test_variance:
            folder.check_tensors("features", step)
        if recipe.keeps_weights(step, is_last=False):
            folder.check_tensors("checkpoints", step)


def _steps_of(folder: RunFolder, record: RunRecord, rows: Iterable[Row]) -> set[int]:
    """Return the steps at which a finished run was measured: as planned, or else those that its other files have."""
    if not isinstance(record.recipe, Recipe):
        return {*folder.stored_steps("statistics"), *(row.step for row in rows)}
    steps = record.planned
    if steps is None:  # an earlier version may have planned others than this one would
        steps = (*folder.stored_steps("statistics"), *(row.step for row in folder.read_final_reference()))
    return {step for step in steps if step < record.steps} | (
        set() if record.ended == "diverged" else {record.steps}
    )


def _check_rows(folder: RunFolder, rows: Sequence[Row], steps: Collection[int]) -> None:
    """Check that there are rows of these steps, all with the same splits and layers: those of the statistics, if kept."""
    layers = {(row.split, row.layer) for row in rows}
    for step in set(folder.stored_steps("statistics")) & set(steps):
        layers |= folder.statistics_places(step)
    if steps and not layers:
        raise _is_wrong(folder, _ROWS, f"rows of step {min(steps)} are gone")
    _compare(folder, _ROWS, _places(rows), {(step, *layer) for step in steps for layer in layers})


def _compare(folder: RunFolder, file: str, found: Counter[Place], wanted: set[Place]) -> None:
    for place in sorted(wanted - set(found)):
        raise _is_wrong(folder, file, "rows of step {} are gone ({} {})".format(*place))
    for place, count in sorted(found.items()):
        if place not in wanted or count > 1:
            raise _is_wrong(folder, file, "rows of step {} are too many ({} {})".format(*place))


def _places(rows: Iterable[Row]) -> Counter[Place]:
    return Counter((row.step, row.split, row.layer) for row in rows)


def _is_wrong(folder: RunFolder, file: str, what: str) -> InputError:
    return InputError(
        f"{folder.path / file}: {what}; restore the file, or remove {folder.path} so that it is run again"
    )
