"""Properties of a curve over log-spaced steps: last value, final trend, step at which a share of the change is complete."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# A variance over its spread below this is rounding; a variance of exactly 0 has a logarithm with it.
ROUNDING = 1e-16
# Position of step 0 on a logarithmic axis: as far before step 1 as step 2 is behind it.
_STEP_0 = 0.5
_TRANSIENT = 10  # times the larger of first and last value: beyond, a curve is starting up
_STEPS_LEFT = 5
_Floats = npt.NDArray[np.float64]


def end_value(values: _Floats) -> float:
    """Return the last value; NaN where it is infinite or there is none."""
    return float(values[-1]) if len(values) and math.isfinite(values[-1]) else math.nan


def late_change(steps: _Floats, values: _Floats) -> float:
    """Change over the last factor of two of steps, in percent, between measurements in logarithms of steps and values.

    Args:
        steps: increasing, 0 or more.
        values: 0 or more; NaN where they were not measured.

    Returns:
        NaN where the end has no value, or nothing was measured between an eighth and half of the steps.
    """
    if math.isnan(end_value(values)):
        return math.nan
    is_known = np.isfinite(values) & (steps > 0)
    steps, logs = steps[is_known], np.log10(np.maximum(values[is_known], ROUNDING))
    half = steps[-1] / 2 if len(steps) else math.nan
    if not ((steps <= half) & (steps >= half / 4)).any():
        return math.nan
    return 100 * (10 ** float(logs[-1] - np.interp(math.log(half), np.log(steps), logs)) - 1)


def start_behind_transient(runs: Sequence[tuple[_Floats, _Floats]]) -> float | None:
    """Step behind a transient of the first steps that would hide all that follows.

    Args:
        runs: increasing steps, and values without NaN, of each.

    Returns:
        The first step behind all values above ten times what runs start or end with; None where there is no such value,
        or where fewer than five steps would be left.
    """
    level = _TRANSIENT * max((max(values[0], values[-1]) for _, values in runs), default=0.0)
    far = [step for steps, values in runs for step in steps[values > level]]
    later = sorted({float(step) for steps, _ in runs for step in steps if far and step > max(far)})
    return later[0] if len(later) >= _STEPS_LEFT else None


def step_reaching(steps: _Floats, values: _Floats, level: float) -> float:
    """Step at which a curve has first fallen to a level, between measurements in logarithms of steps and values.

    Args:
        steps: increasing, 0 or more.
        values: 0 or more; NaN where they were not measured.
        level: above 0.

    Returns:
        NaN for a curve that never reaches it, or that lacks a value before that step.
    """
    below = np.flatnonzero(values <= level)
    if not len(below) or np.isnan(values[: below[0]]).any():
        return math.nan
    at = slice(max(below[0] - 1, 0), below[0] + 1)
    logs, log_steps = np.log(np.maximum(values[at], ROUNDING)), np.log(np.maximum(steps[at], _STEP_0))
    return math.exp(float(np.interp(-math.log(level), -logs, log_steps)))


def step_covering(steps: _Floats, values: _Floats, share: float) -> float:
    """Step at which a curve has first covered a share of its own way from start to end, in logarithms of its values.

    Args:
        steps: increasing, 0 or more.
        values: 0 or more; NaN where they were not measured.
        share: above 0, at most 1.

    Returns:
        NaN for a curve that ends where it starts, or that lacks a value before that step.
    """
    if not len(values) or not np.isfinite(values[[0, -1]]).all():
        return math.nan
    logs = np.log(np.maximum(values, ROUNDING))
    if logs[-1] == logs[0]:
        return math.nan
    way = (logs - logs[0]) / (logs[-1] - logs[0])
    at = int(np.flatnonzero(way >= share)[0])
    if np.isnan(way[:at]).any():
        return math.nan
    log_steps = np.log(np.maximum(steps[at - 1 : at + 1], _STEP_0))
    return math.exp(float(np.interp(share, way[at - 1 : at + 1], log_steps)))
