"""Error rates of the rule over seeds, simulated: a claim rarely holds by chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from judged_rows import judge, runs

from collapselab.experiments.claims.judges import at_end
from collapselab.inference import holm, rank_correlation, student_interval, t_test

ABOVE_0 = at_end("x", "It is above 0.", above=(0.0, -1.0, 1.0), scale="difference")


def false_holds(effects: np.ndarray, threshold: float = 0.0) -> float:
    """Share of draws (seeds along the last axis) in which a claim holds, by the rule."""
    return float((student_interval(effects)[1] > threshold).mean())


@pytest.mark.parametrize("points", [4, 5, 6, 10])
@pytest.mark.parametrize("values", [None, 3], ids=["orders", "ties"])
def test_correlates_rarely_holds_where_nothing_correlates(points: int, values: int | None) -> None:
    """Few points have few orders: seeds often agree by chance, without spread."""
    generator = np.random.default_rng(0)
    places = [float(place) for place in range(points)]
    if points < 6:
        orders = list(
            itertools.product(places[:values], repeat=points) if values else itertools.permutations(places)
        )
    else:
        orders = [
            generator.integers(values, size=points) if values else generator.permutation(points)
            for _ in range(600)
        ]
    found = np.array([rank_correlation(places, [float(value) for value in order]) for order in orders])
    scores = np.arctanh(found[np.isfinite(found)].clip(1 / points - 1, 1 - 1 / points))
    for seeds in (3, 5, 10):
        assert false_holds(generator.choice(scores, size=(40_000, seeds))) <= 0.05


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.02, 0.2, 1.0])
def test_ratios_rarely_hold_at_their_threshold(seeds: int, spread: float) -> None:
    """Variances that differ by a lognormal factor: gap, agrees (twice-sided), ordered (the least of three ratios)."""
    generator = np.random.default_rng(0)
    logs = generator.normal(0.0, spread, size=(20_000, seeds))
    assert false_holds(0.5 + logs, 0.5) <= 0.03
    apart = -np.abs(math.log10(3) + logs)
    assert false_holds(apart, -math.log10(3)) <= 0.03
    others = 1.0 + generator.normal(0.0, spread, size=(2, 20_000, seeds))
    assert false_holds(np.minimum(logs, others.min(0))) <= 0.03


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("level", [0.0, 2.0])
def test_small_and_not_rising_rarely_holds_where_one_of_them_is_at_its_threshold(
    seeds: int, spread: float, level: float
) -> None:
    """It takes both intervals; one is at its threshold, the other far from it or at its own."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.0, spread, size=(2, 20_000, seeds))
    both = (student_interval(level + a)[1] > 0) & (student_interval(b)[1] > 0)
    assert float(both.mean()) <= 0.03


# ---------------------------------------------------------------- whole claims


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.01, 0.3])
def test_a_claim_at_its_threshold_rarely_holds_or_fails(seeds: int, spread: float) -> None:
    """By the interval that `judge_claims` goes by, which is seen on some of the draws."""
    effects = np.random.default_rng(0).normal(0.0, spread, size=(40_000, seeds))
    _, low, high = student_interval(effects)
    assert float((low > 0).mean()) == pytest.approx(0.025, abs=0.003)
    assert float((high < 0).mean()) == pytest.approx(0.025, abs=0.003)
    some = [*range(10), *np.flatnonzero(low > 0)[:5], *np.flatnonzero(high < 0)[:5]]
    for place in some:
        expected = "holds" if low[place] > 0 else "fails" if high[place] < 0 else "inconclusive"
        assert judge(ABOVE_0, runs(list(effects[place]))).verdict == expected


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_claim_over_settings_rarely_holds_at_its_threshold(seeds: int) -> None:
    """In each setting, with one at its threshold; anywhere, with all at theirs, by corrected p-values."""
    effects = np.random.default_rng(0).normal(size=(400, 4, seeds))
    _, low, _ = student_interval(effects)
    assert float((low[:, 0] > 0).mean()) <= 0.035
    anywhere = []
    for own, lows in zip(effects, low, strict=True):
        p_values = holm([t_test(list(row), 0.0) or 0.0 for row in own])
        anywhere.append(any(p < 0.05 and one > 0 for p, one in zip(p_values, lows, strict=True)))
    assert np.mean(anywhere) <= 0.05
