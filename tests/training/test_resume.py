"""Stopping and going on: what a kill loses (nothing), what is refused, what begins anew."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from collapselab import InputError
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, parse_duration, run_recipe
from collapselab.training.building import load_data
from collapselab.training.trainer import Trainer


class Killed(BaseException):
    """Stands for the process's end: no handler of the code under test may catch it."""


def _results(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Everything a run leaves that must not depend on how it came about."""
    return {
        "rows": (folder.path / "measurements.jsonl").read_bytes(),
        "final": (folder.path / "final_reference.jsonl").read_bytes(),
        "weights": {name: tensor.tolist() for name, tensor in folder.read_weights(recipe.steps).items()},
        "left": sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*")),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_of_module: Recipe) -> dict[str, Any]:
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    run_recipe(tiny_recipe_of_module, folder)
    return _results(folder, tiny_recipe_of_module)


@pytest.mark.parametrize("moment", [1, 2, 47])
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
    results = _results(folder, tiny_recipe)
    results["left"] = [name for name in results["left"] if not name.endswith(".tmp")]
    assert results == uninterrupted


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


def test_a_run_in_short_slots_is_the_run_in_one(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], stop_at: Callable[[int], Stopper]
) -> None:
    for step in (7, 14, 21, 28):
        with pytest.raises(RunInterrupted, match=f"out of time at step {step};"):
            run_recipe(tiny_recipe, folder, stopper=stop_at(7))
        run = folder.read_run()
        assert run is not None
        assert run.status == "stopped"
    run_recipe(tiny_recipe, folder, stopper=stop_at(7))
    assert _results(folder, tiny_recipe) == uninterrupted


def test_a_deadline_ends_a_run_between_two_steps(tiny_recipe: Recipe, folder: RunFolder) -> None:
    with pytest.raises(RunInterrupted, match="out of time at step 0; run it again to resume"):
        run_recipe(tiny_recipe, folder, stopper=Stopper(time.monotonic() - 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_between_two_steps(
    number: signal.Signals, tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any]
) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a shell in the background may ignore it
    try:

        def interrupt(done: int, _total: int, doing: str) -> None:
            if doing == "measuring" and done > 3:
                signal.raise_signal(number)

        with pytest.raises(RunInterrupted) as caught:
            run_recipe(tiny_recipe, folder, interrupt)
        assert caught.value.reason == "interrupted"
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


def test_an_interrupt_inside_a_step_goes_on_from_the_last_state(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.train_step

    def step(self: Trainer) -> None:
        real(self)
        if self.step == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", step)
        with pytest.raises(RunInterrupted) as caught:
            run_recipe(tiny_recipe, folder)
    assert caught.value.step == 16
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


def test_a_finished_run_is_not_run_again(tiny_recipe: Recipe, folder: RunFolder) -> None:
    first = run_recipe(tiny_recipe, folder)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    assert run_recipe(tiny_recipe, folder, never) == first


def test_the_seed_decides_the_result(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any]
) -> None:
    other = tiny_recipe.model_copy(update={"seed": 1})
    run_recipe(other, folder)
    assert _results(folder, other)["rows"] != uninterrupted["rows"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "holds a run with seed 0, not 5"),
        ({"optimizer.learning_rate": 0.5}, "holds a run with optimizer.learning_rate 0.05, not 0.5"),
        ({"model.options.width": 9}, "holds a run with model.options.width 8, not 9"),
    ],
)
def test_another_recipe_in_the_folder_is_refused(
    tiny_recipe: Recipe, folder: RunFolder, changes: dict[str, Any], message: str
) -> None:
    run_recipe(tiny_recipe, folder)
    with pytest.raises(InputError, match=message):
        run_recipe(tiny_recipe.with_changes(changes), folder)


def test_other_samples_under_the_same_name_are_refused(
    tiny_recipe: Recipe, folder: RunFolder, stop_at: Callable[[int], Stopper]
) -> None:
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, folder, stopper=stop_at(3))
    data = load_data(tiny_recipe)
    data.train.inputs[0, 0] += 1e-3
    with pytest.raises(InputError, match="was begun on other samples"):
        run_recipe(tiny_recipe, folder, data=data)


def test_threads_that_are_not_said_are_those_of_the_first_start(
    tiny_recipe: Recipe, folder: RunFolder
) -> None:
    recipe = tiny_recipe.model_copy(update={"num_threads": None})
    run = run_recipe(recipe, folder)
    assert isinstance(run.recipe, Recipe)
    assert run.recipe.num_threads == torch.get_num_threads()
    assert run_recipe(recipe, folder) == run


def test_a_run_that_has_nothing_to_lose_begins_anew_with_another_recipe(
    tiny_recipe: Recipe, folder: RunFolder
) -> None:
    wrong = tiny_recipe.with_changes({"measuring.layers": ["layers.9"]})
    with pytest.raises(InputError, match=r"layers\.9"):
        run_recipe(wrong, folder)
    assert run_recipe(tiny_recipe, folder).status == "finished"


def test_a_state_that_is_damaged_or_without_its_rows_is_one_line(
    tiny_recipe: Recipe, folder: RunFolder, stop_at: Callable[[int], Stopper]
) -> None:
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, folder, stopper=stop_at(7))
    rows = folder.path / "measurements.jsonl"
    kept = rows.read_bytes()
    rows.write_bytes(b"")
    with pytest.raises(InputError, match=r"rows of step \d+ are gone"):
        run_recipe(tiny_recipe, folder)
    rows.write_bytes(kept)
    (folder.path / "checkpoints" / "trainer.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"trainer.pt: damaged"):
        run_recipe(tiny_recipe, folder)


def test_a_timestamp_is_a_seed(
    tiny_recipe: Recipe, folder: RunFolder, stop_at: Callable[[int], Stopper]
) -> None:
    """In microseconds; its orders of samples are beyond what torch takes as a seed."""
    recipe = tiny_recipe.with_changes({"seed": 1764254628123456789, "steps": 6})
    with pytest.raises(RunInterrupted):
        run_recipe(recipe, folder, stopper=stop_at(3))
    assert run_recipe(recipe, folder).status == "finished"


@pytest.mark.parametrize(
    "text", ["1e99d", "1e99", "9" * 5000 + "s", "9" * 400, "nan", "-1", "11y", "4000d", ""]
)
def test_durations_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="duration"):
        parse_duration(text)


def test_a_state_of_an_earlier_version_goes_on(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], stop_at: Callable[[int], Stopper]
) -> None:
    """It held the state dict, and the states of torch's generators only."""
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, folder, stopper=stop_at(7))
    state = folder.read_trainer()
    assert state is not None
    random_states = state.pop("random_states")
    state |= {"random_state": random_states["torch"], "cuda_random_state": random_states["cuda"]}
    state["model"] = {
        ".".join(filter(None, (part, name))): kept[0]
        for part, saved in state.pop("network")["modules"].items()
        for kind in ("parameters", "buffers")
        for name, kept in saved[kind].items()
        if kept is not None and kept[0] is not None
    }
    folder.write_trainer(state)
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted
