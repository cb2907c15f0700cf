"""Whether what a folder holds is the run that is asked for, and can be gone on with."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from collapselab.data import DataSplits
from collapselab.data.memory import fingerprint
from collapselab.errors import InputError
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder


def same_recipe(run: dict[str, Any], recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe as it was resolved when the run began; a run that has nothing to lose begins anew, with any."""
    if run["status"] != "finished" and not folder.has_results():
        return recipe
    held = run["recipe"]
    if recipe.num_threads is None and isinstance(held, dict):
        recipe = recipe.model_copy(update={"num_threads": held.get("num_threads")})
    try:
        # A run of an older version has what was fixed then, which newer fields have as their defaults.
        held = Recipe.model_validate(held).model_dump(mode="json")
    except ValidationError:
        raise InputError(f"{folder.path}: holds a run of another version; choose another --out") from None
    wanted = recipe.model_dump(mode="json")
    if held != wanted:
        for path, value in _flat(wanted):
            was = dict(_flat(held)).get(path)
            if was != value:
                raise InputError(
                    f"{folder.path}: holds a run with {path} {was!r}, not {value!r}; choose another --out, or "
                    "remove that folder"
                )
    return recipe


def check_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """That a folder holds no run of another recipe. The number of threads of a finished one may differ.

    Raises:
        InputError: it does.
    """
    run = folder.read_run()
    if run is None:
        return
    if run["status"] == "finished" and isinstance(run["recipe"], dict):
        recipe = recipe.model_copy(update={"num_threads": run["recipe"].get("num_threads")})
    same_recipe(run, recipe, folder)


def sample_facts(data: DataSplits) -> dict[str, Any]:
    """What tells these samples from others."""
    return {
        "name": data.name,
        "num_classes": data.num_classes,
        "num_train": len(data.train),
        "num_test": len(data.test),
        "shape": list(data.input_shape),
        "fingerprint": fingerprint(data),
    }


def check_rows(folder: RunFolder, state: dict[str, Any]) -> None:
    """That the rows which the saved state says are on disk are there."""
    measured = state["measured"]
    if measured < 0 or state["ended"] == "diverged":
        return
    if not any(row["step"] == measured for row in folder.read_rows()):
        raise InputError(
            f"{folder.path}: its rows of step {measured} are gone from measurements.jsonl; put that file back, or "
            "remove the folder"
        )


def _flat(values: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, dict) or not values:
        return [(path, values)]
    return [
        pair
        for name, value in values.items()
        for pair in _flat(value, f"{path}.{name}" if path else str(name))
    ]
