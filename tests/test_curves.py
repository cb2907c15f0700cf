"""What is read off curves with a known form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collapselab.curves import end_value, late_change, start_behind_transient, step_covering, step_reaching

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], dtype=np.float64)
NAN = math.nan


@pytest.mark.parametrize("exponent", [-1.5, -0.3, 0.0, 0.4])
def test_a_power_law_changes_by_two_to_its_exponent(exponent: float) -> None:
    change = late_change(STEPS, np.maximum(STEPS, 0.5) ** exponent)
    assert change == pytest.approx(100 * (2**exponent - 1))


def test_half_of_the_steps_lies_between_measurements() -> None:
    steps = np.array([0.0, 10, 30, 100])
    assert late_change(steps, np.maximum(steps, 1) ** -0.5) == pytest.approx(100 * (2**-0.5 - 1))


def test_only_the_last_factor_of_two_matters() -> None:
    values = np.where(STEPS < 500, 100.0, 1.0)
    assert late_change(STEPS, values) == pytest.approx(0)
    values[-1] = 0.5
    assert late_change(STEPS, values) == pytest.approx(-50)


def test_curves_that_were_measured_too_seldom_have_no_trend() -> None:
    for steps, values in (
        ([100.0], [1.0]),
        ([0.0, 100.0], [1.0, 1.0]),
        ([0.0, 12.0, 100.0], [1.0, 1.0, 1.0]),  # 12 is before an eighth
        ([0.0, 20.0, 100.0], [1.0, 1.0, NAN]),
        ([0.0, 20.0, 100.0], [1.0, NAN, 1.0]),
        ([0.0, 60.0, 100.0], [1.0, 1.0, 1.0]),  # nothing before half
    ):
        assert math.isnan(late_change(np.array(steps), np.array(values)))
    assert late_change(np.array([0.0, 13.0, 100.0]), np.ones(3)) == pytest.approx(0)
    assert math.isnan(late_change(np.zeros(0), np.zeros(0)))


def test_zero_has_a_trend_too() -> None:
    assert late_change(STEPS, np.zeros(len(STEPS))) == 0
    assert late_change(STEPS, np.where(STEPS < 1000, 1.0, 0.0)) == pytest.approx(-100)


def test_the_end_is_the_last_value() -> None:
    assert end_value(np.array([1.0, 0.5])) == 0.5
    assert math.isnan(end_value(np.array([1.0, math.inf])))
    assert math.isnan(end_value(np.zeros(0)))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_power_law_has_covered_a_share_at_that_power_of_its_steps(share: float) -> None:
    """From 1 at step 1 to the last: in logarithms of steps and values the way is straight."""
    assert step_covering(STEPS[1:], STEPS[1:] ** -0.7, share) == pytest.approx(1024**share)


def test_a_curve_that_rises_has_a_way_of_its_own() -> None:
    assert step_covering(STEPS[1:], STEPS[1:] ** 0.7, 0.5) == pytest.approx(32)


def test_the_first_time_counts() -> None:
    values = np.array([1.0, 1.0, 1e-4, 1e-1, 1e-2])
    assert 2 < step_covering(np.array([1.0, 2, 4, 8, 16]), values, 0.5) < 4


def test_a_step_that_cannot_be_known() -> None:
    steps = np.array([0.0, 1, 2, 4])
    assert math.isnan(step_covering(steps, np.ones(4), 0.5))
    assert math.isnan(step_covering(steps, np.array([1.0, NAN, 0.1, 0.01]), 0.5))
    assert math.isnan(step_covering(steps, np.array([1.0, 0.1, 0.01, NAN]), 0.5))
    assert step_covering(steps, np.array([1.0, 0.001, NAN, 0.01]), 0.5) < 1
    assert math.isnan(step_covering(np.zeros(0), np.zeros(0), 0.5))


def test_a_power_law_reaches_a_level_at_a_known_step() -> None:
    """From 1 at step 1: in logarithms of steps and values the way is straight."""
    for level in (0.5, 0.03, 0.01):
        assert step_reaching(STEPS[1:], STEPS[1:] ** -0.7, level) == pytest.approx(level ** (-1 / 0.7))
    assert step_reaching(STEPS[1:], STEPS[1:] ** -0.7, 2.0) == 1


def test_the_first_time_that_a_level_is_reached_counts() -> None:
    steps = np.array([0.0, 1, 2, 4, 8])
    assert 1 < step_reaching(steps, np.array([1.0, 1, 0.05, 1, 0.01]), 0.1) < 2
    assert step_reaching(steps, np.array([1.0, 1, 0.1, 0.0, NAN]), 0.1) == pytest.approx(2)
    assert step_reaching(steps, np.array([0.01, 1, 1, 1, 1]), 0.1) == 0.5  # step 0 of a logarithmic axis


def test_a_level_that_is_not_reached() -> None:
    steps = np.array([0.0, 1, 2])
    assert math.isnan(step_reaching(steps, np.ones(3), 0.1))
    assert math.isnan(step_reaching(steps, np.array([1.0, NAN, 0.01]), 0.1))
    assert math.isnan(step_reaching(steps, np.full(3, NAN), 0.1))
    assert math.isnan(step_reaching(np.zeros(0), np.zeros(0), 0.1))


def test_a_transient_is_all_far_above_start_and_end() -> None:
    """Values of 1 but for a peak at steps 1 and 2: what is left starts at step 4."""
    values = np.ones(12)
    values[1:3] = 10.5, 1e8
    assert start_behind_transient([(STEPS, values)]) == 4
    assert start_behind_transient([(STEPS, np.ones(12)), (STEPS, values)]) == 4
    assert start_behind_transient([(STEPS, np.minimum(values, 10))]) is None


def test_a_peak_near_the_end_is_no_transient() -> None:
    """Fewer than five steps would be left."""
    for peak, start in ((6, 64.0), (7, None)):
        values = np.ones(12)
        values[peak] = 100
        assert start_behind_transient([(STEPS, values)]) == start
    assert start_behind_transient([]) is None
