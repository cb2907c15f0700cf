"""Runs on images that do not fit in memory: same bits as in memory, for any number of workers, through kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from collapselab import InputError
from collapselab.data import memory as memory_module
from collapselab.data.pixels import Pixels
from collapselab.data.streamed import StreamedSplit
from collapselab.records.recipe import ModelSpec, Recipe
from collapselab.training import RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.building import load_data

MEGABYTE = 10**6
CHANGES = {
    "resized_crop": 0.5,
    "crop": 2,
    "flip": 0.5,
    "auto_augment": "imagenet",
    "erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}
# The limit is that of a small machine; steps after the fourth take long enough to be interrupted on a busy one.
SCRIPT = """
import sys, time
from pathlib import Path
from collapselab.cli import main
from collapselab.data import memory
from collapselab.training.trainer import Trainer
memory.MEMORY_BYTES = 10**6
step = Trainer.train_step
def slow(self):
    time.sleep(1 if self.step > 3 else 0)
    step(self)
Trainer.train_step = slow
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in colour, 40 x 48 pixels: 60 images for training in two classes, 1.4 MB as floats."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 8)):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number:02}.png")
    return folder


@pytest.fixture
def recipe(images: Path, tiny_recipe: Recipe) -> Recipe:
    """Two and a half epochs of four batches, the last one smaller; a state on disk after each step."""
    model = ModelSpec(name="convnet", options={"width": 4, "depth": 2})
    return tiny_recipe.model_copy(update={"model": model, "steps": 10, "batch_size": 16}).with_changes(
        {"data": {"name": str(images)}, "measuring.count": 3, "augmentation": CHANGES}
    )


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "MEMORY_BYTES", MEGABYTE)


def _results(folder: RunFolder) -> dict[str, Any]:
    """Everything a run computes; the fingerprint of its samples, which lines repeat, is left out."""
    final = folder.path / "final_reference.jsonl"
    return {
        "rows": [row.model_dump() for row in folder.read_rows()],
        "final": [line.split('"run"')[0] for line in final.read_text().splitlines()],
        "weights": {name: tensor.tolist() for name, tensor in folder.read_weights(10).items()},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.channels": 1, "data.image_size": [20, 20], "augmentation": {}},
        {"model": {"name": "mlp", "options": {"width": 8, "dropout": 0.2}}, "num_threads": 2},
    ],
    ids=["colour", "grey", "mlp"],
)
def test_a_streamed_run_is_the_run_in_memory(
    changes: dict[str, Any], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whatever the number of workers: also of what draws random numbers, dropout and augmentation."""
    recipe = recipe.with_changes(changes)
    whole = RunFolder(tmp_path / "whole")
    run_recipe(recipe, whole)
    monkeypatch.setattr(memory_module, "MEMORY_BYTES", 10_000)
    for workers in (0, 1, 2):
        streamed = RunFolder(tmp_path / f"{workers}")
        run_recipe(recipe, streamed, workers=workers)
        assert _results(streamed) == _results(whole)
    assert isinstance(load_data(recipe).train, StreamedSplit)


@pytest.mark.usefixtures("small_memory")
def test_a_streamed_run_in_short_slots_is_the_run_in_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: Callable[[int], Stopper]
) -> None:
    """Each slot has another number of workers, and does not compute means and deviations again."""
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    run_recipe(recipe, whole, workers=1)
    for workers in (0, 1, 2):
        with pytest.raises(RunInterrupted):
            run_recipe(recipe, parts, stopper=stop_at(3), workers=workers)
        monkeypatch.setattr(Pixels, "_sums", None)
    run_recipe(recipe, parts, workers=0)
    assert _results(parts) == _results(whole)


def _started(recipe: Recipe, folder: RunFolder, tmp_path: Path) -> subprocess.Popen[str]:
    """Start a run in a process group of its own, and wait until it is in the middle of an epoch."""
    file, script = tmp_path / "recipe.yaml", tmp_path / "script.py"
    file.write_text(recipe.to_yaml())
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, "run", file, "--out", folder.path, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        # Written anew at every step; unreadable for a moment while it is replaced.
        state = folder.read_trainer() if (folder.path / "checkpoints" / "trainer.pt").exists() else None
        if state is not None and state["step"] >= 5:
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    assert len(found) >= 2
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_killed_goes_on_at_the_exact_sample(
    number: signal.Signals, recipe: Recipe, tmp_path: Path
) -> None:
    """With a limit of 1 MB. Ctrl-C and `timeout` signal all processes of the group; no process is left behind."""
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    run_recipe(recipe, whole, workers=1)
    process = _started(recipe, killed, tmp_path)
    workers = _workers(process)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    # A worker whose reader was killed notices within five seconds.
    assert not psutil.wait_procs(workers, timeout=60)[1]
    run, state = killed.read_run(), killed.read_trainer()
    assert run is not None
    assert state is not None
    assert 5 <= state["step"] < 10
    if number == signal.SIGKILL:
        assert run.status == "running"
    else:
        assert (run.status, process.returncode) == ("stopped", 130)
        assert said.strip().endswith(f"interrupted at step {state['step']}; run it again to resume")
    run_recipe(recipe, killed, workers=0)
    assert _results(killed) == _results(whole)


@pytest.mark.usefixtures("small_memory")
def test_a_broken_image_ends_a_run_with_its_name(recipe: Recipe, images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images"
    for path in images.rglob("*.png"):
        target = copy / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    broken = copy / "train" / "b" / "07.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    recipe = recipe.with_changes({"data.name": str(copy)})
    with pytest.raises(InputError, match=r"b/07\.png: not an image, damaged or truncated"):
        run_recipe(recipe, RunFolder(tmp_path / "run"), workers=2)
    for path in (copy / "train" / "a").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train/a: no images \(.*\); add some or remove the folder"):
        run_recipe(recipe, RunFolder(tmp_path / "run"))
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        run_recipe(recipe.with_changes({"data.name": str(tmp_path / "nowhere")}), RunFolder(tmp_path / "run"))
