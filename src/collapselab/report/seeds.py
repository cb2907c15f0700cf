"""Means over seeds and how certain they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from collapselab.frames import finite, groups, rows_that
from collapselab.inference import share_interval, student_interval
from collapselab.report.chart import Series

SEEDS_FOR_INTERVAL = 5  # with fewer, every seed is shown instead
_TEXTS = ("point", "label")


def over_seeds(series: Series, log_x: bool, log_y: bool) -> pd.DataFrame:
    """Return the mean over seeds of every point of a series, and its bounds.

    Args:
        series: whose `points` are averaged per `group` where it has that column, else per `x`; hollow points only where
            a group has no others.
        log_x, log_y: whether the mean is geometric, as on a logarithmic axis. It is 0 where any value is 0.

    Returns:
        One row per group, in order: `x`, `y`, `low` and `high` (bounds given, the interval of a share of `trials`, or from
        five seeds on the 95 % Student interval of the mean; else NaN), `seeds` with a value, `hollow`, `point`, `label`.
    """
    key = "group" if "group" in series.points else "x"
    rows = []
    for _, part in groups(series.points.sort_values(key, kind="stable"), key):
        hollow = "hollow" in part and bool(part["hollow"].all())
        if "hollow" in part and not hollow:
            part = rows_that(part, ~part["hollow"].astype(bool))
        values = finite(part["y"])
        low, high = _bounds(part, values, log_y)
        row = {"x": _mean(finite(part["x"]), log_x), "y": _mean(values, log_y), "low": low, "high": high}
        texts = {name: str(part[name].iloc[0]) if name in part else "" for name in _TEXTS}
        rows.append({**row, "seeds": len(values), "hollow": hollow, **texts})
    return pd.DataFrame(rows, columns=["x", "y", "low", "high", "seeds", "hollow", *_TEXTS])


def _mean(values: Any, log: bool) -> float:
    if not len(values) or (log and values.min() <= 0):
        return 0.0 if len(values) else math.nan
    centre = math.exp(float(np.log(values).mean())) if log else float(values.mean())
    return min(max(centre, float(values.min())), float(values.max()))  # rounding: equal values have that mean


def _bounds(part: pd.DataFrame, values: Any, log: bool) -> tuple[float, float]:
    if len(values) and "low" in part:
        return float(part["low"].iloc[0]), float(part["high"].iloc[0])
    if len(values) and "trials" in part:
        return share_interval(float(values.mean()), float(part["trials"].iloc[0]))
    if len(values) < SEEDS_FOR_INTERVAL or (log and values.min() <= 0):
        return math.nan, math.nan
    _, low, high = student_interval(np.log(values) if log else values)
    return (math.exp(low), math.exp(high)) if log else (float(low), float(high))


def smallest_trials(shares: Any, most: int = 100_000) -> float:
    """Return the smallest number of trials of which all shares are whole counts; NaN if there is none up to `most`.

    The number of test samples where rows hold only accuracies: a divisor of the true number, with many rows it itself.
    """
    known = np.unique(finite(shares))
    for trials in range(1, most + 1) if len(known) else ():
        if np.abs(known * trials - np.round(known * trials)).max() < 1e-6 * trials:
            return float(trials)
    return math.nan
