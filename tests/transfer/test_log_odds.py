"""Mean log odds: the tables of Xu and Liu (2023), and what is refused."""

import math
from typing import Any

import numpy as np
import pytest

from collapselab import InputError
from collapselab.transfer import mean_log_odds, mean_log_odds_gain

TASKS = ("Pets", "Flowers", "Aircraft", "Cars", "DTD", "Cifar10", "Food101", "Cifar100", "Caltech", "SUN397")
# Xu and Liu (2023), appendix C, table 1: accuracies in percent, then MLO; table 2: pretraining accuracy, then MLOG.
TABLES = [
    ([90.8, 95.03, 58.85, 64.73, 74.47, 93.1, 75.45, 77.14, 84.9, 62.44], 1.445, 75.4, 0.3250),
    ([91.52, 95.25, 57.5, 64.1, 74.41, 92.89, 75.41, 77.65, 85.58, 63.28], 1.459, 76.64, 0.2704),
    ([91.64, 94.66, 57.67, 64.42, 74.63, 92.58, 74.97, 77.1, 85.59, 63.3], 1.441, 77.53, 0.2029),
    ([91.74, 94.14, 57.54, 61.56, 76.22, 92.42, 74.86, 76.6, 85.2, 63.51], 1.421, 77.72, 0.1711),
    ([92.35, 93.52, 55.64, 61.6, 75.37, 92.37, 74.2, 76.07, 84.49, 62.74], 1.39, 77.83, 0.1343),
    ([91.7, 93.68, 55.37, 60.14, 73.99, 91.9, 74.42, 75.96, 85.82, 62.98], 1.375, 77.88, 0.1161),
    ([90.86, 92.01, 51.07, 55.14, 74.36, 91.79, 72.9, 75.44, 85.19, 62.01], 1.282, 77.52, 0.0440),
    ([90.87, 90.79, 47.81, 50.44, 76.01, 91.89, 72.19, 75.31, 82.97, 60.98], 1.22, 77.31, -0.0063),
    ([90.51, 90.03, 45.12, 50.52, 74.41, 91.63, 71.84, 74.64, 82.63, 60.38], 1.174, 77.29, -0.0507),
    ([89.33, 86.54, 44.52, 46.87, 73.14, 91.64, 71.19, 74.13, 81.23, 58.55], 1.08, 77.46, -0.1539),
    ([89.92, 83.6, 43.39, 43.55, 72.5, 91.43, 70.29, 73.76, 78.25, 56.9], 1.008, 77.65, -0.2375),
]  # fmt: skip
HALF_A_DIGIT = 0.005 / 100  # accuracies are printed with two decimals of a percent


def rounding(accuracies: Any) -> float:
    """How far the mean log odds of accuracies that were rounded can be off, to first order."""
    values = np.asarray(accuracies)
    return float((HALF_A_DIGIT / (values * (1 - values))).mean())


@pytest.mark.parametrize(("percent", "mlo", "pretrain", "gain"), TABLES)
def test_every_row_of_the_tables_of_xu_and_liu(
    percent: list[float], mlo: float, pretrain: float, gain: float
) -> None:
    accuracies = {task: value / 100 for task, value in zip(TASKS, percent, strict=True)}
    errors = rounding(list(accuracies.values()))
    assert abs(mean_log_odds(accuracies) - mlo) <= errors + 0.5e-3  # three decimals are printed
    found = mean_log_odds_gain(accuracies, pretrain / 100)
    assert abs(found - gain) <= errors + rounding(pretrain / 100) + 0.5e-4  # four decimals


def test_a_sequence_is_as_good_as_names() -> None:
    accuracies = {"a": 0.2, "b": 0.9}
    assert mean_log_odds([0.2, 0.9]) == mean_log_odds(accuracies)
    assert mean_log_odds(tuple(accuracies.values())) == pytest.approx((math.log(0.25) + math.log(9)) / 2)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_clipping_is_to_half_a_sample(edge: float) -> None:
    sign = 1 if edge else -1
    assert mean_log_odds([edge], num_samples=100) == pytest.approx(sign * math.log(199))
    assert mean_log_odds({"a": edge, "b": 0.5}, num_samples={"a": 10, "b": 7}) == pytest.approx(
        sign * math.log(19) / 2
    )
    assert mean_log_odds([0.5, edge], num_samples=[3, 10]) == pytest.approx(sign * math.log(19) / 2)


def test_numbers_of_numpy_are_numbers() -> None:
    for size in (np.int64(100), np.float32(100), np.array([100, 100])):
        assert mean_log_odds(np.array([1.0, 0.5]), num_samples=size) == pytest.approx(math.log(199) / 2)


def test_clipping_leaves_other_accuracies_alone() -> None:
    assert mean_log_odds([0.3], num_samples=1000) == mean_log_odds([0.3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mean_log_odds({"pets": 0.5, "cars": 1.0}),
            "accuracy of cars is 1.0, whose log odds are infinite",
        ),
        (lambda: mean_log_odds([0.5, 0.0]), "accuracy of task 1 is 0.0.*num_samples="),
        (
            lambda: mean_log_odds({"pets": 90.8}),
            "accuracy of pets is 90.8; give a fraction, not a percentage",
        ),
        (lambda: mean_log_odds([-0.1]), "task 0 is -0.1; give a fraction between 0 and 1"),
        (lambda: mean_log_odds([math.nan]), "task 0 is nan"),
        (lambda: mean_log_odds({}), "accuracies are empty"),
        (lambda: mean_log_odds([0.5, 1.0], num_samples=[10]), "num_samples lacks task 1"),
        (
            lambda: mean_log_odds([0.5], num_samples=[10, 20]),
            "num_samples has 2 numbers, accuracies 1; give one for each",
        ),
        (lambda: mean_log_odds([1.0], num_samples=0), "num_samples of task 0 is 0; give a number from 1"),
        (lambda: mean_log_odds_gain([0.5], 1.0), "accuracy of the pretraining task is 1.0"),
        (lambda: mean_log_odds_gain([0.5], 75), "pretraining task is 75; give a fraction, not a percentage"),
    ],
)
def test_wrong_accuracies_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
