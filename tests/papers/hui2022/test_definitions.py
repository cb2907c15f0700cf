"""Definitions 1 to 3: the degree of collapse of curves with a known form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from collapselab.errors import InputError
from collapselab.metrics.generalization import Reference
from collapselab.papers.hui2022.definitions import (
    DEFINITIONS,
    STRONG_TEST_COLLAPSE,
    TRAIN_COLLAPSE,
    VANISHED,
    WEAK_TEST_COLLAPSE,
    Curve,
    Degree,
)

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096])


def _power_law(exponent: float, first: float = 1.0) -> np.ndarray:
    return first * np.maximum(STEPS, 0.5) ** exponent


def _judged(values: np.ndarray, threshold: float = VANISHED) -> Degree:
    return TRAIN_COLLAPSE.judge(Curve(STEPS, values), threshold=threshold)


def test_each_definition_is_measured_by_its_own_metric() -> None:
    assert [(definition.number, definition.metric) for definition in DEFINITIONS] == [
        (1, "train_variance"),
        (2, "weak_test_variance"),
        (3, "strong_test_variance"),
    ]


@pytest.mark.parametrize("exponent", [-1.5, -0.3, 0.0, 0.4])
def test_slope_of_a_power_law_is_its_exponent(exponent: float) -> None:
    degree = _judged(_power_law(exponent))
    assert degree.slope == pytest.approx(exponent, abs=1e-12)
    assert degree.late_slope == pytest.approx(exponent, abs=1e-12)
    assert degree.still_falling == (exponent < -0.1)


def test_slope_sees_the_second_half_of_log_steps_only() -> None:
    values = _power_law(-1.0)
    values[STEPS < 64] = 7.0  # sqrt(4096) = 64
    assert _judged(values).slope == pytest.approx(-1.0, abs=1e-12)
    values[STEPS == 64] = 7.0
    assert _judged(values).slope != pytest.approx(-1.0, abs=1e-3)


def test_slope_leaves_out_the_step_that_the_references_are_from() -> None:
    values = _power_law(0.0, 0.5)
    values[-1] = 0.005
    degree = _judged(values)
    assert degree.slope == pytest.approx(0, abs=1e-12)
    assert degree.still_falling is False
    assert degree.vanished is True


def test_a_curve_that_fell_and_levelled_off_no_longer_falls() -> None:
    values = np.maximum(_power_law(-1.0), 1 / 512)
    degree = _judged(values)
    assert degree.slope is not None
    assert degree.slope < -0.5
    assert degree.still_falling is False
    assert degree.outcome == "collapsed"
    assert "no longer falling" in degree.sentence


def test_a_curve_that_turned_no_longer_falls() -> None:
    """Down as 1/t until step 700, then up again: both fitted slopes are negative, the end is not."""
    steps = np.array([1, 2, 5, 10, 20, 50, 100, 200, 400, 700, 1000])
    values = np.append(10 / steps[:-1], 12 / 700)
    degree = TRAIN_COLLAPSE.judge(Curve(steps, values))
    assert degree.late_slope is not None
    assert degree.late_slope < -0.5
    assert degree.still_falling is False
    lower = TRAIN_COLLAPSE.judge(Curve(steps, np.append(values[:-1], 9 / 700)))
    assert lower.still_falling is True


def test_still_falling_is_not_yet_collapsed() -> None:
    degree = _judged(_power_law(-0.5))
    assert degree.final_value == pytest.approx(1 / 64)
    assert (degree.outcome, degree.vanished, degree.still_falling) == ("not collapsed", False, True)
    assert degree.sentence == (
        "train collapse (definition 1): not collapsed by step 4096, where train_variance is 0.0156, not below 0.01 and "
        "still falling (slope -0.5 in the second half of log steps)"
    )
    assert _judged(_power_law(-0.5), threshold=0.02).outcome == "collapsed"


def test_the_threshold_is_not_reached_by_equality() -> None:
    assert _judged(_power_law(0.0, 0.01)).outcome == "not collapsed"
    assert _judged(_power_law(0.0, math.nextafter(0.01, 0))).outcome == "collapsed"


def test_few_steps_tell_no_trend() -> None:
    degree = WEAK_TEST_COLLAPSE.judge(Curve(np.array([0, 10, 20]), np.array([1.0, 0.5, 0.001])))
    assert (degree.slope, degree.late_slope, degree.still_falling) == (None, None, None)
    assert degree.outcome == "collapsed"
    assert "too few steps" in degree.sentence
    exact = WEAK_TEST_COLLAPSE.judge(Curve(np.array([0]), np.array([0.0])))
    assert (exact.outcome, exact.final_value, exact.slope) == ("collapsed", 0.0, None)


def test_values_missing_on_the_way_are_left_out() -> None:
    values = _power_law(-1.0)
    values[9] = np.nan
    assert _judged(values).slope == pytest.approx(-1.0, abs=1e-12)
    values[-1] = np.nan
    degree = _judged(values)
    assert (degree.outcome, degree.final_value, degree.vanished) == ("undefined", None, None)
    assert "the train class means coincide" in degree.sentence


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_points_of_a_simplex_are_2k_over_k_minus_1_apart(offset: float) -> None:
    points = Reference(torch.eye(4, dtype=torch.float64) + offset)
    degree = TRAIN_COLLAPSE.judge(Curve(STEPS, _power_law(-1.0)), points)
    assert degree.separation == pytest.approx(8 / 3, rel=1e-9)
    assert degree.outcome == "collapsed"


@pytest.mark.parametrize(
    ("distance", "outcome"), [(0.0, "undefined"), (0.05, "undefined"), (0.5, "collapsed")]
)
def test_points_that_coincide_are_no_collapse(distance: float, outcome: str) -> None:
    centres = torch.eye(4, dtype=torch.float64)
    centres[3] = centres[2]
    centres[3, 0] += distance
    degree = STRONG_TEST_COLLAPSE.judge(Curve(STEPS, _power_law(-1.0)), Reference(centres))
    assert degree.outcome == outcome
    assert degree.final_value == pytest.approx(1 / 4096)
    assert ("no distinct points" in degree.sentence) == (outcome == "undefined")


def test_all_points_coincide() -> None:
    degree = TRAIN_COLLAPSE.judge(Curve(STEPS, _power_law(-1.0)), Reference(torch.ones(3, 2).double()))
    assert (degree.separation, degree.outcome) == (0.0, "undefined")


def test_curves_that_are_none() -> None:
    for steps, values, message in (
        ([], [], "0 steps"),
        ([0, 1], [1.0], "2 steps and 1 values"),
        ([0, 2, 2], [1.0, 1.0, 1.0], "do not increase"),
        ([-1, 2], [1.0, 1.0], "do not increase"),
        ([0, 2], [1.0, math.inf], "at step 2 is inf"),
        ([0, 2], [-1e-9, 1.0], "at step 0 is -1e-09"),
    ):
        with pytest.raises(InputError, match=message):
            Curve(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
    with pytest.raises(InputError, match="threshold is 1"):
        _judged(_power_law(0), threshold=1.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        TRAIN_COLLAPSE.judge(Curve(STEPS, _power_law(0)), Reference(torch.full((3, 2), math.nan)))
