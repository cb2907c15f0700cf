"""A run is whole, or what is missing or too much is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from collapselab import InputError
from collapselab.records.completeness import check_finished, check_resumable
from collapselab.records.rows import MeasuredRow
from collapselab.training import Recipe, RunFolder, run_recipe

OLD = Path(__file__).parents[1] / "fixtures" / "run_schema_1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_of_module: Recipe) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    run_recipe(tiny_recipe_of_module, RunFolder(path))
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(finished, tmp_path / "run"))


def check(folder: RunFolder) -> None:
    record = folder.read_run()
    assert record is not None
    check_finished(folder, record)


def test_a_finished_run_is_whole(run: RunFolder) -> None:
    check(run)


def write(folder: RunFolder, rows: list[MeasuredRow]) -> None:
    """Write rows with their digests: only what is missing is wrong."""
    (folder.path / "measurements.jsonl").unlink()
    folder.append_rows(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"rows of step 30 are gone \(test layers.2\)"),
        (lambda rows: rows[1:], r"rows of step 0 are gone \(train layers.0\)"),
        (lambda rows: [row for row in rows if row.step != 2], r"rows of step 2 are gone"),
        (lambda rows: [row for row in rows if row.step != 30], r"rows of step 30 are gone"),
        (
            lambda rows: [row for row in rows if row.layer != "layers.1"],
            r"rows of step 0 are gone \(test layers.1\)",
        ),
        (lambda rows: [*rows, rows[3]], r"rows of step 0 are too many"),
        (lambda rows: [*rows, rows[3].model_copy(update={"step": 3})], r"rows of step 3 are too many"),
        (
            lambda rows: [*rows, rows[3].model_copy(update={"layer": "x"})],
            r"rows of step \d+ are gone \(\w+ x\)",
        ),
        (lambda rows: [], r"rows of step 0 are gone"),
    ],
)
def test_rows_that_are_missing_or_too_many_are_named(
    run: RunFolder, change: Callable[[list[MeasuredRow]], list[MeasuredRow]], message: str
) -> None:
    write(run, change(run.read_rows()))
    with pytest.raises(InputError, match=f"measurements.jsonl: ({message})"):
        check(run)


def test_final_references_are_those_of_the_rows(run: RunFolder) -> None:
    rows = run.read_final_reference()
    for fewer in (rows[:-1], rows[1:], []):
        run.write_final_reference(fewer)
        with pytest.raises(InputError, match=r"final_reference.jsonl: rows of step \d+ are gone"):
            check(run)


def test_rows_of_a_run_without_a_plan_are_those_of_its_statistics(run: RunFolder) -> None:
    """As in runs of earlier schemas, which may have been measured at other steps."""
    path = run.path / "run.json"
    values = json.loads(path.read_text())
    del values["digest"]
    values["schema"] = 2
    path.write_text(json.dumps(values))
    check(run)
    write(run, [row for row in run.read_rows() if row.step != 30])
    with pytest.raises(InputError, match="rows of step 30 are gone"):
        check(run)


def _as_of_schema_2(run: RunFolder, *, until: int, without: int) -> None:
    """Make the rows up to a step those of an earlier version, which did not measure at another one."""
    path, rows = run.path / "measurements.jsonl", run.read_rows()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [
        values | {"schema": 2} for values in lines if values["step"] <= until and values["step"] != without
    ]
    for values in old:
        del values["digest"]
        del values["run"]
    path.write_text("".join(json.dumps(values) + "\n" for values in old))
    run.append_rows([row for row in rows if row.step > until])
    (run.path / "statistics" / f"step-{without:06}.safetensors").unlink()
    run.write_final_reference([row for row in run.read_final_reference() if row.step != without])


@pytest.mark.parametrize("until", [5, 30])
def test_steps_that_an_earlier_version_chose_are_not_held_to_the_plan_of_this_one(
    run: RunFolder, tiny_recipe: Recipe, until: int
) -> None:
    """A run that an earlier version began, and this one ended: its record is of this version, and so may be all files."""
    assert {2, 5} < set(tiny_recipe.measured_steps())
    _as_of_schema_2(run, until=until, without=2)
    with pytest.raises(InputError, match="rows of step 2 are gone"):
        check(run)
    record = run.read_run()
    assert record is not None
    assert record.planned == tuple(tiny_recipe.measured_steps())
    run.write_run(record.model_copy(update={"planned": None}))
    check(run)
    run.drop_rows_after(30)
    check(run)
    check_resumable(run, tiny_recipe.with_changes({"measuring.weak_test_variance": False}), None, 30)
    write(run, [row for row in run.read_rows() if row.step != 30])
    with pytest.raises(InputError, match="rows of step 30 are gone"):
        check(run)


def test_a_run_of_schema_1_is_whole_or_not(tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(OLD, tmp_path / "run"))
    check(folder)
    path = folder.path / "final_reference.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=r"final_reference.jsonl: rows of step 300 are gone"):
        check(folder)


def test_what_a_run_needs_to_go_on_is_there(run: RunFolder, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.with_changes({"measuring.weak_test_variance": False})
    check_resumable(run, recipe, recipe.measured_steps(), 5)
    with pytest.raises(InputError, match=r"features/step-000000.safetensors: is gone; restore it, or remove"):
        check_resumable(run, tiny_recipe, tiny_recipe.measured_steps(), 5)
    run.weights_path(2).unlink()
    with pytest.raises(InputError, match=r"checkpoints/step-000002.safetensors: is gone"):
        check_resumable(run, recipe, recipe.measured_steps(), 5)
    (run.path / "statistics" / "step-000001.safetensors").unlink()
    with pytest.raises(InputError, match=r"statistics/step-000001.safetensors: is gone"):
        check_resumable(run, recipe, recipe.measured_steps(), 5)
