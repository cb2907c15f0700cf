"""Statistics over seeds: mean and interval, p-values and their correction, rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
MIN_SEEDS = 3  # with fewer, no interval decides
_Floats = npt.NDArray[np.float64]


def student_interval(values: npt.ArrayLike) -> tuple[_Floats, _Floats, _Floats]:
    """Mean and the ends of its two-sided 95 % Student interval.

    Args:
        values: (..., n), n at least 2 seeds along the last axis. Without spread the interval is a point.

    Returns:
        mean, low, high: (...).
    """
    data = np.asarray(values, dtype=np.float64)
    count = data.shape[-1]
    mean = np.asarray(data.mean(-1))
    half = np.asarray(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * data.std(-1, ddof=1) / np.sqrt(count))
    return mean, np.asarray(mean - half), np.asarray(mean + half)


def t_test(values: Sequence[float], threshold: float) -> float | None:
    """Two-sided p-value of the t-test of a mean against a threshold.

    Returns:
        None with fewer than two values; of values without spread 1 at the threshold, else 0.
    """
    if len(values) < 2:
        return None
    away, error = abs(float(np.mean(values)) - threshold), float(stats.sem(values))
    return float(2 * stats.t.sf(away / error, len(values) - 1)) if error > 0 else float(away == 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values over their family by Holm's method."""
    corrected = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where a value is NaN or one side is constant."""
    if not np.isfinite([*x, *y]).all() or len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan")
    correlation, _ = stats.spearmanr(x, y)
    return float(correlation)  # pyright: ignore[reportArgumentType] scipy types its results loosely


def share_interval(share: float, trials: int | float) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent trials (Wilson 1927); NaN for an unknown number of trials."""
    if not np.isfinite(trials) or trials < 1:
        return float("nan"), float("nan")
    interval = stats.binomtest(round(share * trials), round(trials)).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)


def paired_difference_interval(
    lost: int | float, gained: int | float, trials: int | float
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of the same trials (Agresti and Min 2005).

    Args:
        lost, gained: trials that count in the first share only, and in the second only; the difference is
            (lost - gained) / trials.
        trials: 1 or more. NaN in any argument gives NaN.
    """
    # Half a trial is added to each cell of the 2 x 2 table: two trials in all.
    count, difference = trials + 2, (lost - gained) / (trials + 2)
    variance = (lost + gained + 1) / count - difference**2
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance / count)
    return difference - half, difference + half


# ---------------------------------------------------------------- tables over seeds

SEEDS_FOR_INTERVAL = 5  # with fewer, every seed is shown instead


def over_seeds(points: pd.DataFrame, log_x: bool, log_y: bool) -> pd.DataFrame:
    """Return the mean over seeds of every point, and its bounds.

    Args:
        points: columns `x`, `y`, one row per point and seed, averaged per `group` where there is such a column, else per
            `x`. Optional: `hollow`, averaged only where a group has no others; `low` and `high`, or `trials`; text
            `point`.
        log_x, log_y: whether the mean is geometric, as on a logarithmic axis. It is 0 where any value is 0.

    Returns:
        One row per group, in order: `x`, `y`, `low` and `high` (bounds given, the interval of a share of `trials`, or from
        five seeds on the 95 % Student interval of the mean; else NaN), `seeds` with a value, `hollow`, `point`.
    """
    rows = []
    for _, part in points.groupby("group" if "group" in points else "x"):
        hollow = "hollow" in part and bool(part["hollow"].all())
        if "hollow" in part and not hollow:
            part = part.loc[~part["hollow"].astype(bool), :]
        values = _known(part["y"])
        low, high = _bounds(part, values, log_y)
        row = {"x": _mean(_known(part["x"]), log_x), "y": _mean(values, log_y), "low": low, "high": high}
        point = str(part["point"].iloc[0]) if "point" in part else ""
        rows.append({**row, "seeds": len(values), "hollow": hollow, "point": point})
    return pd.DataFrame(rows, columns=["x", "y", "low", "high", "seeds", "hollow", "point"])


def _known(values: Any) -> _Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


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
    sample = np.log(values) if log else values
    _, low, high = (float(end[0]) for end in student_interval(sample[None]))
    return (math.exp(low), math.exp(high)) if log else (low, high)


def smallest_trials(shares: Any, most: int = 100_000) -> float:
    """Return the smallest number of trials of which all shares are whole counts; NaN if there is none up to `most`.

    The number of test samples where rows hold only accuracies: a divisor of the true number, with many rows it itself.
    """
    known = np.unique(_known(shares))
    for trials in range(1, most + 1) if len(known) else ():
        if np.abs(known * trials - np.round(known * trials)).max() < 1e-9 * trials:
            return float(trials)
    return math.nan
