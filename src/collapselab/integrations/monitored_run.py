"""The run folder of a monitored training: opened once, rows appended, closed with a status."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from collapselab.distributed import raise_together, rank_and_world
from collapselab.errors import InputError
from collapselab.probes import Profile
from collapselab.records.run_folder import RunFolder
from collapselab.storage import provenance


class MonitoredRun:
    """A folder while it is written to. Of several processes all may read it and the first writes.

    Args:
        path: of the folder.
        settings: what the run is; a folder holds one of them.
        first_step: optimiser steps done. From 0 a run begins; beyond, the one in the folder goes on.

    Attributes:
        is_continued: whether the folder held rows that stay.

    Raises:
        InputError: the folder holds another run, or rows that would be lost.
    """

    def __init__(self, path: Path | str, settings: dict[str, Any], first_step: int) -> None:
        self.folder = RunFolder(path)
        self._writes = rank_and_world()[0] == 0
        self._seconds = {"training": 0.0, "measuring": 0.0}
        error: InputError | None = None
        run: dict[str, Any] | None = None
        try:
            run = self.folder.read_run()
            if run is not None:
                self._refuse(run, settings, first_step)
        except InputError as problem:
            error = problem
        steps = set() if error else {row["step"] for row in self.folder.read_rows()}
        # Every process has read before the first one writes.
        raise_together(error)
        self._steps = {step for step in steps if step <= first_step} if first_step else set()
        self.is_continued = bool(self._steps)
        if run is not None and first_step:
            self._seconds |= run.get("seconds", {})
        self._run = {"recipe": settings} | provenance()
        if self._writes:
            self.folder.create()
            self.write("running")
            self.folder.drop_rows_after(first_step if first_step else -1)
        self._since = time.perf_counter()

    def has(self, step: int) -> bool:
        """Whether the rows of a step are there."""
        return step in self._steps

    def append(self, step: int, epoch: float, profile: Profile, spectra: bool) -> None:
        """Add the rows of a step that has none."""
        self._steps.add(step)
        if self._writes:
            self.folder.append_profile(step, epoch, profile, spectra=spectra)

    @property
    def is_logged(self) -> bool:
        """Whether this process is the one that writes and logs."""
        return self._writes

    def count(self, measuring: float) -> None:
        """Add the time since the last call: so many seconds of it measuring, the others training."""
        now = time.perf_counter()
        self._seconds["measuring"] += measuring
        self._seconds["training"] += max(now - self._since - measuring, 0.0)
        self._since = now

    def write(self, status: str) -> None:
        """Replace run.json."""
        if self._writes:
            seconds = {name: round(value, 2) for name, value in self._seconds.items()}
            self.folder.write_run(self._run | {"status": status, "seconds": seconds})

    def _refuse(self, run: dict[str, Any], settings: dict[str, Any], first_step: int) -> None:
        path, held = self.folder.path, run["recipe"]
        if not isinstance(held, dict) or "monitored" not in held:
            raise InputError(f"{path}: holds another run; choose another out=")
        for name, value in settings.items():
            if held.get(name) != value:
                raise InputError(
                    f"{path}: holds a run with {name} {held.get(name)!r}, not {value!r}; choose another out=, or "
                    "remove that folder"
                )
        last = max((row["step"] for row in self.folder.read_rows()), default=0)
        if not first_step and (run["status"] == "finished" or last > 0):
            raise InputError(
                f"{path}: holds a {run['status']} run measured up to step {last}; choose another out=, remove that "
                "folder, or give first_step= where training goes on from a checkpoint"
            )
