"""The run folder of a monitored training: opened once, rows appended, closed with a status."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from collapselab.distributed import largest_over_ranks, rank_and_world, run_together
from collapselab.errors import InputError, one_line
from collapselab.probes import Profile
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import MonitoredSettings, RunRecord, Seconds, Status
from collapselab.records.versions import create_version, newest_run, version_folder, version_numbers
from collapselab.storage import provenance


class MonitoredRun:
    """A run folder while it is written to. Of several processes all may read it and the first one writes.

    Args:
        out: folder of the runs of one training script, a version for each start.
        settings: of the monitor.
        first_step: optimiser steps done. At 0 a new version begins; otherwise the newest one is continued, or the run that
            `out` itself holds.
        overwrite: whether the newest version is replaced instead.

    Attributes:
        is_continued: whether the folder held rows that stay.

    Raises:
        InputError: the folder holds a run of another kind, or is damaged.
        WriteError: the folder cannot be written to.
    """

    def __init__(
        self, out: Path | str, settings: MonitoredSettings, first_step: int, *, overwrite: bool = False
    ) -> None:
        self._writes = rank_and_world()[0] == 0
        continued = run_together(lambda: _continued(out, settings)) if first_step else None
        if continued is None:
            # The first process chooses; the others may not see its folder yet.
            number = run_together(lambda: _begin(out, overwrite) if self._writes else -1)
            self.folder = RunFolder(version_folder(out, largest_over_ranks(number)))
            self._steps: set[int] = set()
            self._seconds = Seconds()
        else:
            self.folder, record = continued
            # No process writes before all have read.
            rows = run_together(self.folder.read_rows)
            self._steps = {row.step for row in rows if row.step <= first_step}
            self._seconds = record.seconds
        self.is_continued = bool(self._steps)
        self._record = RunRecord(**provenance(), recipe=settings, status="running")
        run_together(lambda: self._open(first_step))
        self._since = time.perf_counter()

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


def _begin(out: Path | str, overwrite: bool) -> int:
    """Create the folder of a new run and return its number.

    Raises:
        InputError: `out` holds a run of another kind, or cannot be a folder.
    """
    record = RunFolder(out).read_run() if (Path(out) / "run.json").exists() else None
    if record is not None and not isinstance(record.recipe, MonitoredSettings):
        raise InputError(f"{out}: holds a run of another kind; choose another out=")
    numbers = version_numbers(out)
    if overwrite and numbers:
        RunFolder(version_folder(out, numbers[-1])).clear()
        return numbers[-1]
    try:
        return create_version(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({one_line(error)}); choose another out=") from error


def _continued(out: Path | str, settings: MonitoredSettings) -> tuple[RunFolder, RunRecord] | None:
    """Return the run that training resumes, or None, with a warning, if it was measured in another way.

    Raises:
        InputError: it is of another kind, or damaged.
    """
    folder = RunFolder(newest_run(out))
    record = folder.read_run()
    if record is None:
        return None
    if not isinstance(record.recipe, MonitoredSettings):
        raise InputError(f"{folder.path}: holds a run of another kind; choose another out=")
    held, wanted = _by_name(record.recipe), _by_name(settings)
    name = next((name for name, value in wanted.items() if held.get(name) != value), None)
    if name is None:
        return folder, record
    if rank_and_world()[0] == 0:
        warnings.warn(
            f"{folder.path}: was measured with {name} {held.get(name)!r}, not {wanted[name]!r}; the resumed training is "
            "measured in a new version beside it",
            stacklevel=2,
        )
    return None


def _by_name(settings: MonitoredSettings) -> dict[str, object]:
    values = settings.model_dump(mode="json")
    options = values.pop("options")
    return values | options
