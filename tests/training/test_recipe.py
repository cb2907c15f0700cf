"""Recipes: when they measure, how the learning rate falls, what they refuse."""

import itertools

import pytest
from pydantic import ValidationError

from collapselab.training import Recipe


def test_measured_steps_are_log_spaced_from_zero_to_the_last() -> None:
    steps = Recipe(steps=4000, num_measurements=24).measured_steps()
    assert steps[0] == 0
    assert steps[-1] == 4000
    assert steps == sorted(set(steps))
    ratios = [b / a for a, b in itertools.pairwise(steps[10:])]
    # 24 points over log(4000): neighbours differ by the factor 4000^(1/23), up to rounding to whole steps.
    assert max(ratios) / min(ratios) < 1.1
    assert ratios[-1] == pytest.approx(4000 ** (1 / 23), rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_short_runs_measure_no_step_twice(steps: int) -> None:
    measured = Recipe(steps=steps).measured_steps()
    assert len(measured) == len(set(measured))
    assert measured[-1] == steps


def test_learning_rate_falls_as_a_cosine() -> None:
    recipe = Recipe(steps=100, learning_rate=0.4)
    assert recipe.learning_rate_at(0) == 0.4
    assert recipe.learning_rate_at(50) == pytest.approx(0.2)
    assert recipe.learning_rate_at(100) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"momentum": 1.0}, {"epsilon": 0.0}, {"learning_rate": -1.0}, {"layers": 3}]
)
def test_values_out_of_range_and_unknown_names_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)
