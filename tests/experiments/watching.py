"""What tests of experiments ask for, and a watcher that remembers what it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_experiment

from collapselab.experiments.runner import Request


class Log:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def timing(self, job: str) -> None:
        self.lines.append(("timing", job))

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        self.lines.append(("estimated", runs_left, runs, seconds))

    def waiting(self, runs: int) -> None:
        self.lines.append(("waiting", runs))

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        self.lines.append(("started", job, seed, number, runs, steps_before, steps_of_all, steps))

    def progress(self, done: int, total: int, doing: str) -> None:
        assert 0 <= done <= total
        assert doing in ("training", "measuring")

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        self.lines.append(("ended", job, seed, number, runs, ended))

    def note(self, text: str) -> None:
        self.lines.append(("note", text))

    def at_once(self, steps: int, steps_of_all: int, text: str) -> None:
        assert 0 <= steps <= steps_of_all

    def extra(self, name: str, seed: int) -> None:
        self.lines.append(("extra", name, seed))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [line[1:] for line in self.lines if line[0] == kind]


def request(out: Path, **changes: Any) -> Request:
    return Request(**({"experiment": tiny_experiment.EXPERIMENT, "scale": "smoke", "out": out} | changes))
