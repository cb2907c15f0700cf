"""Stopping a run before its end: stop requests are handled between steps."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from collapselab.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 3653 * _UNITS["d"]
_DURATION = re.compile(r"(\d+(?:\.\d*)?)([smhd])")


class RunInterrupted(Exception):
    """The run was stopped from outside; the same call resumes it from `step`.

    Attributes:
        step: optimiser steps done.
        reason: `interrupted`, or `out of time` when the deadline has passed.
    """

    def __init__(self, step: int, reason: str = "interrupted") -> None:
        super().__init__(f"{reason} at step {step}; run it again to resume")
        self.step, self.reason = step, reason


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `9m`, `1h30m`, `2d` or a plain number of seconds.

    Raises:
        InputError: the text is no positive duration.
    """
    whole = text.strip().lower()
    parts = _DURATION.findall(whole)
    if parts and "".join(number + unit for number, unit in parts) == whole:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(whole)
        except ValueError:
            raise InputError(f"{text!r} is not a duration; give one such as 90s, 9m or 1h30m") from None
    if not 0 < seconds <= _LONGEST:
        raise InputError(
            f"{text!r} is not a duration above 0 and up to 10 years; give one such as 90s, 9m or 1h30m"
        )
    return seconds


class Stopper:
    """Tells a run whether to stop; it asks between steps.

    Args:
        deadline: on the clock of `time.monotonic`; None for never.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._signalled = False

    @property
    def reason(self) -> str | None:
        """Why to stop now, or None."""
        if self._signalled:
            return "interrupted"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "out of time"
        return None

    def check(self) -> None:
        """Raise `RunInterrupted` where there is a reason to stop, before any step."""
        if self.reason:
            raise RunInterrupted(0, self.reason)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a reason to stop; a second one raises at once.

        Signals reach only the main thread; elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(_number: int, _frame: FrameType | None) -> None:
            if self._signalled:
                raise KeyboardInterrupt
            self._signalled = True

        # A process that ignores Ctrl-C, as shells arrange for background jobs, keeps ignoring it.
        handled = [
            number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN
        ]
        before = {number: signal.signal(number, handle) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
