"""How long a grid of runs will take, from steps and measurements that were timed on this machine."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from collapselab.data import DataSplits, Split
from collapselab.experiments.grid import Grid
from collapselab.experiments.record import TIMINGS
from collapselab.storage import hardware, replace_text
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper
from collapselab.training.engine import make_fabric
from collapselab.training.loop import Trainer, cpu_threads

_KEPT_SECONDS = 1800.0  # other work on the machine comes and goes
_WARM_STEPS = 2
_TIMED_SECONDS = 1.0
_TIMED_STEPS = 50
_TIMED_SAMPLES = 512


def seconds_left(
    grid: Grid, on_timing: Callable[[str], None] | None = None, stopper: Stopper | None = None
) -> float:
    """Of all runs that are not finished; what is computed from finished runs is not in it.

    One run of each kind (network, form of the samples, batch size, what is measured) is timed for a second or two in
    a folder that is thrown away; its steps and its measurements are counted for the others. Timings are kept beside the
    runs for a while, so that of many short slots not each spends its time on them.

    Args:
        on_timing: told the name of each run that is timed.
        stopper: asked before each whether to stop.

    Raises:
        RunInterrupted: told to stop.
    """
    timings = _Timings(grid.out / TIMINGS)
    total = 0.0
    for job, seed in grid.all():
        done, finished = grid.steps_done(job.name, seed)
        if finished:
            continue
        recipe = job.recipe
        kind = recipe.model_dump_json(
            include={"model", "batch_size", "precision", "num_threads", "measuring"}
        )
        kind += recipe.data.model_dump_json(include={"name", "image_size", "channels"})
        if (timed := timings.get(kind)) is None:
            if stopper is not None and stopper.reason:
                raise RunInterrupted(0, stopper.reason)
            if on_timing is not None:
                on_timing(job.name)
            timed = time_recipe(recipe, grid.data(recipe))
            timings.add(kind, timed)
        step, sample = timed
        measured = sum(at >= done for at in recipe.measured_steps())
        total += (recipe.steps - done) * step + measured * sample * _num_samples(recipe, grid)
    return total


class _Timings:
    """Seconds of a step and of measuring a sample, by kind of run: of this machine, and not of long ago."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here = hardware() | {"torch": torch.__version__}
        self._kept: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):  # not there yet, or not ours: timed again
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["on"] == self._here:
                self._kept = kept["seconds"]

    def get(self, kind: str) -> tuple[float, float] | None:
        kept = self._kept.get(kind)
        if kept is None or not 0 <= time.time() - kept["at"] < _KEPT_SECONDS:
            return None
        return kept["step"], kept["sample"]

    def add(self, kind: str, timed: tuple[float, float]) -> None:
        self._kept[kind] = {"at": time.time(), "step": timed[0], "sample": timed[1]}
        replace_text(self._path, json.dumps({"on": self._here, "seconds": self._kept}, indent=1) + "\n")


def _num_samples(recipe: Recipe, grid: Grid) -> int:
    """Of both splits; the data are only read where the recipe does not say."""
    counts = recipe.data.train.count, recipe.data.test.count
    if None not in counts:
        return sum(count or 0 for count in counts)
    data = grid.data(recipe)
    return len(data.train) + len(data.test)


def time_recipe(recipe: Recipe, data: DataSplits) -> tuple[float, float]:
    """Seconds of a training step, and seconds per sample of a measurement."""
    # The schedule, the order and the weights are those of the run; only the folder is not, and what it starts from.
    recipe = recipe.model_copy(update={"start": None})
    few = DataSplits(data.name, data.num_classes, _some(data.train), _some(data.test))
    with cpu_threads(recipe.num_threads), tempfile.TemporaryDirectory(prefix="collapselab-") as scratch:
        fabric = make_fabric(recipe)
        folder = RunFolder(Path(scratch) / "run")
        folder.create()
        trainer = Trainer(recipe, data.to(fabric.device), folder, fabric, lambda *_: None)
        trainer.engine.training_mode()
        for _ in range(min(_WARM_STEPS, recipe.steps)):
            trainer.train_step()
        float(trainer.epoch_loss)  # waits for the device
        steps, start = 0, time.perf_counter()
        while steps < _TIMED_STEPS and time.perf_counter() - start < _TIMED_SECONDS:
            trainer.train_step()
            steps += 1
        float(trainer.epoch_loss)
        step_seconds = (time.perf_counter() - start) / steps
        trainer.data = few.to(fabric.device)
        trainer.measure()
        start = time.perf_counter()
        trainer.measure()
        seconds = time.perf_counter() - start
    return step_seconds, seconds / (len(few.train) + len(few.test))


def _some(split: Split) -> Split:
    """Samples of every class, as many as are timed."""
    stride = max(1, len(split) // _TIMED_SAMPLES)
    return Split(split.inputs[::stride], split.labels[::stride])
