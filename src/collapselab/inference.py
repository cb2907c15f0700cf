"""Statistics over seeds: mean and interval, p-values and their correction, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
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


def share_interval(share: float, trials: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent trials (Wilson 1927); NaN for an unknown number of trials."""
    if not np.isfinite(trials) or trials < 1:
        return float("nan"), float("nan")
    interval = stats.binomtest(round(share * trials), round(trials)).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)
