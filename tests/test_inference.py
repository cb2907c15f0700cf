"""Statistics over seeds, against definitions and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from collapselab.inference import holm, rank_correlation, student_interval, t_test


def test_the_interval_is_that_of_the_t_test() -> None:
    values = [0.3, 0.9, 1.4, 0.7]
    mean, low, high = student_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert float(mean) == pytest.approx(np.mean(values))
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high))
    _, p = stats.ttest_1samp(values, 0.2)
    assert t_test(values, 0.2) == pytest.approx(p)


def test_the_interval_is_taken_along_the_last_axis() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 5))
    _, low, _ = student_interval(values)
    assert low.shape == (2, 3)
    assert low[1, 2] == pytest.approx(float(student_interval(values[1, 2])[1]))


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("draw", ["normal", "logistic", "uniform"])
def test_the_mean_is_in_the_interval_in_95_percent_of_cases(count: int, draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=(40_000, count))
    centre = 0.5 if draw == "uniform" else 0.0
    _, low, high = student_interval(values)
    assert float(((low < centre) & (centre < high)).mean()) == pytest.approx(0.95, abs=0.03)


def test_without_spread_the_interval_is_a_point() -> None:
    mean, low, high = student_interval([0.25, 0.25, 0.25])
    assert float(mean) == float(low) == float(high) == 0.25
    assert t_test([0.25, 0.25, 0.25], 0.0) == 0.0
    assert t_test([0.25, 0.25, 0.25], 0.25) == 1.0
    assert t_test([0.25], 0.0) is None


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.001, 0.8]) == pytest.approx([1.0, 0.003, 1.0])


def test_holm_keeps_the_family_wise_error_below_its_level() -> None:
    p_values = np.random.default_rng(0).uniform(size=(4000, 6))
    assert np.mean([min(holm(list(family))) < 0.05 for family in p_values]) == pytest.approx(0.05, abs=0.01)


def test_rank_correlation_needs_values_that_differ() -> None:
    assert rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 8.0, 9.0, 70.0]) == 1.0
    assert rank_correlation([1.0, 2.0, 2.0, 4.0], [5.0, 6.0, 6.0, 7.0]) == pytest.approx(1.0)
    assert np.isnan(rank_correlation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]))
    assert np.isnan(rank_correlation([1.0, 2.0, 3.0], [5.0, float("nan"), 6.0]))
