"""Training: what a kill loses (nothing), what measuring changes (nothing)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from collapselab import InputError
from collapselab.training import Recipe, RunFolder, RunInterrupted, run_recipe
from collapselab.training import loop as loop_module


class Killed(BaseException):
    """Stands for the process's end: no handler of the code under test may catch it."""


def _results(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Everything a run leaves that must not depend on how it came about."""
    return {
        "rows": (folder.path / "measurements.jsonl").read_bytes(),
        "final": (folder.path / "final_reference.jsonl").read_bytes(),
        "weights": {name: tensor.tolist() for name, tensor in folder.read_weights(recipe.steps).items()},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = Recipe(width=8, depth=2, steps=30, num_measurements=5, save_every=7, num_train=60)
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    run_recipe(recipe, folder)
    return _results(folder, recipe)


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5, 8, 13, 18, 21])
def test_a_kill_at_any_write_loses_nothing(
    moment: int,
    tiny_recipe: Recipe,
    folder: RunFolder,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = 0
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == moment:
            raise Killed
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            run_recipe(tiny_recipe, folder)
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


def test_a_kill_in_the_middle_of_a_row_loses_nothing(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = 0
    real = RunFolder.append_rows

    def append(self: RunFolder, rows: Any) -> None:
        nonlocal appended
        appended += 1
        if appended < 3:
            return real(self, rows)
        with (self.path / "measurements.jsonl").open("a") as file:
            file.write('{"step": 6, "epoch": 1.5, "spl')
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append_rows", append)
        with pytest.raises(Killed):
            run_recipe(tiny_recipe, folder)
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


@pytest.mark.slow
def test_killing_the_process_loses_nothing(tmp_path: Path) -> None:
    recipe = Recipe(width=8, depth=2, steps=300, num_measurements=10, save_every=50, num_train=60)
    script = (
        "import sys\n"
        "from collapselab.training import Recipe, RunFolder, run_recipe\n"
        "run_recipe(Recipe.model_validate_json(sys.argv[1]), RunFolder(sys.argv[2]))\n"
    )
    killed, whole = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "whole")
    command = [sys.executable, "-c", script, recipe.model_dump_json(), str(killed.path)]
    rows = killed.path / "measurements.jsonl"
    # One thread, as in this process: results are the same bit for bit only for the same number.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.stat().st_size > 10_000):  # several measurements in
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(killed.read_rows()) < len(recipe.measured_steps()) * 6
    subprocess.run(command, check=True, env=environment)
    run_recipe(recipe, whole)
    assert _results(killed, recipe) == _results(whole, recipe)


def test_ctrl_c_saves_and_says_where(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any]
) -> None:
    def interrupt(done: int, _total: int, _doing: str) -> None:
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted) as caught:
        run_recipe(tiny_recipe, folder, interrupt)
    assert caught.value.step == 17
    run = folder.read_run()
    assert run is not None
    assert run["status"] == "stopped"
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


def test_a_finished_run_is_not_run_again(tiny_recipe: Recipe, folder: RunFolder) -> None:
    first = run_recipe(tiny_recipe, folder)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    assert run_recipe(tiny_recipe, folder, never) == first


def test_another_recipe_in_the_folder_is_refused(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run_recipe(tiny_recipe, folder)
    with pytest.raises(InputError, match="holds a run with seed 0, not 5"):
        run_recipe(tiny_recipe.model_copy(update={"seed": 5}), folder)


def test_measuring_does_not_change_the_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    often = tiny_recipe.model_copy(update={"num_measurements": 30})
    rarely = tiny_recipe.model_copy(update={"num_measurements": 2})
    weights = []
    for name, recipe in (("often", often), ("rarely", rarely)):
        folder = RunFolder(tmp_path / name)
        run_recipe(recipe, folder)
        weights.append(folder.read_weights(recipe.steps))
    assert len(often.measured_steps()) > len(rarely.measured_steps())
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:  # batch norm's running statistics among them
        assert torch.equal(weights[0][name], weights[1][name]), name


def test_a_run_leaves_the_callers_random_state_alone(tiny_recipe: Recipe, folder: RunFolder) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    run_recipe(tiny_recipe, folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_decides_the_result(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any]
) -> None:
    other = tiny_recipe.model_copy(update={"seed": 1})
    run_recipe(other, folder)
    assert _results(folder, other)["rows"] != uninterrupted["rows"]


def test_every_epoch_visits_every_sample_once(tiny_recipe: Recipe, folder: RunFolder) -> None:
    folder.create()
    recipe = tiny_recipe.model_copy(update={"batch_size": 16})
    data = loop_module.load_data(recipe)
    trainer = loop_module._Trainer(recipe, data, folder, loop_module._Clock(), lambda *_: None)
    seen = []
    for step in range(4):  # 60 samples in batches of 16: 16, 16, 16, 12
        trainer.step = step
        seen.append(trainer._batch_rows())
    assert [len(rows) for rows in seen] == [16, 16, 16, 12]
    assert torch.cat(seen).sort().values.tolist() == list(range(60))


def test_run_json_says_where_the_result_comes_from(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run = run_recipe(tiny_recipe, folder)
    assert run["recipe"] == tiny_recipe.model_dump()
    assert run["versions"]["torch"] == torch.__version__
    assert run["hardware"]["cpu_count"] == os.cpu_count()
    assert run["status"] == "finished"
