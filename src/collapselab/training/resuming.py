"""Check whether a folder contains the requested run and can be resumed."""

from __future__ import annotations

from typing import Any

from collapselab.data import DataSplits
from collapselab.data.memory import fingerprint
from collapselab.errors import InputError
from collapselab.records.completeness import check_resumable
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import RunRecord, SampleFacts
from collapselab.text import flat


def same_recipe(record: RunRecord, recipe: Recipe, folder: RunFolder) -> Recipe:
    """Return the recipe as it was resolved when the run began; a run that has nothing to lose starts over with any.

    Raises:
        InputError: the folder holds the run of another recipe.
    """
    if not record.is_finished and not folder.has_results():
        return recipe
    held = record.recipe
    if not isinstance(held, Recipe):
        raise InputError(f"{folder.path}: holds a monitored run; choose another out=")
    if recipe.num_threads is None:
        recipe = recipe.model_copy(update={"num_threads": held.num_threads})
    wanted, before = (dict(flat(one.model_dump(mode="json"))) for one in (recipe, held))
    for path in wanted | before:
        if wanted.get(path) != before.get(path):
            raise InputError(
                f"{folder.path}: holds a run with {path} {before.get(path)!r}, not {wanted.get(path)!r}; choose another "
                "out=, or remove that folder"
            )
    return recipe


def check_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """Check that a folder holds no run of another recipe. The number of threads of a finished one may differ.

    Raises:
        InputError: it does.
    """
    record = folder.read_run()
    if record is None:
        return
    if record.is_finished and isinstance(record.recipe, Recipe):
        recipe = recipe.model_copy(update={"num_threads": record.recipe.num_threads})
    same_recipe(record, recipe, folder)


def sample_facts(data: DataSplits) -> SampleFacts:
    """Return what tells these samples from others."""
    return SampleFacts(
        name=data.name,
        num_classes=data.num_classes,
        num_train=len(data.train),
        num_test=len(data.test),
        shape=tuple(data.input_shape),
        fingerprint=fingerprint(data),
    )


def check_samples(record: RunRecord, facts: SampleFacts, folder: RunFolder) -> None:
    """Check that a run with results is resumed on the samples it was begun on.

    Raises:
        InputError: it is not.
    """
    if folder.has_results() and record.data != facts:
        raise InputError(
            f"{folder.path}: was begun on other samples ({record.data}; now {facts}); give the same data, or another "
            "out="
        )


def check_state(
    recipe: Recipe, folder: RunFolder, state: dict[str, Any] | None, planned: tuple[int, ...] | None
) -> None:
    """Check that everything which the saved state says is on disk is there, as it was written.

    Args:
        recipe: of the run.
        folder: of the run.
        state: as it was saved; None where there is none, as before the rows of step 0 are complete.
        planned: the steps to measure at, if they are known.

    Raises:
        InputError: it is not, or there is no state although there are rows of later steps.
    """
    if state is None:
        if any(row.step for row in folder.read_rows()):
            raise InputError(
                f"{folder.path / 'checkpoints' / 'trainer.pt'}: is gone; restore it, or remove {folder.path} so that it "
                "is run again"
            )
    elif state["measured"] >= 0:
        check_resumable(folder, recipe, planned, state["measured"], diverged=state["ended"] == "diverged")
