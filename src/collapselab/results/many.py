"""Reproduce several experiments, one after another; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from collapselab.experiments.experiment import Experiment
from collapselab.experiments.runner import Request, SharesLeft, estimate, reproduce
from collapselab.experiments.running import Watcher
from collapselab.records.outcome import Outcome
from collapselab.results.page import write_results_page
from collapselab.results.stored import read_folders
from collapselab.training import RunInterrupted, Stopper


@runtime_checkable
class ManyWatcher(Protocol):
    """Called while several experiments go on."""

    def runs_of(self, experiment: Experiment) -> Watcher:
        """Return what is told of the runs of an experiment."""
        ...

    def estimated(self, experiment: Experiment, runs_left: int, seconds: float) -> None:
        """When the runs left of an experiment, and their seconds, are known."""

    def begins(self, experiment: Experiment, number: int, count: int) -> None:
        """Before an experiment is done; it is the `number`-th of `count`."""

    def done(self, outcome: Outcome) -> None:
        """After an experiment."""

    def shares_left(self, experiment: Experiment, runs: int) -> None:
        """After a share of an experiment, when others are not done."""

    def failed(self, experiment: Experiment, error: Exception) -> str:
        """After an experiment failed; return why, in one line."""
        ...


@dataclass
class Many:
    """Several experiments.

    Attributes:
        requests: one per experiment.
        page: the page over all of them, which is written after each.
        failures: by id of the experiment, why it failed, in one line.
    """

    requests: Sequence[Request]
    page: Path
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, watcher: ManyWatcher, stopper: Stopper) -> None:
        """Do all experiments, or what is left of them.

        Raises:
            RunInterrupted: stopped from outside; the same call resumes.
            InputError: the page cannot be written where it should be.
        """
        self.page.parent.mkdir(parents=True, exist_ok=True)
        self._write_page()  # before hours are spent
        with stopper.listening():
            for request in self.requests:
                if request.engine is None:  # others say how much is left when they begin
                    self._try(request, watcher, lambda one: self._estimate(one, watcher, stopper))
            for number, request in enumerate(self.requests, 1):
                if request.experiment.id in self.failures:
                    continue
                watcher.begins(request.experiment, number, len(self.requests))
                try:
                    self._try(request, watcher, lambda one: self._reproduce(one, watcher, stopper))
                finally:
                    self._write_page()

    def _try(self, request: Request, watcher: ManyWatcher, do: Callable[[Request], None]) -> None:
        try:
            do(request)
        except RunInterrupted:
            raise
        except Exception as error:
            self.failures[request.experiment.id] = watcher.failed(request.experiment, error)

    def _estimate(self, request: Request, watcher: ManyWatcher, stopper: Stopper) -> None:
        stopper.check()
        runs, seconds = estimate(request, watcher.runs_of(request.experiment), stopper)
        watcher.estimated(request.experiment, runs, seconds)

    def _reproduce(self, request: Request, watcher: ManyWatcher, stopper: Stopper) -> None:
        stopper.check()
        try:
            watcher.done(reproduce(request, watcher.runs_of(request.experiment), stopper))
        except SharesLeft as left:
            watcher.shares_left(request.experiment, left.runs)

    def _write_page(self) -> None:
        folders = [request.folder for request in self.requests]
        write_results_page(self.page, read_folders(self.page.parent, folders), self.failures)
