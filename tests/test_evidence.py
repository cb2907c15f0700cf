"""Judging over seeds, against SciPy and against counting by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from collapselab.claims import Verdict
from collapselab.evidence import (
    all_hold,
    bootstrap_interval,
    correlated,
    over_seeds,
    permutation_p,
    rank_correlation,
    sign_test,
)

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=3, max_size=9)


@pytest.mark.parametrize(
    ("effects", "outcome"),
    [
        ({0: 0.2}, "holds"),
        ({0: 0.2, 1: 0.3, 2: 0.11}, "holds"),
        ({0: 0.2, 1: 0.05}, "inconclusive"),
        ({0: 0.1, 1: 0.05}, "fails"),
        ({0: 0.2, 1: None}, "inconclusive"),
        ({0: 0.2, 1: math.nan}, "inconclusive"),
        ({}, "inconclusive"),
    ],
    ids=["one seed", "all above", "seeds disagree", "none above", "missing", "not a number", "no seeds"],
)
def test_a_claim_holds_where_every_seed_says_so(effects: dict[int, float | None], outcome: str) -> None:
    verdict = over_seeds(effects, 0.1, "what is measured")
    assert verdict.outcome == outcome
    assert len(verdict.evidence["by seed"]) == len(effects)
    if outcome == "inconclusive" and None in verdict.evidence["by seed"].values():
        assert verdict.evidence["seeds without an effect"] == [1]


def test_several_settings_hold_together() -> None:
    holds, fails, open_ = (Verdict(outcome, {}) for outcome in ("holds", "fails", "inconclusive"))
    assert all_hold({"a": holds, "b": holds}).outcome == "holds"
    assert all_hold({"a": holds, "b": open_}).outcome == "inconclusive"
    assert all_hold({"a": fails, "b": open_}).outcome == "fails"
    assert all_hold({}).outcome == "inconclusive"


def test_the_interval_is_that_of_every_resample() -> None:
    values = [0.3, 1.0, 2.5]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=3)]
    assert bootstrap_interval(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_the_interval_of_many_values_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval(values.tolist())
    half = 1.96 * values.std() / math.sqrt(200)
    # 20,000 resamples: the quantiles are good to a few percent of the width.
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize("signs", [[1, 1, 1], [1, -1], [1, 1, 1, 1, 1, 1, -1], [-1] * 6])
def test_the_sign_test_is_a_binomial_one(signs: list[int]) -> None:
    expected = stats.binomtest(signs.count(1), len(signs)).pvalue
    assert sign_test([float(sign) for sign in signs]) == pytest.approx(expected)
    assert sign_test([0.0, *map(float, signs)]) == pytest.approx(expected)


def test_no_differences_have_no_sign() -> None:
    assert sign_test([0.0, 0.0]) is None


@given(VALUES, st.randoms(use_true_random=False))
def test_rank_correlation_is_spearmans(x: list[float], random: object) -> None:
    y = [value * 0.5 + (index % 3) for index, value in enumerate(x)]
    found = rank_correlation(x, y)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(float(np.asarray(stats.spearmanr(x, y))[0]), abs=1e-12)


@given(VALUES)
def test_growing_functions_change_no_rank_correlation(x: list[float]) -> None:
    y = [float(index) for index in range(len(x))]
    assert rank_correlation(x, y) == rank_correlation([math.exp(value) for value in x], y)


def test_the_permutation_p_value_is_that_of_all_orders() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    observed = rank_correlation(x, y)
    assert observed is not None
    all_orders = [rank_correlation(x, order) or 0.0 for order in itertools.permutations(y)]
    exact = np.mean([value >= observed - 1e-9 for value in all_orders])
    # 20,000 draws: a standard error of 0.003.
    assert permutation_p([(x, y)]) == pytest.approx(exact, abs=0.01)
    assert permutation_p([(x, [1.0] * 4)]) is None


def test_correlated_needs_three_different_values() -> None:
    verdict = correlated({0: ([1.0, 2.0, 2.0], [1.0, 2.0, 3.0])}, "more", lambda rho: rho)
    assert verdict.outcome == "inconclusive"
    up = correlated(
        {0: ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), 1: ([1.0, 2.0, 3.0], [1.0, 3.0, 4.0])},
        "more",
        lambda rho: rho,
    )
    down = correlated(
        {0: ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), 1: ([1.0, 2.0, 3.0], [1.0, 3.0, 4.0])},
        "less",
        lambda rho: -rho,
    )
    assert (up.outcome, down.outcome) == ("holds", "fails")
    assert up.evidence["permutation p"] == pytest.approx(1 / 36, abs=0.005)
    missing = correlated({0: ([1.0, 2.0, 3.0], [1.0, 2.0, math.nan])}, "more", lambda rho: rho)
    assert missing.outcome == "inconclusive"
