"""`collapselab run`: the demo by name, recipes by file, and what a user can get wrong about them."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from cli_runner import assert_refused, run

RECIPE = """\
model: {name: mlp, options: {width: 8, depth: 1}}
data: {train: {method: first, count: 60}, test: {method: first, count: 60}}
steps: 20
batch_size: 32
num_threads: 1
measuring: {count: 3, metrics: [normalized_within, train_variance, strong_test_variance], spectra: false}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert_refused(run("run", "digit"), "digit", "digits", ".yaml")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert_refused(run("run", "digits", "--out", tmp_path), tmp_path, "not empty and not a run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("seed", ["-1", "x", "1.5"])
def test_a_seed_that_is_none_is_refused(seed: str) -> None:
    assert_refused(run("run", "digits", "--seed", seed), "--seed")


@pytest.mark.parametrize("option", [("--devices", 2), ("--workers", 0), ("--set", "steps=2")])
def test_options_of_recipes_are_refused_for_the_demo(option: tuple[str, object]) -> None:
    assert_refused(run("run", "digits", *option), option[0], "--show-recipe")


def test_batches_that_devices_cannot_share_are_refused(recipe: Path, tmp_path: Path) -> None:
    refused = run("run", recipe, "--out", tmp_path / "run", "--devices", 3)
    assert_refused(refused, "batch_size 32 cannot be shared by 3 processes")


def test_a_missing_engine_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert_refused(run("run", "digits", "--out", tmp_path / "run"), "collapselab[train]")


def test_help_shows_an_example() -> None:
    shown = run("run", "--help")
    assert shown.code == 0
    assert "collapselab run digits" in shown.out


def test_a_recipe_is_run_and_shown_again(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run("run", recipe, "--out", out)
    assert first.code == 0, first.err
    assert "20 steps: all steps done" in first.out
    assert "layers.1" in first.out
    assert first.err == ""
    before = (out / "measurements.jsonl").stat().st_mtime_ns
    again = run("run", recipe, "--out", out)
    assert again.out == first.out
    assert (out / "measurements.jsonl").stat().st_mtime_ns == before
    assert_refused(run("run", recipe, "--out", out, "--seed", 1), out, "seed 0, not 1")


def test_values_are_set_on_the_command_line(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "run", recipe, "--out", out, "--seed", 3, "--set", "steps=5", "--set", "optimizer.learning_rate=0.01"
    )
    assert done.code == 0, done.err
    held = json.loads((out / "run.json").read_text())["recipe"]
    assert (held["seed"], held["steps"], held["optimizer"]["learning_rate"]) == (3, 5, 0.01)


def test_the_recipe_that_is_shown_is_one_that_can_be_run(tmp_path: Path) -> None:
    shown = run("run", "digits", "--show-recipe")
    assert shown.code == 0
    path = tmp_path / "shown.yaml"
    path.write_text(shown.out)
    assert run("run", path, "--show-recipe").out == shown.out
    assert "learning_rate: 0.05  # Learning rate of the first step" in shown.out


def test_a_run_that_is_out_of_time_ends_cleanly_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped = run("run", recipe, "--out", out, "--stop-after", "0.000001s")
    assert stopped.code == 0
    assert stopped.err.splitlines() == [f"{out}: out of time at step 0; run it again to resume"]
    assert run("run", recipe, "--out", out).code == 0


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--set", "steps"], ["--set steps", "NAME=VALUE"]),
        (["--set", "stepz=3"], ["stepz", "unknown recipe field"]),
        (["--set", "steps=[3"], ["--set steps=[3", "cannot be read"]),
        (["--set", "steps=0"], ["steps", "greater than or equal to 1"]),
        (["--stop-after", "soon"], ["--stop-after soon: give a positive duration", "9m"]),
        (["--stop-after", "0s"], ["--stop-after 0s: give a positive duration"]),
        (["--data", "mnist"], ["mnist", "NAME=PATH"]),
        (["--set", "model.name=mlq"], ["unknown model 'mlq'", "mlp"]),
        (["--set", "model.options.widht=3"], ["widht", "correct the options"]),
        (["--set", "data.train.count=5000"], ["digits, train: 5000 samples requested, but there are 1000"]),
        (["--set", "data.name=mnits"], ["mnits"]),
    ],
)
def test_mistakes_are_said_in_one_line(
    recipe: Path, tmp_path: Path, arguments: list[str], fragments: list[str]
) -> None:
    assert_refused(run("run", recipe, "--out", tmp_path / "out", *arguments), *fragments)


def test_the_demo_has_no_other_values() -> None:
    assert_refused(run("run", "digits", "--set", "steps=3"), "--show-recipe")


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    assert_refused(run("run", tmp_path / "none.yaml"), "none.yaml", "no such file")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_saves_and_says_where(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    over = threading.Event()

    def interrupt_once_a_state_is_on_disk() -> None:
        while not over.wait(0.01):
            if (out / "checkpoints" / "trainer.pt").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    # A test runner in the background may have been told to ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt_once_a_state_is_on_disk)
    thread.start()
    try:
        stopped = run("run", recipe, "--out", out, "--set", "steps=10000000")
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert stopped.code == 130
    assert "interrupted at step" in stopped.err
    assert len(stopped.err.splitlines()) == 1
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
