"""Means over seeds and their bounds, on values with known answers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from collapselab.inference import over_seeds, paired_difference_interval, share_interval, smallest_trials


def _points(values: list[float], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"x": 1.0, "y": values, "seed": range(len(values))}).assign(**columns)


def test_what_is_undefined_is_left_out() -> None:
    table = pd.DataFrame(
        {"x": [1, 1, 1, 2, 2], "y": [1, 4, math.nan, math.nan, math.nan], "seed": [0, 1, 2, 0, 1]}
    )
    means = over_seeds(table, False, True)
    assert means["y"].tolist() == [2.0, pytest.approx(math.nan, nan_ok=True)]
    assert means["seeds"].tolist() == [2, 0]
    assert over_seeds(table, False, False)["y"][0] == 2.5


def test_a_geometric_mean_with_a_zero_is_zero_and_has_no_interval() -> None:
    row = over_seeds(_points([0.0, 1, 1, 1, 1]), False, True).iloc[0]
    assert row["y"] == 0
    assert math.isnan(row["low"])


def test_from_five_seeds_on_there_is_a_student_interval() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    low, high = stats.t.interval(0.95, 4, loc=3.0, scale=stats.sem(values))
    row = over_seeds(_points(values), False, False).iloc[0]
    assert (row["y"], row["low"], row["high"]) == pytest.approx((3.0, low, high))
    logs = over_seeds(_points(np.exp(values).tolist()), False, True).iloc[0]
    assert np.log([logs["y"], logs["low"], logs["high"]]) == pytest.approx([3.0, low, high])
    assert math.isnan(over_seeds(_points(values[:4]), False, False).iloc[0]["low"])


def test_the_mean_of_equal_values_is_that_value() -> None:
    assert over_seeds(_points([0.1] * 7), False, True).iloc[0]["y"] == 0.1


def test_hollow_points_count_only_where_a_group_has_no_others() -> None:
    table = _points([1.0, 3.0, 100.0], hollow=[False, False, True])
    assert over_seeds(table, False, False).iloc[0][["y", "hollow"]].tolist() == [2.0, False]
    alone = _points([1.0, 3.0], hollow=[True, True])
    assert over_seeds(alone, False, False).iloc[0][["y", "hollow"]].tolist() == [2.0, True]


def test_groups_have_means_along_both_axes() -> None:
    table = pd.DataFrame(
        {"x": [1.0, 4.0, 10.0], "y": [1.0, 3.0, 5.0], "group": [7, 7, 9], "point": ["a", "a", "b"]}
    )
    means = over_seeds(table, True, False)
    assert means[["x", "y", "point"]].to_numpy().tolist() == [[2.0, 2.0, "a"], [10.0, 5.0, "b"]]


def test_given_bounds_are_kept() -> None:
    row = over_seeds(_points([3.0], low=2.0, high=4.0), False, False).iloc[0]
    assert (row["low"], row["high"]) == (2.0, 4.0)


def test_a_share_has_the_interval_of_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(1.0, 100)[0] == pytest.approx(0.963, abs=1e-3)
    assert all(map(math.isnan, share_interval(0.5, math.nan)))
    row = over_seeds(_points([0.8, 0.9], trials=100), False, False).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(share_interval(0.85, 100))


@pytest.mark.parametrize(
    ("shares", "trials"),
    [([0.88, 0.87, 0.9], 100), ([0.5, 0.75], 4), ([1.0], 1), ([0.9235, 0.5], 2000), ([math.nan, 0.5], 2)],
)
def test_the_number_of_trials_shows_in_the_shares(shares: list[float], trials: int) -> None:
    assert smallest_trials(shares) == trials


def test_shares_of_no_number_have_no_trials() -> None:
    assert math.isnan(smallest_trials([math.pi / 4], most=1000))
    assert math.isnan(smallest_trials([]))


@pytest.mark.parametrize(("lost", "gained"), [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1), (0.0, 0.0), (0.01, 0.0)])
def test_intervals_of_paired_differences_cover_the_true_difference(lost: float, gained: float) -> None:
    """By summing over every outcome of 100 trials; a nominal 95 % interval may miss by a little more than that."""
    trials, covered = 100, 0.0
    counts = ((a, b) for a in range(trials + 1) for b in range(trials + 1 - a))
    for a, b in counts:
        chance = stats.multinomial.pmf([a, b, trials - a - b], trials, [lost, gained, 1 - lost - gained])
        if chance > 1e-12:
            low, high = paired_difference_interval(a, b, trials)
            covered += float(chance) * (low <= lost - gained <= high)
    assert 0.94 < covered <= 1 + 1e-9


def test_paired_differences_are_known_only_with_all_counts() -> None:
    assert all(map(math.isnan, paired_difference_interval(math.nan, 1, 100)))
    low, high = paired_difference_interval(30, 10, 1800)
    assert low < 20 / 1800 < high
    assert paired_difference_interval(10, 30, 1800) == (-high, -low)
