"""k-means of test features: weak test variance, trimmed or not, and the size of the smallest cluster."""

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
from collapselab.features.measure import measure_sources
from collapselab.features.sources import ArraySource
from collapselab.metrics import kmeans
from collapselab.metrics.generalization import squared_distances_to_nearest
from collapselab.metrics.kmeans import KMeansCentres, fit_kmeans
from collapselab.numerics import thread_pools
from helpers import assert_close
from oracles import Oracle, weak_variance


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
    reference = fit_kmeans(torch.as_tensor(final), 3)
    assert reference is not None
    value = float(squared_distances_to_nearest(torch.as_tensor(now), reference).mean()) / reference.spread
    assert_close(value, weak_variance(final, now, 3), rel=1e-9, why="float64 k-means to a fixed point")


def test_centres_do_not_depend_on_chance() -> None:
    rows = torch.as_tensor(random_case([30, 40, 35], 5).features)
    first, second = fit_kmeans(rows, 6), fit_kmeans(rows, 6)
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
    thread_pools.cache_clear()  # other tests may have loaded other pools since
    with threadpool_limits(2):
        fit_kmeans(torch.as_tensor(random_case([30, 40, 35], 5).features), 6)
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
    monkeypatch.setattr(kmeans, "MAX_ROWS", 60)
    case = random_case([30, 40, 35], 5, spread=0.01)
    result = measure(
        case.features, case.labels, test=(case.features, case.labels), metrics=["weak_test_variance"]
    )
    assert any("seeded sample of" in warning for warning in result.warnings)
    full = weak_variance(case.features, case.features, 3)
    assert_close(result["weak_test_variance"], full, rel=0.2, why="centres of 60 of 105 samples")


def clusters(counts: list[int], dim: int, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    """Float64 rows of clusters of these sizes, far apart, shuffled."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = 3 * rng.standard_normal((len(counts), dim))[labels] + noise * rng.standard_normal(
        (len(labels), dim)
    )
    return rows[rng.permutation(len(rows))]


def test_sizes_of_clusters() -> None:
    centres = fit_kmeans(torch.as_tensor(clusters([40, 10, 25], 6)), 3)
    assert centres is not None
    assert sorted(centres.sizes.tolist()) == [10, 25, 40]
    assert centres.smallest_cluster == pytest.approx(10 * 3 / 75)


def one_outlier() -> tuple[np.ndarray, np.ndarray]:
    """Three classes of 333 samples with one sample a thousand times farther out: it owns a centre."""
    labels = np.arange(999) % 3
    rows = clusters([1, 1, 1], 5, noise=0.0)[labels] + 0.3 * np.random.default_rng(2).standard_normal(
        (999, 5)
    )
    rows[17] *= 1000
    return rows, labels


def test_an_outlier_that_owns_a_centre_is_trimmed() -> None:
    rows, labels = one_outlier()
    names = ["weak_test_variance", "weak_test_variance_trimmed", "smallest_cluster"]
    found = measure(rows, labels, test=(rows, labels), metrics=names).splits["test"]
    without = np.delete(rows, 17, axis=0)
    expected = weak_variance(without, without, 3)
    assert_close(found["weak_test_variance_trimmed"], expected, rel=1e-9, why="the same rows, float64")
    assert_close(found["smallest_cluster"], 3 / 999, rel=1e-12, why="the outlier is alone")
    assert found["weak_test_variance"] is not None
    assert found["weak_test_variance"] < expected / 1000


def test_trimming_leaves_out_a_thousandth_rounded_up() -> None:
    rows = torch.as_tensor(clusters([700, 800, 900], 4))
    distances = (rows - rows.mean(0)).square().sum(1).sort().values
    centres = fit_kmeans(rows, 3, trimmed=True)
    assert centres is not None
    assert int(centres.sizes.sum()) == len(rows) - 3
    assert len(centres.squared_distances(rows)) == len(rows) - 3
    assert centres.max_distance2 == pytest.approx(float(distances[-4]), rel=1e-12)


@pytest.fixture
def few_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "MAX_EXACT_DISTANCES", 0)


@pytest.mark.usefixtures("few_restarts")
@pytest.mark.parametrize("offset", [0.0, 1000.0], ids="offset{}".format)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_beyond_the_budget_separate_clusters_are_found(offset: float, dtype: torch.dtype) -> None:
    """One row in four of the sample seeds a centre: with clusters this far apart each gets one."""
    rows = torch.as_tensor(clusters([30] * 12, 8) + offset).to(dtype)
    centres = fit_kmeans(rows, 12)
    assert isinstance(centres, KMeansCentres)
    assert centres.sizes.tolist() == [30] * 12
    double = rows.double().numpy()
    assert_close(
        centres.variance(rows),
        weak_variance(double, double, 12),
        rel=1e-6,
        why="float32 decides who is nearest",
    )


@pytest.mark.usefixtures("few_restarts")
def test_beyond_the_budget_inertia_is_close_to_ten_restarts() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 6))
    centres = fit_kmeans(torch.as_tensor(rows), 20)
    assert centres is not None
    inertia = float(centres.squared_distances(torch.as_tensor(rows)).sum())
    again = [KMeans(20, n_init=1, tol=0, random_state=seed).fit(rows).inertia_ for seed in range(10)]  # pyright: ignore[reportArgumentType] the stub reads only the string default
    best = min(float(value) for value in again if value is not None)
    assert best * 0.99 < inertia < best * 1.03


@pytest.mark.usefixtures("few_restarts")
def test_beyond_the_budget_no_centre_is_left_without_rows() -> None:
    """k-means++ draws among 4 k rows, most of which are the same point: centres without rows move to others."""
    rows = np.concatenate([np.zeros((400, 3)), np.random.default_rng(0).standard_normal((12, 3))])
    centres = fit_kmeans(torch.as_tensor(rows), 10)
    assert centres is not None
    assert int(centres.sizes.min()) > 0


@pytest.mark.usefixtures("few_restarts")
def test_beyond_the_budget_it_says_so_and_how_far_it_is() -> None:
    case = random_case([30, 40, 35], 5, spread=0.01)
    seen: list[tuple[str, int, int]] = []
    train, test = (ArraySource(case.features, case.labels) for _ in range(2))
    result = measure_sources(
        train, test, metrics=["weak_test_variance"], progress=lambda *what: seen.append(what)
    )
    assert any("k-means of 3 centres is approximate: 3 restarts" in text for text in result.warnings)
    assert [done for what, done, _ in seen if what == "test: k-means"][:4] == [0, 35, 70, 105]
