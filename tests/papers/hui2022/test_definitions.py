"""Definitions 1 to 3: the degree of collapse of curves with a known form."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from collapselab.errors import InputError
from collapselab.metrics.generalization import Reference
from collapselab.papers.hui2022.definitions import DEFINITIONS, NEGLIGIBLE, Degree, judge_run

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
TRAIN = "train collapse"


def _power_law(exponent: float, first: float = 1.0) -> np.ndarray:
    return first * np.maximum(STEPS, 0.5) ** exponent


def _rows(values: np.ndarray, metric: str = "train_variance") -> pd.DataFrame:
    return pd.DataFrame(
        {"job": "a", "seed": 0, "step": STEPS[-len(values) :], "is_last": True, metric: values}
    )


def _judged(values: np.ndarray, reference: Reference | None = None, threshold: float = NEGLIGIBLE) -> Degree:
    references = None if reference is None else {"train_variance": reference}
    return judge_run(_rows(values), references, threshold=threshold)[TRAIN]


def test_each_definition_is_measured_by_its_own_metric() -> None:
    assert [(definition.number, definition.metric) for definition in DEFINITIONS] == [
        (1, "train_variance"),
        (2, "weak_test_variance"),
        (3, "strong_test_variance"),
    ]
    for definition in DEFINITIONS:
        degrees = judge_run(_rows(_power_law(-1.0), definition.metric))
        assert degrees[definition.name].outcome == "collapsed"
        assert {one.outcome for name, one in degrees.items() if name != definition.name} == {"undefined"}


@pytest.mark.parametrize("exponent", [-1.5, -0.3, 0.0, 0.4])
def test_the_change_of_a_power_law(exponent: float) -> None:
    assert _judged(_power_law(exponent)).change == pytest.approx(100 * (2**exponent - 1))


@pytest.mark.parametrize(
    ("end", "late", "outcome"),
    [
        (0.05, 1.0, "collapsed"),
        (0.05, 0.5, "collapsed"),
        (0.05, 1.09, "collapsed"),
        (0.05, 1.2, "not collapsed"),  # it turned
        (0.1, 1.0, "not collapsed"),  # the threshold is not reached by equality
        (math.nextafter(0.1, 0), 1.0, "collapsed"),
        (0.5, 0.5, "not collapsed"),  # not yet
        (0.0, 1.0, "collapsed"),
    ],
)
def test_collapse_is_small_and_does_not_rise(end: float, late: float, outcome: str) -> None:
    values = np.full(len(STEPS), end / late)
    values[-1] = end
    assert _judged(values).outcome == outcome


def test_the_sentence() -> None:
    degree = _judged(_power_law(-0.5))
    assert degree.value == pytest.approx(1 / 64)
    assert degree.sentence == (
        "train collapse (definition 1): collapsed at step 4096, where train variance is 0.0156 (threshold 0.1), -29 % over "
        "the second half of the steps"
    )
    assert _judged(_power_law(-0.5), threshold=0.01).outcome == "not collapsed"


def test_few_steps_tell_no_trend() -> None:
    degree = _judged(np.array([0.001]))
    assert (degree.change, degree.outcome) == (None, "collapsed")
    assert degree.sentence.endswith("too few measurements to determine a trend")


def test_values_missing_on_the_way_are_left_out() -> None:
    values = _power_law(-1.0)
    values[9] = np.nan
    assert _judged(values).change == pytest.approx(-50)
    values[-1] = np.nan
    degree = _judged(values)
    assert (degree.outcome, degree.value, degree.change) == ("undefined", None, None)
    assert "the train class means coincide" in degree.sentence


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_points_of_a_simplex_are_2k_over_k_minus_1_apart(offset: float) -> None:
    degree = _judged(_power_law(-1.0), Reference(torch.eye(4, dtype=torch.float64) + offset))
    assert degree.separation == pytest.approx(8 / 3, rel=1e-9)
    assert degree.outcome == "collapsed"


@pytest.mark.parametrize(
    ("distance", "outcome"), [(0.0, "undefined"), (0.1, "undefined"), (0.8, "collapsed")]
)
def test_points_that_coincide_are_no_collapse(distance: float, outcome: str) -> None:
    centres = torch.eye(4, dtype=torch.float64)
    centres[3] = centres[2]
    centres[3, 0] += distance
    degree = _judged(_power_law(-1.0), Reference(centres))
    assert degree.outcome == outcome
    assert degree.value == pytest.approx(1 / 4096)
    assert ("points are not distinct" in degree.sentence) == (outcome == "undefined")


def test_all_points_coincide() -> None:
    degree = _judged(_power_law(-1.0), Reference(torch.ones(3, 2).double()))
    assert (degree.separation, degree.outcome) == (0.0, "undefined")


def test_input_that_is_none() -> None:
    with pytest.raises(InputError, match="threshold is 1"):
        _judged(_power_law(0), threshold=1.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        _judged(_power_law(0), Reference(torch.full((3, 2), math.nan)))
