"""Two processes that share every batch train the network of one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from collapselab import InputError
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe

pytestmark = pytest.mark.slow


# What is registered first is called last: after the group is left.
TRAINING_SCRIPT = """
import atexit, os, sys, weakref
import torch.distributed as dist
from collapselab.cli import main

def end():
    sys.stdout.flush()
    os._exit(5 if not groups or groups[0]() is not None else 0)

codes, groups = [], []
atexit.register(end)
for recipe, folder in (sys.argv[1:3], sys.argv[3:5]):
    try:
        main(["run", recipe, "--out", folder])
    except SystemExit as ended:
        codes.append(ended.code)
assert codes == [2, 0], codes
groups.append(weakref.ref(dist.group.WORLD))
"""


def test_two_processes_train_the_network_of_one(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A batch that they cannot share is refused in one line; no group is alive at their end.

    Its threads abort a process now and then.
    """
    # Batch norm and dropout work on each process's share; without them the gradient is that of the whole batch. The last
    # batch of an epoch, of 12 samples, is shared too.
    recipe = tiny_recipe.with_changes(
        {
            "model.options": {"width": 8, "depth": 2, "batch_norm": False},
            "data.image_size": [8, 8],
            "augmentation": {"crop": 1, "flip": 0.5},
            "batch_size": 16,
            "stop_below_loss": 1e-9,
        }
    )
    script, odd, even = (tmp_path / name for name in ("train.py", "odd.yaml", "even.yaml"))
    script.write_text(TRAINING_SCRIPT)
    odd.write_text(recipe.model_copy(update={"batch_size": 15}).to_yaml())
    even.write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.run(
        [*command, script, odd, tmp_path / "odd", even, tmp_path / "two"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert together.returncode == 0, together.stderr[-2000:]
    assert together.stdout.count("30 steps: all steps done") == 1
    refusals = [line for line in together.stderr.splitlines() if "error:" in line]
    assert refusals
    assert all("batch_size 15 cannot be shared by 2 processes" in line for line in refusals), refusals
    alone, shared = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    run_recipe(recipe, alone)
    for name, weights in alone.read_weights(30).items():
        # Thirty float32 steps whose gradients are summed in another order.
        assert torch.allclose(weights, shared.read_weights(30)[name], rtol=0, atol=1e-5), name
    for one, two in zip(alone.read_rows(), shared.read_rows(), strict=True):
        assert (one.step, one.split, one.layer) == (two.step, two.split, two.layer)
        assert two.metrics["normalized_within"] == pytest.approx(one.metrics["normalized_within"], rel=1e-4)


# ---------------------------------------------------------------- started by the run itself


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, 8 x 9 pixels: 40 images for training and 14 for test in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 7)):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number:02}.png")
    return folder


@pytest.fixture
def shared(images: Path, tiny_recipe: Recipe) -> Recipe:
    """Batch norm, dropout, streamed and augmented images, and a last batch of 8; evaluated in 10 and 4 batches."""
    return tiny_recipe.with_changes(
        {
            "data": {"name": str(images), "stream": True},
            "augmentation": {"crop": 2, "flip": 0.5},
            "batch_size": 16,
            "steps": 12,
            "stop_below_loss": 1e-9,
            "measuring.batch_size": 4,
            "measuring.count": 3,
            "devices": 2,
        }
    )


def _results(folder: RunFolder) -> dict[str, Any]:
    return {
        "rows": (folder.path / "measurements.jsonl").read_bytes(),
        "final": (folder.path / "final_reference.jsonl").read_bytes(),
        "weights": {name: tensor.tolist() for name, tensor in folder.read_weights(12).items()},
    }


def test_a_shared_run_measures_what_one_process_measures_and_goes_on_exactly(
    shared: Recipe, tmp_path: Path
) -> None:
    """Before training, the network is the same: loss, accuracy and features are too, to the bit.

    Then a run of two processes is killed: it ends with the bits of one that was not, and leaves no process behind.
    """
    alone, whole, killed = (RunFolder(tmp_path / name) for name in ("alone", "whole", "killed"))
    run_recipe(shared.with_changes({"devices": 1, "steps": 12}), alone, workers=0)
    progress: list[int] = []
    record = run_recipe(shared, whole, lambda step, *_: progress.append(step), workers=1)
    assert isinstance(record.recipe, Recipe)
    assert (record.status, record.recipe.devices, progress[-1]) == ("finished", 2, 12)
    for one, two in zip(alone.read_rows(), whole.read_rows(), strict=True):
        if one.step:
            continue
        # Deviations of float32 features are rounded from another centre in each process.
        assert (one.split, one.layer, set(one.metrics)) == (two.split, two.layer, set(two.metrics))
        for name in {"loss", "accuracy", "weak_test_variance"} & set(one.metrics):
            assert two.metrics[name] == one.metrics[name], name
        for name, value in one.metrics.items():
            assert two.metrics[name] == pytest.approx(value, rel=1e-6), name

    file = tmp_path / "recipe.yaml"
    file.write_text(shared.with_changes({"devices": 1}).to_yaml())
    command = [sys.executable, "-m", "collapselab", "run", file, "--out", killed.path, "--devices", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline, state = time.monotonic() + 300, None
    while time.monotonic() < deadline and process.poll() is None and (state is None or state["step"] < 5):
        time.sleep(0.02)
        state = killed.read_trainer() if (killed.path / "checkpoints" / "trainer.pt").exists() else None
    assert process.poll() is None, process.communicate()[1]
    started = psutil.Process(process.pid).children(recursive=True)
    for one in (psutil.Process(process.pid), *started):  # as when the machine loses power
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate(timeout=60)
    state = killed.read_trainer()
    assert state is not None
    assert 5 <= state["step"] < 12
    run_recipe(shared, killed, workers=0)
    assert _results(killed) == _results(whole)


def test_what_is_wrong_in_a_process_is_one_line_here(
    shared: Recipe, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="batch_size 16 cannot be shared by 3 processes; give a multiple"):
        shared.with_changes({"devices": 3})
    wrong = shared.with_changes({"model.options": {"width": 8, "colour": 1}})
    with pytest.raises(InputError, match="colour"):
        run_recipe(wrong, RunFolder(tmp_path / "wrong"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="devices=2: torchrun has started 4 processes; give 4"):
        run_recipe(shared, RunFolder(tmp_path / "other"))


def test_a_run_of_several_processes_stops_when_it_is_told(
    shared: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunInterrupted, match="out of time at step") as stopped:
        run_recipe(shared.with_changes({"steps": 100_000}), folder, stopper=stop_at(60))
    state = folder.read_trainer()
    assert state is not None
    assert state["step"] == stopped.value.step
