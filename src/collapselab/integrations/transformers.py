"""A callback that measures while the Trainer of `transformers` trains; it delegates to `Monitor`."""

from __future__ import annotations

import atexit
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset
from typing_extensions import Unpack

from collapselab.errors import InputError
from collapselab.integrations.destinations import Destination
from collapselab.integrations.loaders import Prepared, in_order, loader_for_measuring
from collapselab.integrations.monitor import Monitor
from collapselab.integrations.options import CallbackOptions
from collapselab.integrations.surroundings import forward_within
from collapselab.probes.options import check_known

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("the callback needs transformers: pip install 'transformers[torch]'") from error

if TYPE_CHECKING:
    from transformers import Trainer


class NeuralCollapseCallback(TrainerCallback):
    """Measures before the first step, after epochs and at the end of `Trainer.train`.

    As `Monitor`, it measures the last layer with metrics that take little time, unless `layers=` or `metrics=` are given.
    Training is the same, bit for bit, with and without the callback. Pass it as any other:

        Trainer(model, arguments, …, callbacks=[NeuralCollapseCallback()])

    It measures the Trainer's training and evaluation data, prepares batches and runs the network as the Trainer evaluates
    (`_prepare_inputs`, `label_names`, autocast), and logs through `Trainer.log`: to the log history and to all reporters of
    the Trainer. Names follow the Trainer's convention: `collapse/cdnv/classifier` and `test_collapse/cdnv/classifier`, which
    its reporters turn into `train/collapse/cdnv/classifier` and `test/collapse/cdnv/classifier`.

    Args:
        train_loader: a data set, or a loader of batches; default the Trainer's training data, whole and in order.
        test_loader: the same for test data; default the Trainer's (first) evaluation data.
        every_n_epochs: measure after every so many epochs; or
        every_n_steps: measure after every so many optimiser steps.
        out: folder of the runs, a version for each training, as for `Monitor`; default `neural_collapse` in the Trainer's
            `output_dir`.
        log: where else scalars are written, as for `Monitor`.
        options: options of `Monitor` (`log_metrics`, `log_layers`, `overwrite`, `settings`) and of `profile` (`layers`,
            `reduce`, …).

    Attributes:
        monitor: monitor of the last training, or None.

    Raises:
        InputError: unknown options. When training starts: data that cannot be read in order, a folder that contains
            a run of another kind.
    """

    def __init__(
        self,
        train_loader: Iterable[Any] | Dataset[Any] | None = None,
        test_loader: Iterable[Any] | Dataset[Any] | None = None,
        *,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        out: str | Path | None = None,
        log: Any = None,
        **options: Unpack[CallbackOptions],
    ) -> None:
        check_known(options, CallbackOptions)
        if every_n_epochs < 1:
            raise InputError(f"every_n_epochs={every_n_epochs}: give at least 1")
        self.monitor: Monitor | None = None
        self._train_loader, self._test_loader = train_loader, test_loader
        self._every_n_epochs, self._every_n_steps = every_n_epochs, every_n_steps
        self._out, self._log = out, log
        self._options = options
        self._trainer: Trainer | None = None
        self._state: Any = None
        self._control: Any = None

    def attach(self, trainer: Trainer) -> NeuralCollapseCallback:
        """Add the callback to a Trainer that exists already; the same as `trainer.add_callback`."""
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the network as it is before the first step."""
        self._stop()
        self._trainer = _calling_trainer(self)
        self._state, self._control = state, control
        training = kwargs["train_dataloader"]
        train = in_order(training, "train_loader") if self._train_loader is None else self._train_loader
        test = self._evaluation_loader() if self._test_loader is None else self._test_loader
        monitor = Monitor(
            kwargs["model"],
            self._prepared(_loader(train, training, "train_loader"), "train_loader"),
            None if test is None else self._prepared(_loader(test, training, "test_loader"), "test_loader"),
            out=self._out or Path(args.output_dir) / "neural_collapse",
            every=self._every_n_steps,
            log=[Destination("Trainer.log", self._report), self._log],
            first_step=state.global_step,
            first_epoch=float(state.epoch or 0),
            **self._options,
        )
        self.monitor = monitor
        with self._as_evaluation(monitor):
            monitor.start()
        # The Trainer does not tell callbacks about exceptions: the run is closed by the next training or at exit.
        atexit.register(self._stop)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step; the last one is measured here, while the Trainer's reporters are open."""
        if self.monitor is None:
            return
        with self._as_evaluation(self.monitor):
            self.monitor.step_to(state.global_step, state.epoch)
            if control.should_training_stop:
                self.monitor.measure()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure if the epoch is complete and one to measure after."""
        if self.monitor is None or self._every_n_steps is not None:
            return
        done = round(state.epoch)
        if abs(state.epoch - done) < 1e-6 and done % self._every_n_epochs == 0:
            with self._as_evaluation(self.monitor):
                self.monitor.measure()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the run. Do not measure if the Trainer has loaded its best network, which is not the last step's."""
        if self.monitor is not None:
            with self._as_evaluation(self.monitor):
                self.monitor.finish(measure=not args.load_best_model_at_end)
        atexit.unregister(self._stop)

    def _prepared(self, loader: Any, name: str) -> Any:
        """Return a loader whose batches are prepared as the Trainer prepares those of an evaluation."""
        trainer = self._trainer
        if trainer is None:
            return loader
        names = list(trainer.label_names)

        def prepare(batch: Any) -> Any:
            batch = trainer._prepare_inputs(batch)
            # The names of labels that `profile` knows need not be those of this network.
            if isinstance(batch, Mapping) and len(names) == 1 and names[0] in batch and "labels" not in batch:
                batch = {("labels" if name == names[0] else name): value for name, value in batch.items()}
            return batch

        return Prepared(loader_for_measuring(loader, name), prepare, is_plain=True)

    @contextmanager
    def _as_evaluation(self, monitor: Monitor) -> Iterator[None]:
        """Let the network run as in an evaluation of the Trainer."""
        if self._trainer is None:
            yield
            return
        with forward_within(monitor.model, self._trainer.compute_loss_context_manager):
            yield

    def _report(self, metrics: dict[str, float], step: int) -> None:
        named = {_trainer_name(name): value for name, value in metrics.items()}
        if self._trainer is None:
            self._state.log_history.append({**named, "epoch": self._state.epoch, "step": step})
            return
        # `Trainer.log` clears the request to log, which may be the one for the loss of this step.
        wanted = self._control.should_log
        try:
            self._trainer.log(named)
        finally:
            self._control.should_log = wanted

    def _evaluation_loader(self) -> Any:
        if self._trainer is None or not self._trainer.eval_dataset:
            return None
        several = self._trainer.eval_dataset
        return self._trainer.get_eval_dataloader(next(iter(several)) if isinstance(several, dict) else None)

    def _stop(self) -> None:
        if self.monitor is not None:
            self.monitor.stop()


def _calling_trainer(callback: TrainerCallback) -> Any:
    """Return the Trainer that is calling a callback; None if something else calls it.

    A Trainer does not pass itself to its callbacks, so it is looked for among the callers.
    """
    from transformers import Trainer  # a Trainer has loaded it already

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and any(one is callback for one in caller.callback_handler.callbacks):
            return caller
        frame = frame.f_back
    return None


def _trainer_name(name: str) -> str:
    """Return the name by which a Trainer logs a scalar: its reporters turn `test_NAME` into `test/NAME`."""
    prefix, split, rest = name.split("/", 2)
    return f"{split}_{prefix}/{rest}" if split == "test" else name


def _loader(data: Any, training: Any, name: str) -> Any:
    """Return a loader of a data set with the Trainer's batches; a loader is returned unchanged."""
    columns = getattr(data, "column_names", None)
    if not issubclass(type(data), Dataset) and columns is None:
        return data
    used = getattr(training.dataset, "column_names", None)
    if (
        columns is not None and used is not None
    ):  # the Trainer has removed columns that the model does not take
        data = data.select_columns([column for column in columns if column in used])
    return in_order(training, name, data)
