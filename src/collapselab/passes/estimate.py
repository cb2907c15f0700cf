"""Tell the user how long a piece of work will take, before it has taken long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from collapselab.distributed import rank_and_world
from collapselab.passes.stream import ProgressCallback, no_progress
from collapselab.text import duration

# Work that takes longer is announced, from the pace of what was done in the first second.
_LONG_SECONDS, _FIRST_SECONDS = 10.0, 1.0
_SHORTER = "fewer layers (layers=), metrics (metrics=) or samples make it shorter, or another reduce="


class Estimate:
    """A progress callback that announces long work: once for each piece, after its first batches.

    Args:
        progress: called with every report.
        announce: called with a line; default the logger `collapselab`, which writes warnings to stderr.
        shorter: what makes the work shorter.
        clock: returns seconds.
    """

    def __init__(
        self,
        progress: ProgressCallback = no_progress,
        announce: Callable[[str], None] | None = None,
        shorter: str = _SHORTER,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._progress, self._announce, self._shorter, self._clock = progress, announce, shorter, clock
        self._started: dict[str, tuple[int, float]] = {}
        self._settled: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._progress(what, done, total)
        if what in self._settled:
            return
        now = self._clock()
        # The first batch is not counted: it allocates memory and starts workers.
        done_first, start = self._started.setdefault(what, (done, now))
        if now - start < _FIRST_SECONDS or done <= done_first:
            return
        self._settled.add(what)
        seconds = (total - done_first) * (now - start) / (done - done_first)
        if seconds > _LONG_SECONDS:
            self._say(f"{what}: about {duration(seconds)}; {self._shorter}")

    def _say(self, text: str) -> None:
        if self._announce is not None:
            self._announce(text)
        elif rank_and_world()[0] == 0:
            logging.getLogger("collapselab").warning(text)
