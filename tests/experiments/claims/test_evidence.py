"""Judging over seeds, against SciPy and against counting by hand."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from random import Random

import numpy as np
import pytest
from collapselab.experiments.claims.evidence import (
    all_hold,
    bootstrap_interval,
    correlated,
    over_seeds,
    permutation_p,
    rank_correlation,
    sign_test,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from collapselab.experiments.claims.claim import Verdict

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


def test_the_evidence_says_how_much_few_seeds_are_worth() -> None:
    one, two, three = (over_seeds(dict.fromkeys(range(n), 1.0), 0.0, "x").evidence for n in (1, 2, 3))
    assert [evidence["seeds"] for evidence in (one, two, three)] == [1, 2, 3]
    assert "probability 0.5" in one["note"]
    assert "probability 0.25" in two["note"]
    assert "note" not in three
    assert three["sign test p"] == 0.25


def test_seeds_at_the_threshold_have_no_sign_and_are_counted() -> None:
    verdict = over_seeds({0: 0.0, 1: -1.0, 2: 0.0}, 0.0, "x")
    assert verdict.outcome == "fails"
    assert verdict.evidence["seeds at the threshold, without a sign"] == 2


@given(st.lists(st.one_of(st.floats(), st.none()), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_neither_order_nor_number_of_seeds_matters(effects: list[float | None], random: Random) -> None:
    straight = over_seeds(dict(enumerate(effects)), 0.0, "x")
    json.dumps(straight.evidence, allow_nan=False)
    random.shuffle(effects)
    other = over_seeds(dict(reversed(list(enumerate(effects, start=10)))), 0.0, "x")
    assert other.outcome == straight.outcome
    for name in ("seeds", "95 % interval", "sign test p"):
        assert other.evidence.get(name) == straight.evidence.get(name)


def test_several_settings_hold_together() -> None:
    holds, fails, open_ = (Verdict(outcome, {}) for outcome in ("holds", "fails", "inconclusive"))
    assert all_hold({"a": holds, "b": holds}).outcome == "holds"
    assert all_hold({"a": holds, "b": open_}).outcome == "inconclusive"
    assert all_hold({"a": fails, "b": open_}).outcome == "fails"
    assert all_hold({}).outcome == "inconclusive"


@pytest.mark.parametrize("values", [[0.3, 1.0, 2.5], [2.0, 2.0, -1.0, 0.5], [5.0, 4.0, 1.0, 0.0, -3.0]])
def test_the_interval_is_that_of_every_resample(values: list[float]) -> None:
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))]
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


@pytest.mark.parametrize(
    "groups",
    [
        [([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0])],
        [([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 3.0])],
        [([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]), ([1.0, 2.0, 3.0, 3.0], [0.0, 1.0, 1.0, 5.0])],
    ],
    ids=["one seed", "ties", "two seeds"],
)
def test_the_permutation_p_value_is_that_of_all_orders(groups: list[tuple[list[float], list[float]]]) -> None:
    def total(ys: Iterable[Sequence[float]]) -> float:
        return sum(float(stats.spearmanr(x, y)[0]) for (x, _), y in zip(groups, ys, strict=True))  # pyright: ignore[reportArgumentType] SciPy's types do not say

    observed = total([y for _, y in groups])
    all_orders = [total(ys) for ys in itertools.product(*(itertools.permutations(y) for _, y in groups))]
    exact = float(np.mean([value >= observed - 1e-9 for value in all_orders]))
    assert permutation_p(groups) == pytest.approx(exact, abs=1e-12)


def test_where_there_are_too_many_orders_they_are_drawn() -> None:
    x = [float(value) for value in range(9)]
    y = [1.0, 0.0, 3.0, 2.0, 5.0, 8.0, 4.0, 7.0, 6.0]
    observed = float(np.dot(x, y))  # of numbers from 0 to 8, the product alone tells their rank correlation
    exact = float((np.array(list(itertools.permutations(y))) @ np.array(x) >= observed - 1e-9).mean())
    found = permutation_p([(x, y)])
    # 20,000 draws: a standard error of 0.0007.
    assert found == pytest.approx(exact, abs=0.003)
    assert found != exact
    assert permutation_p([(x, [1.0] * 9)]) is None


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
    assert up.evidence["permutation p"] == pytest.approx(1 / 36, abs=1e-12)
    missing = correlated({0: ([1.0, 2.0, 3.0], [1.0, 2.0, math.nan])}, "more", lambda rho: rho)
    assert missing.outcome == "inconclusive"
