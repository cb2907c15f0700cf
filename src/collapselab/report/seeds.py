"""Means over seeds and how certain they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from collapselab.frames import finite, groups, rows_that
from collapselab.report.chart import Series

LEVEL = 0.95
SEEDS_FOR_INTERVAL = 5  # with fewer, every seed is shown instead
_NOWHERE = (math.nan, math.nan)


def over_seeds(series: Series, log_x: bool, log_y: bool) -> pd.DataFrame:
    """Return the mean over seeds of every point of a series, and its bounds.

    Args:
        series: whose `points` are averaged per `group` where it has that column, else per `x`; hollow points only where
            a group has no others.
        log_x, log_y: whether that mean is geometric, as on a logarithmic axis. It is 0 where any value is 0.

    Returns:
        One row per group, in order: `x`, `mean`, `low` and `high` (given bounds, the interval of a share of `trials`,
        or from five seeds on the 95 % Student interval of the mean; else NaN), `seeds` with a value, `hollow`, and
        the `point` and `label` of its rows.
    """
    points = series.points
    key = "group" if "group" in points else "x"
    rows = [_mean_row(part, log_x, log_y) for _, part in groups(points.sort_values(key, kind="stable"), key)]
    return pd.DataFrame(rows, columns=["x", "mean", "low", "high", "seeds", "hollow", "point", "label"])


def _mean_row(part: pd.DataFrame, log_x: bool, log_y: bool) -> dict[str, Any]:
    hollow = "hollow" in part and bool(part["hollow"].all())
    if "hollow" in part and not hollow:
        part = rows_that(part, ~part["hollow"].to_numpy(dtype=bool))
    values = finite(part["y"])
    low, high = _bounds(part, log_y)
    texts = {name: str(part[name].iloc[0]) if name in part else "" for name in ("point", "label")}
    x = mean(finite(part["x"]), log_x)
    return {
        "x": x,
        "mean": mean(values, log_y),
        "low": low,
        "high": high,
        "seeds": len(values),
        "hollow": hollow,
    } | texts


def mean(values: np.ndarray, log: bool) -> float:
    """Return the mean, geometric where `log`; NaN of no values."""
    if not len(values):
        return math.nan
    low, high = float(values.min()), float(values.max())
    if log and low <= 0:
        return 0.0
    centre = math.exp(float(np.log(values).mean())) if log else float(values.mean())
    return min(max(centre, low), high)  # rounding must not put the mean of equal values outside their range


def _bounds(part: pd.DataFrame, log: bool) -> tuple[float, float]:
    values = finite(part["y"])
    if not len(values):
        return _NOWHERE
    if "low" in part:
        return float(part["low"].iloc[0]), float(part["high"].iloc[0])
    if "trials" in part:
        return share_interval(float(values.mean()), float(part["trials"].mean()))
    return mean_interval(values, log) if len(values) >= SEEDS_FOR_INTERVAL else _NOWHERE


def mean_interval(values: np.ndarray, log: bool) -> tuple[float, float]:
    """Return the two-sided 95 % Student interval of the mean, of logarithms where `log`; NaN where a logarithm is undefined."""
    if log and values.min() <= 0:
        return _NOWHERE
    sample = np.log(values) if log else values
    half = (
        float(stats.t.ppf(0.5 + LEVEL / 2, len(sample) - 1))
        * float(sample.std(ddof=1))
        / math.sqrt(len(sample))
    )
    ends = float(sample.mean()) - half, float(sample.mean()) + half
    return (math.exp(ends[0]), math.exp(ends[1])) if log else ends


def share_interval(share: float, trials: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent trials (Wilson 1927); NaN for an unknown number of them."""
    if not math.isfinite(trials) or trials <= 0:
        return _NOWHERE
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return centre - half, centre + half


def smallest_trials(shares: np.ndarray, most: int = 100_000) -> float:
    """Return the smallest number of trials of which all shares are whole counts; NaN if there is none up to `most`.

    The number of test samples where rows hold only accuracies: a divisor of the true number, with many rows it itself.
    """
    known = np.unique(finite(shares))
    for trials in range(1, most + 1) if len(known) else ():
        if np.abs(known * trials - np.round(known * trials)).max() < 1e-6 * trials:
            return float(trials)
    return math.nan
