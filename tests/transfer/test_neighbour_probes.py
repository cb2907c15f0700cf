"""k nearest neighbours and nearest class mean: against scikit-learn and by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from collapselab import InputError, measure
from collapselab.transfer import knn_probe, nearest_mean_probe
from collapselab.transfer.samples import Samples, hold_out

C, P = 3, 8


def samples(seed: int, n: int, spread: float = 1.0, classes: int = C) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).normal(size=(classes, P))
    labels = np.arange(n) % classes
    return rng.normal(size=(n, P)) + spread * means[labels], labels


def by_hand(train: Any, features: Any, k: int, metric: str) -> Any:
    """The rule in words: majority of the k nearest; of equally frequent labels the one of the nearest sample."""
    rows, labels = train
    found = []
    for sample in features:
        if metric == "cosine":
            distances = -(rows @ sample) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(sample))
        else:
            distances = np.linalg.norm(rows - sample, axis=1)
        nearest = labels[np.argsort(distances)[:k]].tolist()
        most = max(nearest.count(label) for label in nearest)
        found.append(next(label for label in nearest if nearest.count(label) == most))
    return np.array(found)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_whole_protocol_by_hand(metric: str) -> None:
    train, validation, test = (samples(seed, n) for seed, n in ((1, 60), (2, 45), (3, 90)))
    ks = [1, 2, 4, 7, 30]
    found = knn_probe(train, test, validation=validation, num_neighbours=ks, metric=metric)
    scores = {k: float((by_hand(train, validation[0], k, metric) == validation[1]).mean()) for k in ks}
    assert found.validation == pytest.approx(scores)
    best = max(scores, key=lambda k: scores[k])  # the first of equals: the smallest
    assert found.num_neighbours == best
    both = tuple(np.concatenate(parts) for parts in zip(train, validation, strict=True))
    expected = by_hand(both, test[0], best, metric)
    assert found.accuracy == (expected == test[1]).mean()
    assert np.array_equal(found.classifier.predict(test[0]), expected)


def test_two_classes_and_an_odd_k_are_those_of_scikit_learn() -> None:
    train, test = samples(1, 60, classes=2), samples(3, 90, classes=2)  # no ties: every rule agrees
    for k in (1, 5, 31):
        found = knn_probe(train, test, validation=test, num_neighbours=[k], metric="euclidean")
        expected = KNeighborsClassifier(k).fit(*train).score(*test)
        assert found.validation[k] == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_mean_by_hand(metric: str) -> None:
    train, test = samples(1, 60), samples(3, 90)
    found = nearest_mean_probe(train, test, metric=metric)
    scaled = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
        for rows in (train[0], test[0])
    ]
    means = np.stack([scaled[0][train[1] == label].mean(axis=0) for label in range(C)])
    if metric == "cosine":
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    distances = np.linalg.norm(scaled[1][:, None] - means, axis=2)
    assert found.accuracy == (distances.argmin(axis=1) == test[1]).mean()
    assert np.array_equal(found.classifier.predict(test[0]), distances.argmin(axis=1))


def test_nearest_mean_is_the_metric_and_scikit_learn() -> None:
    train, test = samples(1, 61), samples(3, 90)
    found = nearest_mean_probe(train, test).accuracy
    assert found == measure(*train, test=test, metrics=["ncc_accuracy"]).splits["test"]["ncc_accuracy"]
    assert found == NearestCentroid().fit(*train).score(*test)


@pytest.mark.parametrize("probe", [knn_probe, nearest_mean_probe])
@pytest.mark.parametrize("size", [1e-130, 1e-3, 1e120])
def test_size_and_offset_change_nothing(probe: Any, size: float) -> None:
    train, test = samples(1, 60), samples(3, 90)
    wanted = probe(train, test, metric="euclidean").accuracy
    moved = [((rows + 1e4) * size, labels) for rows, labels in (train, test)]
    assert probe(*moved, metric="euclidean").accuracy == wanted
    scaled = [
        (rows * size * np.geomspace(1e-3, 1e3, len(rows))[:, None], labels) for rows, labels in (train, test)
    ]
    assert knn_probe(*scaled).accuracy == knn_probe(train, test).accuracy


@pytest.mark.parametrize("probe", [knn_probe, nearest_mean_probe])
def test_labels_are_names_of_classes(probe: Any) -> None:
    train, test = samples(1, 60), samples(3, 90)
    ids = np.array([5, 7, 2**62])
    found = probe((train[0], ids[train[1]]), (test[0], ids[test[1]]))
    assert found.accuracy == probe(train, test).accuracy
    assert np.array_equal(
        found.classifier.predict(test[0]), ids[probe(train, test).classifier.predict(test[0])]
    )


@pytest.mark.parametrize("probe", [knn_probe, nearest_mean_probe])
def test_mean_per_class_accuracy_counts_classes_not_samples(probe: Any) -> None:
    train, (rows, labels) = samples(1, 60), samples(3, 90, spread=0.2)
    kept = (labels != 2) | (np.arange(90) < 12)
    test = rows[kept], labels[kept]
    found = probe(train, test, score="mean_per_class")
    right = found.classifier.predict(test[0]) == test[1]
    assert found.accuracy == pytest.approx(np.mean([right[test[1] == label].mean() for label in range(C)]))
    assert found.accuracy != right.mean()


@pytest.mark.parametrize("probe", [knn_probe, nearest_mean_probe])
def test_samples_are_taken_in_every_container(probe: Any) -> None:
    train, test = samples(1, 60), samples(3, 90)
    wanted = probe(train, test).accuracy
    for kind in (
        lambda x, y: (torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)),
        lambda x, y: [pd.DataFrame(x), pd.Series(y)],
        lambda x, y: (scipy.sparse.csr_array(x), y.tolist()),
    ):
        assert probe(kind(*train), kind(*test)).accuracy == wanted


def test_k_may_be_numbers_of_numpy() -> None:
    train, test = samples(1, 60), samples(2, 60)
    found = knn_probe(train, test, num_neighbours=np.arange(1, 6))
    assert found.validation == knn_probe(train, test, num_neighbours=range(1, 6)).validation
    assert {type(k) for k in (found.num_neighbours, *found.validation)} == {int}


def test_the_split_is_stratified_seeded_and_has_no_sample_twice() -> None:
    labels = np.random.default_rng(0).permutation(np.array([0] * 40 + [1] * 15 + [2] * 5 + [3]))
    whole = Samples(np.arange(61.0)[:, None], labels, np.arange(4))
    left, kept = hold_out(whole, 0.2, 3, "here")
    assert np.bincount(kept.labels, minlength=4).tolist() == [8, 3, 1, 0]
    assert np.bincount(left.labels).tolist() == [32, 12, 4, 1]
    assert sorted(np.concatenate([left.features, kept.features]).ravel().tolist()) == list(range(61))
    for part in (left, kept):  # labels stay with their rows
        assert np.array_equal(part.labels, labels[part.features.ravel().astype(int)])
    assert np.array_equal(hold_out(whole, 0.2, 3, "here")[1].features, kept.features)
    assert not np.array_equal(hold_out(whole, 0.2, 4, "here")[1].features, kept.features)


def test_the_test_split_chooses_nothing() -> None:
    train, test = samples(1, 60), samples(3, 60)
    one, other = (knn_probe(train, (test[0], labels)) for labels in (test[1], np.roll(test[1], 1)))
    assert (one.num_neighbours, one.validation) == (other.num_neighbours, other.validation)
    assert one.accuracy != other.accuracy


def test_a_k_at_the_end_of_the_list_is_reported() -> None:
    train, test = samples(1, 300, spread=0.3), samples(3, 300, spread=0.3)
    found = knn_probe(train, test, validation=test, num_neighbours=[1, 100], metric="euclidean")
    assert found.num_neighbours == 100
    assert any("a larger one may be better" in text for text in found.warnings)
    assert knn_probe(train, test, num_neighbours=[100], metric="euclidean").warnings == ()


def test_samples_without_a_direction_are_reported() -> None:
    train, test = samples(1, 60), samples(3, 60)
    train[0][:3] = 0
    assert knn_probe(train, test).warnings[-1].startswith("train: 3 samples of norm zero have no direction")
    assert nearest_mean_probe(train, test, metric="cosine").warnings
    assert knn_probe(train, test, metric="euclidean").warnings == ()


def test_progress_counts_both_searches() -> None:
    calls: list[tuple[int, int]] = []
    knn_probe(samples(1, 30), samples(2, 30), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (
            samples(1, 30),
            (samples(2, 30)[0], np.arange(30) % 4),
            {},
            "test: no train sample has label 3, which 7",
        ),
        (
            samples(1, 30),
            (samples(2, 30)[0][:, :3], samples(2, 30)[1]),
            {},
            "3 features per sample, but train has 8",
        ),
        (samples(1, 30), samples(2, 30)[0], {}, "test: give a pair"),
        (
            (samples(1, 30)[0] * np.nan, samples(1, 30)[1]),
            samples(2, 30),
            {},
            "kNN probe, train: 240 feature values",
        ),
        ((samples(1, 3)[0], np.arange(3)), samples(2, 30), {}, "none can be held out"),
        ((samples(1, 30)[0], np.zeros(30)), samples(2, 30), {}, "train: all samples are of one class"),
        (samples(1, 30), samples(2, 30), {"validation_share": 0.0}, "between 0 and 1"),
        (samples(1, 30), samples(2, 30), {"num_neighbours": [0, 3]}, "num_neighbours contains 0"),
        (samples(1, 30), samples(2, 30), {"num_neighbours": np.arange(2)}, "num_neighbours contains 0;"),
        (samples(1, 30), samples(2, 30), {"seed": -1}, "seed is -1; give a whole number from 0"),
        (samples(1, 30), samples(2, 30), {"num_neighbours": [50]}, "has no k up to 24"),
        (samples(1, 30), samples(2, 30), {"num_neighbours": []}, "has no k up to 24"),
        (
            samples(1, 30),
            samples(2, 30),
            {"metric": "cosin"},
            "unknown metric 'cosin'; did you mean 'cosine'",
        ),
        (samples(1, 30), samples(2, 30), {"score": "f1"}, "unknown score 'f1'"),
    ],
)
def test_wrong_input_is_refused(train: Any, test: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        knn_probe(train, test, **options)


def test_wrong_input_of_the_nearest_mean_is_refused() -> None:
    with pytest.raises(InputError, match="nearest-class-mean probe, test: give a pair"):
        nearest_mean_probe(samples(1, 30), 3)
    with pytest.raises(InputError, match="unknown metric"):
        nearest_mean_probe(samples(1, 30), samples(2, 30), metric="l1")
