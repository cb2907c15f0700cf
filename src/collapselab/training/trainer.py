"""The training loop, written explicitly on top of Lightning Fabric.

Batch and learning rate of a step depend only on the recipe and the step number, and random states are part of the saved
state: a killed run resumes exactly as if it had not been interrupted.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from collapselab.data import DataSplits
from collapselab.data.streamed import StreamedSplit
from collapselab.distributed import copy_buffers_of_first_rank, gathered_over_ranks
from collapselab.models.weights import check_weights, weights_to_save
from collapselab.randomness import preserved_random_states
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import Ended
from collapselab.training.batches import Batches
from collapselab.training.building import build_model, loss_function
from collapselab.training.engine import Engine
from collapselab.training.evaluation import evaluate
from collapselab.training.feeding import make_feed
from collapselab.training.measuring import measure_network, write_measurement
from collapselab.training.progress import Clock, Reporter, StepCallback
from collapselab.training.state import NetworkState, random_states, restore_random_states
from collapselab.training.stopping import RunInterrupted, Stopper

# Reading the loss waits for the device: seldom enough not to be noticed.
_LOSS_READ_EVERY = 100
# Evaluating a small train set takes as long as several steps.
_STEPS_PER_EVALUATION = 10
# Processes agree on stopping and saving at some steps only, as it takes a message: about once a second, and not more
# seldom than this.
_SECONDS_BETWEEN_QUESTIONS = 1.0
_MOST_STEPS_BETWEEN_QUESTIONS = 50


class Trainer:
    """The state of one run: network, optimiser, step.

    Attributes:
        step: optimiser steps done.
        measured: the last step whose rows are complete on disk.
        saved: the step of the state on disk.
        ended: why there is no next step; None while there is one.
    """

    def __init__(
        self, recipe: Recipe, data: DataSplits, folder: RunFolder, fabric: Any, on_step: StepCallback
    ) -> None:
        self.recipe, self.data, self.folder = recipe, data, folder
        self.clock, self.report = Clock(), Reporter(on_step, recipe.steps)
        self.step, self.measured, self.saved = 0, -1, 0
        self.ended: Ended | None = None
        self._fabric, self._shares = fabric, fabric.world_size
        self.model = build_model(recipe, data, folder.path)
        self.engine = Engine(recipe, fabric, self.model, data)
        assert recipe.batch_size % self._shares == 0, "checked by Recipe"
        self.batches = Batches(
            len(data.train), recipe.batch_size, recipe.seed, data.train.labels.device, self._shares
        )
        self._feed = make_feed(recipe, data, self.batches, fabric.global_rank, self.engine.layout)
        self.engine.training_mode()
        check_weights(self.model)
        self._network = NetworkState(self.model)
        self._planned = set(recipe.measured_steps())
        # Sum over the samples of this epoch, on the device.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
        self._last_save = -math.inf
        # Step and time of the last question, and the step of the next one.
        self._asked, self._ask_at = (0, time.perf_counter()), 0

    @property
    def epoch(self) -> float:
        """Passes over the training data done."""
        return self.step / len(self.batches)

    @property
    def is_writer(self) -> bool:
        """Whether this process is the one that writes."""
        return self._fabric.global_rank == 0

    # ---------------------------------------------------------------- steps

    def train(self, stopper: Stopper) -> None:
        """Train from the current step to the end, measuring where the recipe says so.

        Raises:
            RunInterrupted: told to stop. The state is saved.
        """
        while True:
            if self.step == self.recipe.steps:
                self.ended = self.ended or "steps"
            self._measure_or_save()
            if self.ended:
                return
            reason = self._reason_to_stop(stopper)
            if reason is not None:
                self.save()
                raise RunInterrupted(self.step, reason)
            with self.clock.counting("training"):
                self.train_step()
            self.report(self.step, "training")

    def _measure_or_save(self) -> None:
        if (self.ended or self.step in self._planned) and self.measured < self.step:
            if self.ended != "diverged":
                self.report(self.step, "measuring", always=True)
                self.measure()
            self.measured = self.step
            self.save()
        elif self._shares == 1 and self._is_save_due():
            self.save()

    def _is_save_due(self) -> bool:
        return time.perf_counter() - self._last_save >= self.recipe.checkpoints.save_every

    def train_step(self) -> None:
        """Do one step; set `ended` where the loss says so."""
        position = self.step % len(self.batches)
        inputs, labels = self._feed.batch(self.step)
        weight = len(labels) * self._shares / self.batches.size(self.step)
        loss = self.engine.step(inputs, labels, self.recipe.learning_rate_at(self.step), weight)
        if position == 0:
            self.epoch_loss.zero_()
        self.epoch_loss += loss * len(labels)
        self.step += 1
        is_read = self.step % _LOSS_READ_EVERY == 0 or self.step in self._planned
        if is_read and not math.isfinite(self._mean_over_processes(loss)):
            self.ended = "diverged"
        if position == len(self.batches) - 1 and self._is_loss_low():
            self.ended = "loss"

    def _is_loss_low(self) -> bool:
        """Whether the training loss is below the recipe's limit at the end of an epoch."""
        limit = self.recipe.stop_below_loss
        if limit is None:
            return False
        if self.recipe.stop_loss == "evaluation":
            epochs = math.ceil(_STEPS_PER_EVALUATION / len(self.batches))
            return round(self.epoch) % epochs == 0 and self._evaluated_loss() < limit
        total = self._mean_over_processes(self.epoch_loss) * self._shares
        return total / self.batches.samples_per_epoch < limit

    def _evaluated_loss(self) -> float:
        """Return the mean loss of the network on the train set, in evaluation mode."""
        copy_buffers_of_first_rank(self.model)
        loss, size = loss_function(self.recipe), self.recipe.measuring.batch_size
        return evaluate(self.model, self.data.train, loss, size, num_classes=self.data.num_classes).loss

    def _mean_over_processes(self, value: Tensor) -> float:
        return float(self._fabric.all_reduce(value, reduce_op="mean") if self._shares > 1 else value)

    def _reason_to_stop(self, stopper: Stopper) -> str | None:
        if self._shares == 1:
            return stopper.reason
        if self.step < self._ask_at:
            return None
        step, then = self._asked
        now = time.perf_counter()
        seconds = max(now - then, 1e-6) / max(1, self.step - step)
        between = min(_SECONDS_BETWEEN_QUESTIONS, self.recipe.checkpoints.save_every)
        wanted = min(_MOST_STEPS_BETWEEN_QUESTIONS, max(1, int(between / seconds)))
        # The first process decides for all.
        reason, is_save_due, wait = self._fabric.broadcast((stopper.reason, self._is_save_due(), wanted))
        self._asked, self._ask_at = (self.step, now), self.step + wait
        if is_save_due and reason is None:
            self.save()
        return reason

    # ---------------------------------------------------------------- what goes on disk

    def measure(self) -> None:
        """Measure the network as it is and put the rows on disk."""
        spectra = self.step == 0 or self.ended is not None
        with self.clock.counting("measuring"), preserved_random_states():
            measurement = measure_network(self.model, self.data, self.recipe, spectra=spectra)
            if measurement is None:
                self.ended = "diverged"
            elif self.is_writer:
                if self.recipe.keeps_weights(self.step, is_last=self.ended is not None):
                    self.folder.write_weights(self.step, weights_to_save(self.model))
                write_measurement(self.folder, self.step, self.epoch, measurement, self.data.num_classes)

    def save(self) -> None:
        """Write the state from which `load` resumes."""
        self._last_save = time.perf_counter()
        self.saved = self.step
        ranks = gathered_over_ranks(self._state_of_process())
        if self.is_writer:
            with preserved_random_states():  # libraries that write files draw names for them
                self.folder.write_trainer(self._state() | ({"processes": ranks[1:]} if ranks[1:] else {}))

    def close(self) -> None:
        """End the processes that read data."""
        self._feed.close()

    def _state_of_process(self) -> dict[str, Any]:
        """Return what each process has of its own."""
        return {"random_states": random_states(self._fabric.device), "epoch_loss": self.epoch_loss.cpu()}

    def _state(self) -> dict[str, Any]:
        train = self.data.train
        known = train.pixels.known_standardization if isinstance(train, StreamedSplit) else None
        return (
            self._state_of_process()
            | {
                "step": self.step,
                "measured": self.measured,
                "ended": self.ended,
                "network": self._network.capture(),
                "optimizer": self.engine.optimizer.state_dict(),
                "seconds": {"training": self.clock.training, "measuring": self.clock.measuring},
            }
            | ({} if known is None else {"standardization": known})
        )

    def load(self, state: dict[str, Any]) -> None:
        """Resume from what `save` wrote.

        Raises:
            InputError: the state is that of another network.
        """
        self.step, self.measured, self.ended = state["step"], state["measured"], state["ended"]
        self.saved = self.step
        device, own = self._fabric.device, state
        if not self.is_writer and "processes" in state:
            own = state["processes"][self._fabric.global_rank - 1]
        if "network" in state:
            self._network.restore(state["network"])
            restore_random_states(own["random_states"], device)
        else:  # of schema 2 and earlier
            self.model.load_state_dict(state["model"])
            torch.set_rng_state(state["random_state"])
            if state["cuda_random_state"] is not None and device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_random_state"], device)
        self.engine.optimizer.load_state_dict(state["optimizer"])
        self.epoch_loss.copy_(own["epoch_loss"])
        self.clock = Clock(**state["seconds"])
