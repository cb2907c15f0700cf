"""Time the steps and measurements of a recipe on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from collapselab.data import AnySplit, DataSplits
from collapselab.numerics import cpu_threads
from collapselab.records.experiment import TIMINGS, KindTiming, read_timings
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.records.stored import write_model
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer

_WARM_STEPS = 2
_TIMED_SECONDS = 1.0
_TIMED_STEPS = 50
_TIMED_SAMPLES = 512
_VALID_SECONDS = 1800.0  # the load of the machine changes


@dataclass(frozen=True)
class Timing:
    """Seconds of a training step, and seconds per sample of a measurement."""

    step: float
    sample: float


def time_recipe(recipe: Recipe, data: DataSplits) -> Timing:
    """Time a recipe for a second or two, in a folder that is removed.

    Args:
        recipe: what is run; the checkpoint it starts from plays no part.
        data: its samples.

    Raises:
        InputError: the recipe cannot be run.
        ImportError: the training engine is not installed.
    """
    recipe = recipe.model_copy(update={"start": None})
    few = replace(data, train=_some(data.train), test=_some(data.test))
    with cpu_threads(recipe.num_threads), tempfile.TemporaryDirectory(prefix="collapselab-") as scratch:
        fabric = make_fabric(recipe)
        folder = RunFolder(Path(scratch) / "run")
        folder.create()
        trainer = Trainer(recipe, data.to(fabric.device), folder, fabric, lambda *_: None)
        try:
            step = _step_seconds(trainer)
            trainer.data = few.to(fabric.device)
            return Timing(step, _measuring_seconds(trainer) / (len(few.train) + len(few.test)))
        finally:
            trainer.close()


class TimedKinds:
    """Timings by kind of run: network, form of the samples, batch size, what is measured.

    They are cached in a folder for half an hour, so that short slots do not each spend their time on them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._held = folder, read_timings(folder)

    def timing(
        self, recipe: Recipe, data: Callable[[Recipe], DataSplits], before: Callable[[], None]
    ) -> KindTiming:
        """Return the timing of a recipe's kind; call `before`, get the data and time it if it is not known."""
        kind = _kind(recipe)
        known = self._held.kinds.get(kind)
        if known is not None and 0 <= time.time() - known.at < _VALID_SECONDS:
            return known
        before()
        timed = time_recipe(recipe, data(recipe))
        known = KindTiming(at=time.time(), step=timed.step, sample=timed.sample)
        self._held = self._held.model_copy(update={"kinds": self._held.kinds | {kind: known}})
        write_model(self._folder / TIMINGS, self._held)
        return known


def _kind(recipe: Recipe) -> str:
    kind = {"model", "batch_size", "precision", "num_threads", "measuring", "augmentation"}
    form = {"name", "image_size", "channels"}
    return recipe.model_dump_json(include=kind) + recipe.data.model_dump_json(include=form)


def _step_seconds(trainer: Trainer) -> float:
    trainer.engine.training_mode()
    for _ in range(min(_WARM_STEPS, trainer.recipe.steps)):
        trainer.train_step()
    float(trainer.epoch_loss)  # waits for the device
    steps, start = 0, time.perf_counter()
    while steps < _TIMED_STEPS and time.perf_counter() - start < _TIMED_SECONDS:
        trainer.train_step()
        steps += 1
    float(trainer.epoch_loss)
    return (time.perf_counter() - start) / steps


def _measuring_seconds(trainer: Trainer) -> float:
    trainer.measure()
    start = time.perf_counter()
    trainer.measure()
    return time.perf_counter() - start


def _some(split: AnySplit) -> AnySplit:
    """Return samples of every class, as many as are timed."""
    return split.every(max(1, len(split) // _TIMED_SAMPLES))
