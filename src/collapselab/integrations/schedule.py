"""When to measure, in optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from collapselab.errors import InputError
from collapselab.records.recipe import log_spaced_steps


@dataclass(frozen=True)
class Schedule:
    """Steps to measure at: every so many, or given ones.

    Attributes:
        every: None where the steps are given.
        steps: empty where they are not.
    """

    every: int | None
    steps: tuple[int, ...]

    @classmethod
    def of(cls, every: int | None, at: Iterable[int] | None, log_spaced: tuple[int, int] | None) -> Schedule:
        """Return the schedule of one of these choices, or of none.

        Args:
            every: steps between measurements.
            at: steps.
            log_spaced: (steps in all, measurements).

        Raises:
            InputError: more than one choice; numbers that are no steps.
        """
        if sum(choice is not None for choice in (every, at, log_spaced)) > 1:
            raise InputError("every=, at= and log_spaced= each say when to measure; give one of them")
        if every is not None and every < 1:
            raise InputError(f"every={every}; give a number of steps from 1 on")
        steps = sorted(set(at or ()))
        if steps and steps[0] < 0:
            raise InputError(f"at: step {steps[0]} is negative; give numbers of finished optimiser steps")
        if log_spaced is not None:
            total, count = log_spaced
            if total < 1 or count < 2:
                raise InputError(f"log_spaced={log_spaced}; give (steps in all, measurements from 2 on)")
            steps = log_spaced_steps(total, count)
        return cls(every, tuple(steps))

    def is_due(self, before: int, now: int) -> bool:
        """Whether a step to measure at lies after `before` and not after `now`."""
        if self.every is not None:
            return now // self.every > before // self.every
        return any(before < step <= now for step in self.steps)
