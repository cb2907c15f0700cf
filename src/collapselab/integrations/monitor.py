"""`Monitor`: measure a network inside a user's training loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn
from typing_extensions import Unpack

from collapselab.distributed import run_together
from collapselab.errors import InputError, one_line
from collapselab.integrations.destinations import MAIN_METRICS, destinations, scalars
from collapselab.integrations.loaders import loader_for_measuring
from collapselab.integrations.monitored_run import MonitoredRun
from collapselab.integrations.options import monitored_options, plain_settings
from collapselab.integrations.schedule import Schedule
from collapselab.metrics import check_metrics
from collapselab.metrics.registry import Number
from collapselab.passes.estimate import Estimate
from collapselab.probes import Profile, ProfileOptions, profile
from collapselab.probes.options import complete_options, document_options, plain_options
from collapselab.probes.select import model_name, unwrapped
from collapselab.randomness import preserved_random_states
from collapselab.records.run_record import MonitoredSettings, Status


@document_options
class Monitor:
    """Measures a network at the first step, at chosen steps and at the last one, and writes a run.

    By default it measures the last layer with metrics that take little time: those of means, traces and distances, without
    covariances. `layers=None` and `metrics=None` measure every layer and metric, `layers=` and `metrics=` those you name.

    Each start of a script writes a run of its own in `out`: `version_0`, `version_1`, …

    Training is the same, bit for bit, with and without a monitor: the model, the loaders and all random generators are left
    as they were (docs/profiles.md says what cannot be restored). A `DataLoader` that shuffles is read whole and in order.

    If the first measurement fails, it raises; if a later one does, a warning says why and training goes on. After an
    exception or Ctrl-C inside `with`, the measurements so far remain and the status is `stopped`. Under a process group
    every process must have a monitor and reach the same steps; the first one writes and logs.

    Args:
        model: the network, as for `collapselab.profile`.
        train_loader: the training data, as for `profile`; read at every measurement.
        test_loader: the same for test data.
        out: folder of the runs of this script. `folder` is the one of this run.
        every: number of steps between measurements. Give at most one of `every`, `at` and `log_spaced`. Without them,
            the first and the last step are measured, and every step at which you call `measure`.
        at: steps to measure.
        log_spaced: (total steps, number of measurements), for log-spaced steps.
        log: where to write scalars in addition: a callable of metrics and step, a `SummaryWriter`, a W&B run, the `mlflow`
            module, a Lightning logger, the path of a `.csv` file; or a list of these. They are named
            `collapse/normalized_within/layers.4`, on test data `collapse/test/normalized_within/layers.4`. A logger that
            fails is reported in a warning once.
        log_metrics: names to log; default those of `metrics=`, or else six main metrics. They are measured too, unless
            `metrics=` is given.
        log_layers: `all`, `last`, or names and globs. If it is not `last`, every layer is measured, unless `layers=` is
            given.
        steps_per_epoch: optimiser steps per epoch; default the number of batches of `train_loader`.
        first_step: number of optimiser steps already done, if training resumes from a checkpoint. The run in `out` is
            continued, in its newest version; rows of later steps are deleted.
        first_epoch: number of epochs already done, for loops that give the epoch at every step.
        overwrite: replace the newest version in `out`, and the newest file of a `.csv` log, instead of starting a new one.
        settings: anything else to record in run.json: learning rate, seed.
        options: options of `profile` for every measurement: `layers`, `reduce`, `scatter`, `metrics`, `epsilon`, …:
            see `collapselab.probes.options.ProfileOptions`.

    Attributes:
        current_step: number of optimiser steps done.
        epoch: number of passes over the training data done.
        profile: the last measurement, or None.
        failures: why steps were not measured, by step.
        folder: the run folder, such as `out/version_0`; before the start, `out`.

    Raises:
        InputError: options that are not allowed, unknown metrics, an iterator instead of a loader, an object that cannot
            be logged to.

    Example:
        >>> import tempfile, torch
        >>> batches = [(torch.eye(4), torch.arange(4)), (torch.eye(4) + 0.1, torch.arange(4))]
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        >>> with tempfile.TemporaryDirectory() as out, Monitor(model, batches, out=out, every=2) as monitor:
        ...     for inputs, labels in batches:
        ...         _ = monitor.step()
        >>> monitor.current_step, monitor.epoch
        (2, 1.0)
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Any],
        test_loader: Iterable[Any] | None = None,
        *,
        out: str | Path,
        every: int | None = None,
        at: Iterable[int] | None = None,
        log_spaced: tuple[int, int] | None = None,
        log: Any = None,
        log_metrics: Iterable[str] | None = None,
        log_layers: str | Sequence[str] = "last",
        steps_per_epoch: int | None = None,
        first_step: int = 0,
        first_epoch: Number | None = None,
        overwrite: bool = False,
        settings: Mapping[str, Any] | None = None,
        **options: Unpack[ProfileOptions],
    ) -> None:
        log_metrics = None if log_metrics is None else list(log_metrics)
        check_metrics(log_metrics or ())
        self._options = complete_options(monitored_options(options, log_metrics, log_layers))
        # What takes long is announced once, not at every measurement.
        self._options["progress"] = self._options.get("progress") or Estimate()
        wanted = None if options.get("metrics") is None else self._options.get("metrics")
        self.model, self.current_step, self.profile = model, first_step, None
        self.failures: dict[int, str] = {}
        self._train = loader_for_measuring(train_loader, "train_loader")
        self._test = None if test_loader is None else loader_for_measuring(test_loader, "test_loader")
        self._schedule = Schedule.of(every, at, log_spaced)
        self._log_metrics = list(log_metrics or wanted or MAIN_METRICS)
        self._log_layers, self._destinations = log_layers, destinations(log)
        self._steps_per_epoch = steps_per_epoch or _length(train_loader)
        if self._steps_per_epoch is None and first_epoch is None:
            raise InputError("train_loader has no length, so epochs are unknown; give steps_per_epoch=")
        self.epoch: float = self._derived_epoch() if first_epoch is None else float(first_epoch)
        self._out, self._overwrite = out, overwrite
        self._settings = MonitoredSettings(
            monitored=model_name(unwrapped(model)),
            every=self._schedule.every,
            at=self._schedule.steps,
            options=plain_options(self._options),
            settings=plain_settings(settings or {}),
        )
        self._run: MonitoredRun | None = None
        self._folder = Path(out)

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def is_open(self) -> bool:
        """Whether the monitor has been started and neither finished nor stopped."""
        return self._run is not None

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.stop()

    def start(self) -> Monitor:
        """Open the folder and measure. `with` does this; call it for loops that are spread over callbacks.

        Raises:
            InputError: the folder contains a run of another kind; a log file cannot be written; the network cannot be
                measured.
        """
        step = self.current_step
        with preserved_random_states():
            try:
                run = MonitoredRun(self._out, self._settings, step, overwrite=self._overwrite)
                self._run, self._folder = run, run.folder.path
            except OSError as error:
                raise InputError(
                    f"{self._out}: cannot be written ({one_line(error)}); choose another out="
                ) from error
            self._stopping(lambda: run_together(self._open_logs))
            if not run.is_continued or (self._schedule.is_due(step - 1, step) and not run.has(step)):
                self._stopping(self._measure)
        return self

    def step(self, epoch: Number | None = None) -> Profile | None:
        """Count one optimiser step, and measure if this step is to be measured.

        Args:
            epoch: number of passes over the training data done; default computed from the steps.

        Returns:
            The measurement, or None if none was due.
        """
        return self.step_to(self.current_step + 1, epoch)

    def step_to(self, step: int, epoch: Number | None = None) -> Profile | None:
        """Set the number of optimiser steps done; measure if a step to measure lies between the old and the new number.

        Arguments and result are those of `step`.
        """
        before, self.current_step = self.current_step, step
        if epoch is not None:
            self.epoch = float(epoch)
        elif self._steps_per_epoch is not None:
            self.epoch = self._derived_epoch()
        return self.measure() if self._schedule.is_due(before, step) else None

    def measure(self) -> Profile | None:
        """Return a measurement of the current step, which is measured only once; None, with a warning, if it failed.

        Raises:
            InputError: the monitor is not open.
        """
        if self._run is None:
            raise InputError("the monitor is not open; use it as: with Monitor(...) as monitor")
        if self.profile is None or self._measured_step != self.current_step:
            self._attempt(self._measure)
        return None if self.current_step in self.failures else self.profile

    def _measure(self) -> None:
        run, start = self._opened_run, time.perf_counter()
        # Logging is included: user code that it calls may draw random numbers.
        with preserved_random_states():
            measured = profile(self.model, self._train, self._test, **self._options)
            if not run.has(self.current_step):
                run.append(self.current_step, self.epoch, measured, bool(self._options.get("spectra")))
            self.profile, self._measured_step = measured, self.current_step
            self.failures.pop(self.current_step, None)
            run_together(lambda: self._note(measured, start))

    def _note(self, measured: Profile, start: float) -> None:
        self._log(measured)
        self._opened_run.count(measuring=time.perf_counter() - start)
        self._opened_run.write("running")

    def _attempt(self, act: Callable[[], None]) -> None:
        """Measure or write; a failure must not end the training: the first is reported in a warning."""
        try:
            act()
        except Exception as error:
            reason = one_line(error) or type(error).__name__
            if not self.failures:
                warnings.warn(
                    f"step {self.current_step} was not measured or not written: {reason[:160]}; training goes on, and "
                    "Monitor.failures lists any further failures",
                    stacklevel=4,
                )
            self.failures[self.current_step] = reason

    def finish(self, *, measure: bool = True) -> None:
        """Measure the last step, unless it is measured already, and close the run as finished.

        Args:
            measure: False if the network is no longer that of the last step.
        """
        if self._run is None:
            return
        if measure and not self._run.has(self.current_step):
            self._stopping(lambda: self._attempt(self._measure))
        self._close("finished")

    def stop(self) -> None:
        """Close the run as stopped; the measurements so far remain."""
        self._close("stopped")

    def _open_logs(self) -> None:
        if self._opened_run.is_logged:
            first_step = self.current_step if self._opened_run.is_continued else 0
            for destination in self._destinations:
                destination.open(first_step, self._overwrite)

    def _log(self, measured: Profile) -> None:
        if self._opened_run.is_logged:
            values = scalars(measured, self._log_metrics, self._log_layers)
            for destination in self._destinations:
                destination.send(values, self.current_step)

    def _stopping(self, act: Callable[[], None]) -> None:
        """Measure, and close the run if that is interrupted."""
        try:
            act()
        except BaseException:  # Ctrl-C too
            self.stop()
            raise

    def _close(self, status: Status) -> None:
        if self._run is not None:
            with preserved_random_states():
                self._attempt(lambda: self._write_end(status))
            self._run = None

    def _write_end(self, status: Status) -> None:
        self._opened_run.count(measuring=0.0)
        self._opened_run.write(status)

    @property
    def _opened_run(self) -> MonitoredRun:
        assert self._run is not None
        return self._run

    def _derived_epoch(self) -> float:
        return self.current_step / (self._steps_per_epoch or 1)


def _length(loader: Any) -> int | None:
    try:
        return max(len(loader), 1)
    except TypeError:  # raised by a DataLoader of an iterable data set, too
        return None
