"""Probes without a trained classifier: k nearest neighbours and nearest class mean.

`euclidean` compares distances, `cosine` the angles between features as they are, seen from the origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapselab.errors import InputError
from collapselab.names import check_names
from collapselab.numerics import middle_factor
from collapselab.transfer.samples import (
    Matrix,
    Numbers,
    Samples,
    accuracy,
    check_accuracy,
    class_sums,
    hold_out,
    is_whole,
    joined,
    read_pairs,
)

DISTANCES = ("cosine", "euclidean")
NUM_NEIGHBOURS = (1, 2, 3, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class Neighbours:
    """A classifier by the majority of the nearest samples.

    Attributes:
        num_neighbours: k.
        metric: `cosine` or `euclidean`.
        classes: (c,), the user's labels in ascending order.
    """

    num_neighbours: int
    metric: str
    classes: Numbers
    _samples: Samples = field(repr=False)

    def predict(self, features: Any) -> Numbers:
        """Return the label of each sample (n,), given features (n, p)."""
        votes = _votes(self._samples, _rows(features), self.metric, [self.num_neighbours])
        return self.classes[votes[self.num_neighbours]]


@dataclass(frozen=True)
class NeighbourResult:
    """Result of a kNN probe.

    Attributes:
        accuracy: on test, by `score`.
        score: `top1`, or `mean_per_class`: the mean over classes of the accuracy on each.
        num_neighbours: the chosen k.
        validation: accuracy on the validation split by k.
        classifier: fitted to train and validation; it predicts the user's labels.
        warnings: samples without a direction, a k at the end of the list.
    """

    accuracy: float
    score: str
    num_neighbours: int
    validation: dict[int, float] = field(repr=False)
    classifier: Neighbours = field(repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassMeans:
    """A classifier by the nearest class mean.

    Attributes:
        means: (c, p), float64.
        metric: `cosine` or `euclidean`.
        classes: (c,), the user's labels in ascending order.
    """

    means: Matrix
    metric: str
    classes: Numbers

    def predict(self, features: Any) -> Numbers:
        """Return the label of each sample (n,), given features (n, p); equally near means: the lowest label."""
        return self.classes[_nearest_mean(self.means, _rows(features), self.metric)]


@dataclass(frozen=True)
class ClassMeanResult:
    """Result of a nearest-class-mean probe.

    Attributes:
        accuracy: on test, by `score`.
        score: `top1`, or `mean_per_class`: the mean over classes of the accuracy on each.
        classifier: it takes features in the user's unit and predicts the user's labels.
        warnings: samples without a direction.
    """

    accuracy: float
    score: str
    classifier: ClassMeans = field(repr=False)
    warnings: tuple[str, ...] = ()


def knn_probe(
    train: Any,
    test: Any,
    *,
    validation: Any = None,
    validation_share: float = 0.2,
    num_neighbours: Iterable[int | np.integer[Any]] = NUM_NEIGHBOURS,
    metric: str = "cosine",
    score: str = "top1",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NeighbourResult:
    """Classify test samples by the majority of their k nearest train samples; k is chosen on validation.

    All k come from one exact search. Of equally frequent classes the one with the nearest sample is taken; of equally
    good k the smallest. With the chosen k, the classifier uses train and validation samples together. Cost: the
    distances of all test from all train samples, O(n_test n_train p).

    Args:
        train, test, validation: features (n, p) and labels (n,), non-negative whole numbers with or without gaps, each
            in any container that `collapselab.measure` takes. Without `validation`, a share of each class of `train`
            is held out for it.
        validation_share: that share; every class keeps at least one training sample.
        num_neighbours: the k to choose from; those above the number of fitted samples are left out.
        metric: `cosine`, as self-supervised features are usually evaluated (Wu et al. 2018), or `euclidean`.
        score: maximised on validation and reported on test: `top1` or `mean_per_class`.
        seed: for the split.
        progress: called with the number of searches done and in all.

    Raises:
        InputError: features are NaN or masked, shapes do not agree, test or validation has a label that train lacks,
            there is a single class, no k that can be used, a seed that is no whole number from 0, or no sample to
            validate on.

    Example:
        >>> features, labels = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
        >>> knn_probe((features, labels), (features, labels)).accuracy
        1.0
    """
    check_accuracy(score)
    check_names([metric], DISTANCES, "metric")
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    splits = read_pairs(given, "kNN probe")
    fitted, chosen_on = splits["train"], splits.get("validation")
    if chosen_on is None:
        fitted, chosen_on = hold_out(fitted, validation_share, seed, "kNN probe, train")
    report = progress or (lambda _done, _total: None)
    candidates = _usable(num_neighbours, len(fitted.labels))
    votes = _votes(fitted, chosen_on.features, metric, candidates)
    by_k = {k: accuracy(votes[k], chosen_on.labels, score) for k in candidates}
    report(1, 2)
    chosen = max(by_k, key=lambda k: by_k[k])  # the first of equally good ones: the smallest
    both = joined(fitted, chosen_on)
    found = _votes(both, splits["test"].features, metric, [chosen])[chosen]
    report(2, 2)
    return NeighbourResult(
        accuracy(found, splits["test"].labels, score),
        score,
        chosen,
        by_k,
        Neighbours(chosen, metric, both.classes, both),
        (*_edge_warnings(by_k), *_direction_warnings(splits, metric)),
    )


def nearest_mean_probe(
    train: Any, test: Any, *, metric: str = "euclidean", score: str = "top1"
) -> ClassMeanResult:
    """Classify test samples by the nearest mean of a class of train samples; there is nothing to choose.

    Cost: O((n_train + c n_test) p).

    Args:
        train, test: features (n, p) and labels (n,), as `knn_probe` takes them.
        metric: `euclidean` (the metric `ncc_accuracy` on test data), or `cosine`: the means are those of the rows
            scaled to norm one.
        score: `top1` or `mean_per_class`.

    Raises:
        InputError: as `knn_probe`.

    Example:
        >>> features, labels = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
        >>> nearest_mean_probe((features, labels), (features, labels)).accuracy
        1.0
    """
    check_accuracy(score)
    check_names([metric], DISTANCES, "metric")
    splits = read_pairs({"train": train, "test": test}, "nearest-class-mean probe")
    fitted, test_samples = splits["train"], splits["test"]
    rows = _unit_rows(fitted.features) if metric == "cosine" else fitted.features
    center = rows.mean(axis=0)
    # Of centred rows: a large offset costs no digits.
    means = center + class_sums(rows - center, fitted) / np.bincount(fitted.labels)[:, None]
    found = _nearest_mean(means, test_samples.features, metric)
    return ClassMeanResult(
        accuracy(found, test_samples.labels, score),
        score,
        ClassMeans(means, metric, fitted.classes),
        tuple(_direction_warnings(splits, metric)),
    )


def _rows(features: Any) -> Matrix:
    rows: Tensor = torch.as_tensor(features).detach()
    return rows.to(device="cpu", dtype=torch.float64).numpy()


def _usable(num_neighbours: Iterable[int | np.integer[Any]], num_samples: int) -> list[int]:
    given = list(num_neighbours)
    wrong = [k for k in given if not is_whole(k, 1)]
    if wrong:
        raise InputError(f"num_neighbours contains {wrong[0]}; give whole numbers from 1")
    usable = sorted({int(k) for k in given if k <= num_samples})
    if not usable:
        raise InputError(
            f"num_neighbours has no k up to {num_samples}, the number of samples to search; give smaller ones"
        )
    return usable


def _unit_rows(features: Matrix) -> Matrix:
    """Return rows of norm one; a row of zeros stays zero."""
    largest = np.abs(features).max(axis=1, keepdims=True)
    scaled = features / np.where(
        largest > 0, largest, 1.0
    )  # squares of very small or large values would be 0 or infinite
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1.0)


def _votes(fitted: Samples, features: Matrix, metric: str, candidates: Sequence[int]) -> dict[int, Numbers]:
    """Return the class number of each row of `features` (m,) by the number of neighbours."""
    from sklearn.neighbors import NearestNeighbors

    known, asked = fitted.features, features
    if metric == "cosine":
        # Between rows of norm one, the Euclidean distance orders as the cosine does, and its search is faster.
        known, asked = _unit_rows(known), _unit_rows(asked)
    known, asked = _centred(known, asked)
    search = NearestNeighbors(n_neighbors=max(candidates), algorithm="brute", metric="euclidean")
    nearest = search.fit(known).kneighbors(asked, return_distance=False)
    labels = fitted.labels[nearest]
    return {k: _majority(labels[:, :k], fitted.num_classes) for k in candidates}


def _centred(known: Matrix, asked: Matrix) -> tuple[Matrix, Matrix]:
    """Return both less the mean of `known`, of a size whose squares neither overflow nor vanish.

    Distances are computed from products, which lose digits far from the origin.
    """
    center = known.mean(axis=0)
    unit = middle_factor(torch.from_numpy(known))
    return (known - center) * unit, (asked - center) * unit


def _majority(labels: Numbers, num_classes: int) -> Numbers:
    """Return the most frequent entry of each row (m, k); of equally frequent ones the one that occurs first."""
    rows = np.arange(len(labels))
    counts = np.zeros((len(labels), num_classes), dtype=np.int64)
    for column in labels.T:
        counts[rows, column] += 1
    most = counts.max(axis=1)
    first = (counts[rows[:, None], labels] == most[:, None]).argmax(axis=1)
    return labels[rows, first]


def _nearest_mean(means: Matrix, features: Matrix, metric: str) -> Numbers:
    from sklearn.metrics import pairwise_distances_argmin

    if metric == "cosine":
        means, features = _unit_rows(means), _unit_rows(features)
    means, features = _centred(means, features)
    return pairwise_distances_argmin(features, means).astype(np.int64)


def _edge_warnings(by_k: dict[int, float]) -> list[str]:
    """Warn where a larger k than those tried may be better."""
    ks = list(by_k)
    if len(ks) > 1 and by_k[ks[-1]] > max(by_k[k] for k in ks[:-1]):
        return [f"the best k, {ks[-1]}, is the largest that was tried; a larger one may be better"]
    return []


def _direction_warnings(splits: dict[str, Samples], metric: str) -> list[str]:
    if metric != "cosine":
        return []
    empty = {name: int((~split.features.any(axis=1)).sum()) for name, split in splits.items()}
    return [
        f"{name}: {count} samples of norm zero have no direction, and are equally far from all others; "
        "give metric='euclidean'"
        for name, count in empty.items()
        if count
    ]
