"""The training loop: an explicit loop of ours on an engine (Lightning Fabric) that is not.

Every step's batch and learning rate follow from the recipe and the step's number alone, and random numbers of the
network are part of the saved state, so that a run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collapselab.data import DataSplits
from collapselab.errors import InputError
from collapselab.randomness import seeded
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.storage import provenance
from collapselab.training.building import build_model, classifier_name, load_data
from collapselab.training.engine import Engine, make_fabric
from collapselab.training.final_reference import final_reference_rows
from collapselab.training.measuring import measure_network
from collapselab.training.resuming import check_rows, same_recipe, sample_facts
from collapselab.training.stopping import RunInterrupted, Stopper

# (steps done, steps in all, what is going on)
StepCallback = Callable[[int, int, str], None]

# Reading the loss waits for the device: seldom enough not to be seen.
_LOSS_READ_EVERY = 100
# Processes agree on stopping at these steps only: asking the others is a message.
_STOP_ASKED_EVERY = 50
_REPORT_SECONDS = 0.1


@dataclass
class Clock:
    """Seconds spent training and measuring, over all starts of a run."""

    training: float = 0.0
    measuring: float = 0.0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)


def run_recipe(
    recipe: Recipe,
    folder: RunFolder,
    on_step: StepCallback | None = None,
    *,
    copies: Mapping[str, Path] | None = None,
    data: DataSplits | None = None,
    stopper: Stopper | None = None,
) -> dict[str, Any]:
    """Train and measure, or go on with a run that was stopped, or do nothing if it is finished.

    Args:
        recipe: what to do. A folder holds one recipe's run.
        folder: where it is kept.
        on_step: called after steps, at most ten times a second, and before every measurement.
        copies: where the data sets of a name are on this machine.
        data: what `load_data` gives for this recipe, where the caller has it already.
        stopper: says when to stop before the end; default on Ctrl-C and SIGTERM alone.

    Returns:
        What run.json says of the finished run. `ended` there is `steps`, `loss` (below what the recipe asks for) or
        `diverged` (the loss is no number any more; the rows are those until then).

    Raises:
        InputError: the folder holds another recipe's run or one of other samples, or cannot be written.
        FolderInUse: another process trains there.
        RunInterrupted: stopped from outside. The state is saved.
        ImportError: the training engine is not installed; names the extra.
    """
    stopper = stopper or Stopper()
    run = folder.read_run()
    if run is not None:
        recipe = same_recipe(run, recipe, folder)
        if run["status"] == "finished":
            return run
    if recipe.num_threads is None:
        recipe = recipe.model_copy(update={"num_threads": torch.get_num_threads()})
    with cpu_threads(recipe.num_threads), seeded(recipe.seed), stopper.listening(), ExitStack() as held:
        fabric = make_fabric(recipe)
        if fabric.device.type == "cuda":  # which nothing may have used yet: `seeded` leaves it alone then
            torch.cuda.manual_seed_all(recipe.seed)
        data = data or load_data(recipe, copies)
        facts = sample_facts(data)
        writer = fabric.global_rank == 0
        if writer:
            folder.create()
            held.enter_context(folder.exclusive())
        # Again, now that nobody else writes there: another process may have begun the run, or finished it.
        run = fabric.broadcast(folder.read_run() if writer else None)
        if run is not None:
            recipe = same_recipe(run, recipe, folder)
            if run["status"] == "finished":
                return run
        if run is not None and folder.has_results() and run["data"] != facts:
            raise InputError(
                f"{folder.path}: was begun on other samples ({run['data']}, now {facts}); give the same data, or "
                "another --out"
            )
        state = folder.read_trainer()
        fabric.barrier()
        here = provenance()
        slots = [*(run["slots"] if run else []), here | {"from_step": state["step"] if state else 0}]
        run = here | {"recipe": recipe.model_dump(mode="json"), "data": facts, "slots": slots}
        if state is not None:
            check_rows(folder, state)
        trainer = Trainer(recipe, data.to(fabric.device), folder, fabric, on_step or (lambda *_: None))
        if state is not None:
            trainer.load(state)
        if writer:
            folder.write_run(run | {"status": "running"})
            folder.drop_rows_after(trainer.measured)
        try:
            trainer.train(stopper)
            if writer:
                with trainer.clock.of("measuring"):
                    folder.write_final_reference(final_reference_rows(folder, data.num_classes))
        except (RunInterrupted, KeyboardInterrupt) as stop:
            if writer:
                folder.write_run(run | {"status": "stopped"})
            if isinstance(stop, KeyboardInterrupt):
                raise RunInterrupted(trainer.saved) from None
            raise
        seconds = {
            "training": round(trainer.clock.training, 2),
            "measuring": round(trainer.clock.measuring, 2),
        }
        run |= {"status": "finished", "ended": trainer.ended, "steps": trainer.step, "seconds": seconds}
        if writer:
            folder.write_run(run)
            folder.drop_working_files()
        fabric.barrier()
    return run


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Use this many CPU threads, in torch, BLAS and OpenMP; the caller's numbers are put back on the way out."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


class Trainer:
    """The state of one run: network, optimiser, step.

    Attributes:
        step: optimiser steps done.
        measured: the last step whose rows are complete on disk.
        saved: the step of the state on disk.
        ended: why there is no next step: `steps`, `loss`, `diverged`; None while there is one.
    """

    def __init__(
        self, recipe: Recipe, data: DataSplits, folder: RunFolder, fabric: Any, on_step: StepCallback
    ) -> None:
        self.recipe, self.data, self.folder = recipe, data, folder
        self.clock = Clock()
        self.step, self.measured, self.saved = 0, -1, 0
        self.ended: str | None = None
        self._fabric, self._on_step = fabric, on_step
        self.model = build_model(recipe, data, folder.path)
        self._classifier = classifier_name(self.model)
        self.engine = Engine(recipe, fabric, self.model, data)
        self._shares = fabric.world_size
        if recipe.batch_size % self._shares:
            raise InputError(
                f"batch_size {recipe.batch_size} cannot be shared by {self._shares} processes; give a multiple"
            )
        self._batches = self._batch_starts()
        self._planned = set(recipe.measured_steps())
        self._order: tuple[int, Tensor] | None = None
        # Sum over this epoch's samples, on the device.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
        self._last_save = self._last_report = -math.inf

    def _batch_starts(self) -> list[int]:
        """Where each batch of an epoch starts. Batch norm cannot train on a single sample: such a last batch is left out."""
        size, number = self.recipe.batch_size, len(self.data.train)
        starts = list(range(0, number, size))
        if len(starts) > 1 and number - starts[-1] < 2 * self._shares:
            starts.pop()
        return starts

    @property
    def epoch(self) -> float:
        return self.step / len(self._batches)

    def train(self, stopper: Stopper) -> None:
        """From the current step to the end, measuring where the recipe says so.

        Raises:
            RunInterrupted: told to stop. The state is saved.
        """
        self.engine.training_mode()
        while True:
            if self.step == self.recipe.steps:
                self.ended = self.ended or "steps"
            if (self.ended or self.step in self._planned) and self.measured < self.step:
                if self.ended != "diverged":
                    self._report("measuring", always=True)
                    self.measure()
                self.measured = self.step
                self.save()
            elif time.perf_counter() - self._last_save >= self.recipe.checkpoints.save_every:
                self.save()
            if self.ended:
                return
            reason = self._reason_to_stop(stopper)
            if reason is not None:
                self.save()
                raise RunInterrupted(self.step, reason)
            start = time.perf_counter()
            self.train_step()
            self.clock.training += time.perf_counter() - start
            self._report("training")

    def train_step(self) -> None:
        """One step; sets `ended` where the loss says so."""
        epoch, position = divmod(self.step, len(self._batches))
        rows = self.batch_rows(epoch, position)
        share = rows[self._fabric.global_rank :: self._shares] if self._shares > 1 else rows
        weight = len(share) * self._shares / len(rows)
        loss = self.engine.step(share, self.recipe.learning_rate_at(self.step), weight)
        if position == 0:
            self.epoch_loss.zero_()
        self.epoch_loss += loss * len(share)
        self.step += 1
        is_read = self.step % _LOSS_READ_EVERY == 0 or self.step in self._planned
        if is_read and not math.isfinite(self._over_processes(loss)):
            self.ended = "diverged"
        if self.recipe.stop_below_loss is not None and position == len(self._batches) - 1:
            mean = self._over_processes(self.epoch_loss) * self._shares / self._samples_per_epoch
            if mean < self.recipe.stop_below_loss:
                self.ended = "loss"

    @property
    def _samples_per_epoch(self) -> int:
        return min(len(self.data.train), self._batches[-1] + self.recipe.batch_size)

    def batch_rows(self, epoch: int, position: int) -> Tensor:
        """Training samples of a step, over all processes."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch + 1)
            order = torch.randperm(len(self.data.train), generator=generator).to(
                self.data.train.labels.device
            )
            self._order = (epoch, order)
        start = self._batches[position]
        return self._order[1][start : start + self.recipe.batch_size]

    def _over_processes(self, value: Tensor) -> float:
        """The mean over processes."""
        return float(self._fabric.all_reduce(value, reduce_op="mean") if self._shares > 1 else value)

    def _reason_to_stop(self, stopper: Stopper) -> str | None:
        if self._shares == 1:
            return stopper.reason
        if self.step % _STOP_ASKED_EVERY:
            return None
        # Of all processes, the first one decides.
        return self._fabric.broadcast(stopper.reason)

    def _report(self, doing: str, *, always: bool = False) -> None:
        now = time.perf_counter()
        if always or now - self._last_report >= _REPORT_SECONDS or self.step == self.recipe.steps:
            self._last_report = now
            self._on_step(self.step, self.recipe.steps, doing)

    def measure(self) -> None:
        """Measure the network as it is and put the rows on disk."""
        with self.clock.of("measuring"):
            if not measure_network(self, writes=self._fabric.global_rank == 0):
                self.ended = "diverged"

    @property
    def classifier(self) -> str:
        return self._classifier

    def save(self) -> None:
        """Write the state from which `load` goes on."""
        self._last_save = time.perf_counter()
        self.saved = self.step
        if self._fabric.global_rank:
            return
        on_gpu = self._fabric.device.type == "cuda"
        self.folder.write_trainer(
            {
                "step": self.step,
                "measured": self.measured,
                "ended": self.ended,
                "model": self.model.state_dict(),
                "optimizer": self.engine.optimizer.state_dict(),
                "epoch_loss": self.epoch_loss,
                "random_state": torch.get_rng_state(),
                "cuda_random_state": torch.cuda.get_rng_state(self._fabric.device) if on_gpu else None,
                "seconds": {"training": self.clock.training, "measuring": self.clock.measuring},
            }
        )

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `save` wrote."""
        self.step, self.measured, self.ended = state["step"], state["measured"], state["ended"]
        self.saved = self.step
        self.model.load_state_dict(state["model"])
        self.engine.optimizer.load_state_dict(state["optimizer"])
        self.epoch_loss.copy_(state["epoch_loss"])
        torch.set_rng_state(state["random_state"])
        if state["cuda_random_state"] is not None and self._fabric.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random_state"], self._fabric.device)
        self.clock = Clock(**state["seconds"])
