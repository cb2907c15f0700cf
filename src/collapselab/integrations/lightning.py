"""A callback that measures while a Lightning Trainer trains; it delegates to `Monitor`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from typing_extensions import Unpack

from collapselab.errors import InputError
from collapselab.integrations.destinations import scalars
from collapselab.integrations.loaders import Prepared, in_order, loader_for_measuring
from collapselab.integrations.monitor import Monitor
from collapselab.integrations.options import CallbackOptions
from collapselab.integrations.surroundings import forward_within
from collapselab.probes.options import check_known

_PACKAGES = ("lightning", "pytorch_lightning")


def _callback_base() -> type:
    """Return `Callback` of the installed Lightning, or a subclass of both if the program has loaded both packages."""
    names = ("lightning.pytorch", "pytorch_lightning")
    found = [module for module in map(sys.modules.get, names) if module is not None]
    for name in names:
        if not found:
            with suppress(ImportError):
                found = [import_module(name)]
    if not found:
        raise ImportError("the callback needs Lightning: pip install lightning")
    return found[0].Callback if len(found) == 1 else type("Callback", tuple(m.Callback for m in found), {})


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = _callback_base()


class NeuralCollapseCallback(Callback):
    """Measures before the first step, after epochs and at the end of `Trainer.fit`.

    As `Monitor`, it measures the last layer with metrics that take little time, unless `layers=` or `metrics=` are given.
    Training is the same, bit for bit, with and without the callback. Batches take the way of validation batches: through
    the precision plugin and the hooks `on_before_batch_transfer`, `transfer_batch_to_device` and
    `on_after_batch_transfer`, while the trainer is `validating`. Nothing is measured under `fast_dev_run`.

    Scalars are sent to all loggers of the trainer, named `collapse/normalized_within/net.4`, on test data
    `collapse/test/normalized_within/net.4`. All metrics of all measured layers are in `trainer.callback_metrics` under such
    names, for `EarlyStopping` and `ModelCheckpoint`: epochs are measured before their validation.

    Args:
        train_loader: data to measure; default the trainer's training data, whole and in order.
        test_loader: default the trainer's (first) validation data, if there are any.
        every_n_epochs: measure after every so many epochs; or
        every_n_steps: measure after every so many optimiser steps.
        network: name of the attribute of the LightningModule that is measured, called with inputs; default the
            LightningModule itself.
        out: folder of the runs, a version for each fit, as for `Monitor`; default `neural_collapse` in the trainer's log
            folder, which lies in its `default_root_dir` unless the logger sets another.
        log: where else scalars are written, as for `Monitor`.
        options: options of `Monitor` (`log_metrics`, `log_layers`, `overwrite`, `settings`) and of `profile` (`layers`,
            `reduce`, …).

    Attributes:
        monitor: monitor of the last fit, or None.

    Raises:
        InputError: unknown options. At the start of a fit: data that cannot be read in order, a folder that contains
            a run of another kind.
    """

    def __init__(
        self,
        train_loader: Iterable[Any] | None = None,
        test_loader: Iterable[Any] | None = None,
        *,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        network: str | None = None,
        out: str | Path | None = None,
        log: Any = None,
        **options: Unpack[CallbackOptions],
    ) -> None:
        super().__init__()
        check_known(options, CallbackOptions)
        if every_n_epochs < 1:
            raise InputError(f"every_n_epochs={every_n_epochs}: give at least 1")
        self.monitor: Monitor | None = None
        self._train_loader, self._test_loader = train_loader, test_loader
        self._every_n_epochs, self._every_n_steps = every_n_epochs, every_n_steps
        self._network, self._out, self._log, self._options = network, out, log, options
        self._published: set[str] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network as it is before the first step."""
        self.monitor = None
        if trainer.fast_dev_run:
            return
        train, test = self._loaders(trainer)
        monitor = Monitor(
            self._module(pl_module),
            _prepared(train, trainer),
            None if test is None else _prepared(test, trainer),
            out=self._out or Path(trainer.log_dir or trainer.default_root_dir) / "neural_collapse",
            every=self._every_n_steps,
            log=[*trainer.loggers, self._log],
            first_step=trainer.global_step,
            first_epoch=float(trainer.current_epoch),
            **self._options,
        )
        self.monitor = monitor
        with self._measuring(trainer):
            monitor.start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count optimiser steps: fewer than batches if gradients are accumulated."""
        if self.monitor is None:
            return
        batches = trainer.num_training_batches  # infinite for data without length
        is_last = batch_idx + 1 >= batches or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        share = 1.0 if is_last else (batch_idx + 1) / batches
        with self._measuring(trainer):
            if trainer.global_step > self.monitor.current_step:
                self.monitor.step_to(trainer.global_step, trainer.current_epoch + share)
            # Before the validation and the end of the epoch, where other callbacks look at the metrics.
            if is_last:
                self._measure_epoch(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure if this is an epoch to measure after, and was not measured at its last batch."""
        if self.monitor is not None:
            with self._measuring(trainer):
                self.monitor.step_to(trainer.global_step, float(trainer.current_epoch + 1))
                self._measure_epoch(trainer)

    def _measure_epoch(self, trainer: Any) -> None:
        assert self.monitor is not None
        if self._every_n_steps is None and (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self.monitor.measure()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the last step and close the run."""
        if self.monitor is not None:
            with self._measuring(trainer):
                self.monitor.finish()

    @contextmanager
    def _measuring(self, trainer: Any) -> Iterator[None]:
        """Measure as in a validation; afterwards, give the trainer's other callbacks what was measured."""
        monitor = self.monitor
        assert monitor is not None
        before = monitor.profile
        with _as_validation(trainer, monitor.model):
            yield
        if monitor.profile is not None and monitor.profile is not before:
            found = scalars(monitor.profile)
            for name in self._published - found.keys():  # no longer defined
                trainer.callback_metrics.pop(name, None)
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in found.items()})
            self._published = set(found)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Mark the run as stopped, after Ctrl-C too."""
        if self.monitor is not None:
            self.monitor.stop()

    def _loaders(self, trainer: Any) -> tuple[Any, Any]:
        train, test = self._train_loader, self._test_loader
        return (
            in_order(trainer.train_dataloader, "train_loader")
            if train is None
            else loader_for_measuring(train, "train_loader"),
            _first(trainer.val_dataloaders) if test is None else loader_for_measuring(test, "test_loader"),
        )

    def _module(self, pl_module: Any) -> nn.Module:
        name = type(pl_module).__name__
        if self._network is not None:
            module = getattr(pl_module, self._network, None)
            if not isinstance(module, nn.Module):
                children = ", ".join(child for child, _ in pl_module.named_children())
                raise InputError(
                    f"{name} has no network {self._network!r}; its modules: {children or 'none'}"
                )
            return module
        # The `forward` of Lightning itself only raises an error.
        if type(pl_module).forward.__module__.split(".")[0] in _PACKAGES:
            raise InputError(
                f"{name} has no forward; give network= with the name of the attribute to measure"
            )
        return pl_module


def _first(loaders: Any) -> Any:
    """Return the first validation loader of a trainer; None without any."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return loaders[0] if loaders else None
    return loaders


def _prepared(loader: Any, trainer: Any) -> Prepared:
    """Return a loader whose batches are prepared as Lightning prepares those of a validation."""
    module = trainer.lightning_module

    def prepare(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    return Prepared(loader, prepare, is_plain=not _overrides_transfer(module, trainer.datamodule))


def _overrides_transfer(*owners: Any) -> bool:
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    methods = [getattr(owner, hook) for owner in owners if owner is not None for hook in hooks]
    return any(method.__module__.split(".")[0] not in _PACKAGES for method in methods)


@contextmanager
def _as_validation(trainer: Any, model: nn.Module) -> Iterator[None]:
    """Let the trainer and the network be in the state of a validation."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        with forward_within(model, trainer.precision_plugin.val_step_context):
            yield
    finally:
        trainer.state.stage = stage
