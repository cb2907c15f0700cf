"""Why a run stops before its end, and how it hears of it: between two steps, never inside one."""

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
_DURATION = re.compile(r"(\d+(?:\.\d*)?)([smhd])")


class RunInterrupted(Exception):
    """The run was stopped from outside; the same call goes on from `step`.

    Attributes:
        step: optimiser steps done.
        reason: `interrupted`, or `out of time` where the time that was given is up.
    """

    def __init__(self, step: int, reason: str = "interrupted") -> None:
        super().__init__(f"{reason} at step {step}; the same command goes on from there")
        self.step, self.reason = step, reason


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `9m`, `1h30m`, `2d` or a plain number of seconds.

    Raises:
        InputError: anything else, or no time at all.
    """
    whole = text.strip().lower()
    parts = _DURATION.findall(whole)
    if parts and "".join(number + unit for number, unit in parts) == whole:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(whole)
        except ValueError:
            raise InputError(f"{text!r} is no duration; give one such as 90s, 9m or 1h30m") from None
    if not 0 < seconds < float("inf"):
        raise InputError(f"{text!r} is no time to work in; give one such as 90s, 9m or 1h30m")
    return seconds


class Stopper:
    """Asked between steps whether to stop.

    Args:
        deadline: of `time.monotonic`, None for never.
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

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While open, the first Ctrl-C or SIGTERM only sets the flag; a second one raises at once.

        Signals reach only the main thread; elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def hear(_number: int, _frame: FrameType | None) -> None:
            if self._signalled:
                raise KeyboardInterrupt
            self._signalled = True

        # A process that was told to ignore Ctrl-C, as shells do in the background, keeps ignoring it.
        heard = [
            number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN
        ]
        before = {number: signal.signal(number, hear) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
