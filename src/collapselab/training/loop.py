"""The training loop: an explicit loop of ours on an engine (Lightning Fabric) that is not.

Every step's batch and learning rate follow from the recipe and the step's number alone, so that a run that
was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.checks import InputError
from collapselab.data import DataSplits, Split, load_digits
from collapselab.models import MLP
from collapselab.probes import profile
from collapselab.training.final_reference import final_reference_rows
from collapselab.training.provenance import provenance
from collapselab.training.recipe import Recipe
from collapselab.training.run_folder import RunFolder

# (steps done, steps in all, what is going on)
StepCallback = Callable[[int, int, str], None]


_MEASURED_AT_ONCE = 1024


class RunInterrupted(Exception):
    """The run was stopped from outside; the same call goes on from `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.step = step


@dataclass
class _Clock:
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


def run_recipe(recipe: Recipe, folder: RunFolder, on_step: StepCallback | None = None) -> dict[str, Any]:
    """Train and measure, or go on with a run that was stopped, or do nothing if it is finished.

    Args:
        recipe: what to do. A folder holds one recipe's run.
        folder: where it is kept.
        on_step: called after every step and measurement.

    Returns:
        What run.json says of the finished run.

    Raises:
        InputError: the folder holds another recipe's run, or cannot be written.
        RunInterrupted: Ctrl-C. The state is saved.
        ImportError: the training engine is not installed; names the extra.
    """
    run = folder.read_run()
    if run is not None:
        _refuse_other_recipe(run, recipe, folder)
        if run["status"] == "finished":
            return run
    folder.create()
    state = folder.read_trainer()
    run = (run or {"recipe": recipe.model_dump()}) | provenance() | {"status": "running"}
    folder.write_run(run)
    clock = _Clock(**(state["seconds"] if state else {}))
    data = load_data(recipe)
    trainer = _Trainer(recipe, data, folder, clock, on_step or (lambda *_: None))
    if state is not None:
        trainer.load(state)
    folder.drop_rows_after(trainer.measured)
    try:
        with _cpu_threads(recipe.num_threads):
            trainer.train()
            with clock.of("measuring"):
                folder.write_final_reference(final_reference_rows(recipe, data, folder))
    except KeyboardInterrupt:
        trainer.save()
        run = run | {"status": "stopped"}
        folder.write_run(run)
        raise RunInterrupted(trainer.step) from None
    seconds = {"training": round(clock.training, 2), "measuring": round(clock.measuring, 2)}
    run = run | {"status": "finished", "seconds": seconds}
    folder.write_run(run)
    return run


def load_data(recipe: Recipe) -> DataSplits:
    """The recipe's data.

    Raises:
        InputError: an unknown name.
    """
    if recipe.data != "digits":
        raise InputError(f"unknown data set {recipe.data!r}; known: digits")
    return load_digits(recipe.num_train)


def build_model(recipe: Recipe, data: DataSplits) -> nn.Module:
    """The recipe's network with its initial weights, which depend on the seed alone."""
    num_inputs = data.train.inputs[0].numel()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return MLP(
            num_inputs, data.num_classes, width=recipe.width, depth=recipe.depth, batch_norm=recipe.batch_norm
        )


@contextmanager
def _cpu_threads(number: int) -> Iterator[None]:
    """Use this many CPU threads; the caller's number is put back on the way out."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_other_recipe(run: dict[str, Any], recipe: Recipe, folder: RunFolder) -> None:
    wanted = recipe.model_dump()
    for name, value in wanted.items():
        if run["recipe"].get(name) != value:
            raise InputError(
                f"{folder.path}: holds a run with {name} {run['recipe'].get(name)!r}, not {value!r}; "
                "choose another --out, or remove that folder"
            )


def _fabric() -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ImportError("training needs Lightning Fabric: pip install 'collapselab[train]'") from error
    return Fabric(accelerator="auto", devices=1)


class _Trainer:
    """The state of one run: model, optimiser, step."""

    def __init__(
        self, recipe: Recipe, data: DataSplits, folder: RunFolder, clock: _Clock, on_step: StepCallback
    ) -> None:
        self.recipe, self.folder, self.clock, self.on_step = recipe, folder, clock, on_step
        self.step = 0
        self.measured = -1  # the last step whose rows are complete on disk
        self._fabric = _fabric()
        device = self._fabric.device
        self._train: Split = data.train.to(device)
        self._test: Split = data.test.to(device)
        self._num_classes = data.num_classes
        self.model = build_model(recipe, data)
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self._module, self._optimizer = self._fabric.setup(self.model, optimizer)
        self._steps_per_epoch = -(-len(self._train) // recipe.batch_size)
        self._order: tuple[int, Tensor] | None = None

    def train(self) -> None:
        """From the current step to the last, measuring where the recipe says so."""
        to_measure = [step for step in self.recipe.measured_steps() if step > self.measured]
        self._module.train()
        while True:
            if to_measure and self.step == to_measure[0]:
                self.on_step(self.step, self.recipe.steps, "measuring")
                self._measure()
                to_measure.pop(0)
                self.save()
            elif self.step % self.recipe.save_every == 0:
                self.save()
            if self.step == self.recipe.steps:
                return
            with self.clock.of("training"):
                self._train_step()
            self.on_step(self.step, self.recipe.steps, "training")

    def _train_step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step)
        rows = self._batch_rows()
        loss = nn.functional.cross_entropy(self._module(self._train.inputs[rows]), self._train.labels[rows])
        self._optimizer.zero_grad()
        self._fabric.backward(loss)
        self._optimizer.step()
        self.step += 1

    def _batch_rows(self) -> Tensor:
        epoch, position = divmod(self.step, self._steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch + 1)
            order = torch.randperm(len(self._train), generator=generator).to(self._train.labels.device)
            self._order = (epoch, order)
        start = position * self.recipe.batch_size
        return self._order[1][start : start + self.recipe.batch_size]

    def _measure(self) -> None:
        with self.clock.of("measuring"):
            self.folder.write_weights(self.step, self.model.state_dict())
            ends = self.step in (0, self.recipe.steps)
            measured = profile(
                self.model,
                self._train.batches(_MEASURED_AT_ONCE),
                self._test.batches(_MEASURED_AT_ONCE),
                spectra=ends,
                epsilon=self.recipe.epsilon,
            )
            epoch = self.step / self._steps_per_epoch
            self.folder.append_profile(self.step, epoch, measured, spectra=ends)
            self.measured = self.step

    def save(self) -> None:
        """Write the state from which `load` goes on."""
        self.folder.write_trainer(
            {
                "step": self.step,
                "measured": self.measured,
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "seconds": {"training": self.clock.training, "measuring": self.clock.measuring},
            }
        )

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `save` wrote."""
        self.step, self.measured = state["step"], state["measured"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
