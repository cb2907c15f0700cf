"""The run folder of a monitored training: opened once, rows appended, closed with a status."""

from __future__ import annotations

import time
from pathlib import Path

from collapselab.distributed import rank_and_world, run_together
from collapselab.errors import InputError
from collapselab.probes import Profile
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import MonitoredSettings, RunRecord, Seconds, Status
from collapselab.storage import provenance


class MonitoredRun:
    """A run folder while it is written to. Of several processes all may read it and the first one writes.

    Args:
        path: of the folder.
        settings: of the monitor; a folder holds the run of one of them.
        first_step: optimiser steps done. At 0 a run begins; otherwise the one in the folder is resumed.

    Attributes:
        is_continued: whether the folder held rows that stay.

    Raises:
        InputError: the folder holds another run, or rows that would be lost.
        WriteError: the folder cannot be written to.
    """

    def __init__(self, path: Path | str, settings: MonitoredSettings, first_step: int) -> None:
        self.folder = RunFolder(path)
        self._writes = rank_and_world()[0] == 0
        # No process writes before all have read.
        record, steps = run_together(lambda: self._read(settings, first_step))
        self._steps = {step for step in steps if step <= first_step} if first_step else set()
        self.is_continued = bool(self._steps)
        self._seconds = record.seconds if record is not None and first_step else Seconds()
        self._record = RunRecord(**provenance(), recipe=settings, status="running")
        run_together(lambda: self._open(first_step))
        self._since = time.perf_counter()

    def _read(self, settings: MonitoredSettings, first_step: int) -> tuple[RunRecord | None, set[int]]:
        """Return the record and the measured steps of the folder.

        Raises:
            InputError: the folder holds something else.
        """
        record = self.folder.read_run()
        steps = {row.step for row in self.folder.read_rows()}
        if record is not None:
            _check(record, steps, settings, first_step, self.folder.path)
        return record, steps

    def _open(self, first_step: int) -> None:
        if self._writes:
            self.folder.create()
            self.write("running")
            self.folder.drop_rows_after(first_step if first_step else -1)

    def has(self, step: int) -> bool:
        """Whether the rows of a step are there."""
        return step in self._steps

    def append(self, step: int, epoch: float, profile: Profile, spectra: bool) -> None:
        """Add the rows of a step that has none; all processes call it.

        Raises:
            Exception: in every process, if they cannot be written. Otherwise one would measure the step again, alone.
        """

        def write() -> None:
            if self._writes:
                self.folder.append_profile(step, epoch, profile, spectra=spectra)

        run_together(write)
        self._steps.add(step)

    @property
    def is_logged(self) -> bool:
        """Whether this process is the one that writes and logs."""
        return self._writes

    def count(self, measuring: float) -> None:
        """Add the time since the last call: `measuring` seconds of it measuring, the others training."""
        now = time.perf_counter()
        self._seconds = Seconds(
            measuring=self._seconds.measuring + measuring,
            training=self._seconds.training + max(now - self._since - measuring, 0.0),
        )
        self._since = now

    def write(self, status: Status) -> None:
        """Replace run.json; a process that stops calls it alone."""
        if self._writes:
            rounded = {name: round(value, 2) for name, value in self._seconds}
            update = {"status": status, "seconds": Seconds(**rounded)}
            self.folder.write_run(self._record.model_copy(update=update))


def _check(
    record: RunRecord, steps: set[int], settings: MonitoredSettings, first_step: int, path: Path
) -> None:
    """Refuse a folder that holds another run, or rows that would be lost."""
    if not isinstance(record.recipe, MonitoredSettings):
        raise InputError(f"{path}: holds another run; choose another out=")
    held, wanted = _by_name(record.recipe), _by_name(settings)
    for name, value in wanted.items():
        if held.get(name) != value:
            raise InputError(
                f"{path}: holds a run with {name} {held.get(name)!r}, not {value!r}; choose another out=, or "
                "remove that folder"
            )
    last = max(steps, default=0)
    if not first_step and (record.is_finished or last > 0):
        raise InputError(
            f"{path}: holds a {record.status} run measured up to step {last}; choose another out=, remove that "
            "folder, or give first_step= where training resumes from a checkpoint"
        )


def _by_name(settings: MonitoredSettings) -> dict[str, object]:
    values = settings.model_dump(mode="json")
    options = values.pop("options")
    return values | options
