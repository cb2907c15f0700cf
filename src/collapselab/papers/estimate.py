"""How long a grid of runs will take, from steps and measurements that were timed on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from collapselab.data import DataSplits, Split
from collapselab.papers.grid import Grid
from collapselab.training import Recipe, RunFolder
from collapselab.training.engine import make_fabric
from collapselab.training.loop import Trainer, cpu_threads

_WARM_STEPS = 2
_TIMED_SECONDS = 1.0
_TIMED_STEPS = 50
_TIMED_SAMPLES = 512


def seconds_left(grid: Grid, on_timing: Callable[[str], None] | None = None) -> float:
    """Of all runs that are not finished.

    One run of each kind (network, form of the samples, batch size, what is measured) is timed for a second or two in
    a folder that is thrown away; its steps and its measurements are counted for the others.

    Args:
        on_timing: told the name of each run that is timed.
    """
    timed: dict[str, tuple[float, float]] = {}
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
        if kind not in timed:
            if on_timing is not None:
                on_timing(job.name)
            timed[kind] = time_recipe(recipe, grid.data(recipe))
        step, sample = timed[kind]
        measured = sum(at >= done for at in recipe.measured_steps())
        total += (recipe.steps - done) * step + measured * sample * _num_samples(recipe, grid)
    return total


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
