"""Weak test variance: k-means of the test features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from families import random_case
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from collapselab import measure
from collapselab.metrics import generalization
from collapselab.metrics.generalization import Reference, fit_weak_reference, squared_distances_to_nearest
from helpers import assert_close
from oracles import Oracle, spread, weak_variance


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids="offset{}".format)
def test_weak_test_variance_against_k_means(offset: float) -> None:
    train, test = (random_case([30, 40, 35], 5, seed=0, spread=0.2) for _ in range(2))
    rows = test.features + offset
    result = measure(
        train.features + offset, train.labels, test=(rows, test.labels), metrics=["weak_test_variance"]
    )
    expected = weak_variance(rows, rows, 3)
    assert_close(
        result["weak_test_variance"], expected, rel=1e-9, why="separate clusters have one best partition"
    )


def test_weak_variance_over_a_final_reference() -> None:
    now, final = (random_case([30, 40, 35], 5, seed=seed, spread=0.2).features for seed in (0, 1))
    reference = fit_weak_reference(torch.as_tensor(final), 3)
    assert reference is not None
    value = float(squared_distances_to_nearest(torch.as_tensor(now), reference).mean()) / reference.spread
    assert_close(value, weak_variance(final, now, 3), rel=1e-9, why="float64 k-means to a fixed point")


def test_centres_do_not_depend_on_chance() -> None:
    rows = torch.as_tensor(random_case([30, 40, 35], 5).features)
    first, second = fit_weak_reference(rows, 6), fit_weak_reference(rows, 6)
    assert first is not None
    assert second is not None
    assert torch.equal(first.centres, second.centres)


def test_k_means_adds_up_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several would add in the order in which they get there, and centres would differ in their last digits by call."""
    threads: list[int] = []
    real = KMeans.fit

    def fit(self: KMeans, *arguments: Any) -> KMeans:
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return real(self, *arguments)

    monkeypatch.setattr(KMeans, "fit", fit)
    with threadpool_limits(2):
        fit_weak_reference(torch.as_tensor(random_case([30, 40, 35], 5).features), 6)
    assert set(threads) == {1}


def test_collapsed_far_from_the_origin() -> None:
    """Distances by differences: the expanded square would round by more than the whole spread."""
    labels = np.arange(300) % 3
    rng = np.random.default_rng(0)
    rows = 1000 + rng.standard_normal((3, 8))[labels] + 1e-3 * rng.standard_normal((300, 8))
    features = torch.as_tensor(rows).float()
    result = measure(
        features, labels, test=(features, labels), metrics=["weak_test_variance", "strong_test_variance"]
    )
    oracle = Oracle(features.double().numpy(), labels)
    assert_close(
        result["strong_test_variance"], oracle.strong_test_variance(), rel=1e-6, why="traces are that good"
    )
    assert_close(
        result["weak_test_variance"], result["strong_test_variance"], rel=1e-6, why="clusters are classes"
    )


def test_fewer_distinct_samples_than_classes() -> None:
    labels = np.arange(30) % 3
    case = random_case([10, 10, 10], 4)
    test = np.eye(2, 4)[(np.arange(30) % 2)]
    result = measure(case.features, case.labels, test=(test, labels), metrics=["weak_test_variance"])
    assert result["weak_test_variance"] is None
    assert result.warnings == (
        "test: weak_test_variance is undefined: fewer than 3 distinct samples for k-means",
    )


def test_as_many_distinct_samples_as_classes() -> None:
    labels = np.arange(30) % 3
    points = np.eye(3, 4)[labels]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = measure(points, labels, test=(points, labels), metrics=["weak_test_variance"])
    assert result["weak_test_variance"] == pytest.approx(0, abs=1e-28)


def test_k_is_the_number_of_training_classes() -> None:
    train = random_case([30, 40, 35], 5, spread=0.2)
    keep = train.labels != 2
    rows = train.features[keep]
    result = measure(
        train.features, train.labels, test=(rows, train.labels[keep]), metrics=["weak_test_variance"]
    )
    assert_close(
        result["weak_test_variance"],
        weak_variance(rows, rows, 3),
        rel=0.05,
        why="k-means may find another optimum",
    )


def test_many_rows_are_sampled_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generalization, "MAX_KMEANS_ROWS", 60)
    case = random_case([30, 40, 35], 5, spread=0.01)
    result = measure(
        case.features, case.labels, test=(case.features, case.labels), metrics=["weak_test_variance"]
    )
    assert any("seeded sample of" in warning for warning in result.warnings)
    full = weak_variance(case.features, case.features, 3)
    assert_close(result["weak_test_variance"], full, rel=0.2, why="centres of 60 of 105 samples")


def test_spread_of_a_reference() -> None:
    centres = random_case([1, 1, 1, 1], 6).features
    assert_close(
        Reference(torch.as_tensor(centres)).spread, spread(centres), rel=1e-14, why="a sum of 24 squares"
    )
