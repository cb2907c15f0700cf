"""Progress reports of an experiment."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Watcher(Protocol):
    """Called while an experiment goes on. Each method does nothing unless overridden."""

    def timing(self, job: str) -> None:
        """Before a run of a new kind is timed."""

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        """Before anything starts."""

    def waiting(self, runs: int) -> None:
        """When other processes work on all `runs` that are left, or on the runs that these start from."""

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        """Before a run of `steps`; finished runs have `steps_before` of the `steps_of_all` of all runs."""

    def progress(self, done: int, total: int, doing: str) -> None:
        """Within a run: steps done, steps in all, `training` or `measuring`."""

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        """After a run."""

    def extra(self, name: str, seed: int) -> None:
        """Before something is computed from finished runs."""


class Silent(Watcher):
    """Ignores everything."""
