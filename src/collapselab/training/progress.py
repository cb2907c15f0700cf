"""Progress reports and timing of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from collapselab.records.run_record import Seconds

# Steps done, steps in all, `training` or `measuring`.
StepCallback = Callable[[int, int, str], None]

_REPORT_SECONDS = 0.1


@dataclass
class Clock:
    """Seconds spent training and measuring, over all starts of a run."""

    training: float = 0.0
    measuring: float = 0.0

    @contextmanager
    def counting(self, name: Literal["training", "measuring"]) -> Iterator[None]:
        """Add the time until the block ends."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    def seconds(self) -> Seconds:
        """Return both, rounded, as run.json holds them."""
        return Seconds(training=round(self.training, 2), measuring=round(self.measuring, 2))


class Reporter:
    """Calls a `StepCallback` at most ten times a second, and always at the last step.

    Args:
        callback: called.
        steps: in all.
    """

    def __init__(self, callback: StepCallback, steps: int) -> None:
        self._callback, self._steps = callback, steps
        self._last = -math.inf

    def __call__(self, step: int, doing: str, *, always: bool = False) -> None:
        now = time.perf_counter()
        if always or now - self._last >= _REPORT_SECONDS or step == self._steps:
            self._last = now
            self._callback(step, self._steps, doing)
