"""Labelled features as probes and scores take them: read from any container, checked, classes numbered from 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from collapselab.checks import check_finite
from collapselab.errors import InputError
from collapselab.features.arrays import feature_matrix, label_vector
from collapselab.names import check_names

Matrix = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

ACCURACIES = ("top1", "mean_per_class")


@dataclass(frozen=True)
class Samples:
    """Labelled features.

    Attributes:
        features: (n, p), float64.
        labels: (n,), class numbers 0 … c - 1.
        classes: (c,), the user's labels in ascending order.
    """

    features: Matrix
    labels: Numbers
    classes: Numbers

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Samples:
        return Samples(self.features[chosen], self.labels[chosen], self.classes)


def read_samples(features: Any, labels: Any, where: str) -> Samples:
    """Return labelled features, whose classes are the labels that occur.

    Args:
        features, labels: (n, p) and (n,), in any container that `collapselab.measure` takes.
        where: name of the data in messages.

    Raises:
        InputError: NaN, masked or missing values; shapes that do not agree; a single class.
    """
    rows = feature_matrix(features, where).cpu()
    given = label_vector(labels, len(rows), where)
    check_finite(rows, where)
    classes, numbers = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"{where}: all samples are of one class; give samples of at least two")
    return Samples(rows.double().numpy(), numbers.astype(np.int64), classes)


def read_pairs(given: Mapping[str, Any], where: str) -> dict[str, Samples]:
    """Return the samples of each split; the classes of all are those of the first, which is fitted.

    Args:
        given: features and labels as a pair, by the name of the split.
        where: what is done with them, for messages.

    Raises:
        InputError: as `read_samples`; another number of features, or a class that the first split lacks.
    """
    splits: dict[str, Samples] = {}
    for name, pair in given.items():
        place = f"{where}, {name}"
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise InputError(f"{place}: give a pair (features, labels), not a {type(pair).__name__}")
        if splits:
            splits[name] = _like(next(iter(splits.values())), pair, place)
        else:
            splits[name] = read_samples(pair[0], pair[1], place)
    return splits


def _like(fitted: Samples, pair: Any, where: str) -> Samples:
    rows = feature_matrix(pair[0], where).cpu()
    given = label_vector(pair[1], len(rows), where)
    check_finite(rows, where)
    width = fitted.features.shape[1]
    if rows.shape[1] != width:
        raise InputError(
            f"{where}: {rows.shape[1]} features per sample, but train has {width}; give the same"
        )
    unknown = given[~np.isin(given, fitted.classes)]
    if len(unknown):
        raise InputError(
            f"{where}: no train sample has label {unknown[0]}, which {len(unknown)} samples here have; leave them out"
        )
    return Samples(rows.double().numpy(), np.searchsorted(fitted.classes, given), fitted.classes)


def hold_out(samples: Samples, share: float, seed: int, where: str) -> tuple[Samples, Samples]:
    """Return the samples that stay, and a share of each class; every class keeps at least one sample.

    Raises:
        InputError: as `check_split`; no class with two samples.
    """
    check_split(share, seed)
    # Samples in random order, sorted by class: the first of each class are held out.
    order = np.random.default_rng(seed).permutation(len(samples.labels))
    order = order[np.argsort(samples.labels[order], kind="stable")]
    counts = np.bincount(samples.labels, minlength=samples.num_classes)
    wanted = np.minimum(np.maximum(1, np.rint(share * counts)), np.maximum(counts - 1, 0)).astype(np.int64)
    place_in_class = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[order] = place_in_class < np.repeat(wanted, counts)
    if not chosen.any():
        raise InputError(f"{where}: every class has one sample, so none can be held out; give validation=")
    return samples.rows(~chosen), samples.rows(chosen)


def check_split(share: float, seed: int) -> None:
    """Refuse a share that cannot be held out, and what is no seed.

    Raises:
        InputError: a share that is not between 0 and 1, a seed that is no whole number from 0.
    """
    if not 0 < share < 1:
        raise InputError(f"validation_share is {share}; give a share between 0 and 1")
    if not is_whole(seed, 0):
        raise InputError(f"seed is {seed}; give a whole number from 0")


def is_whole(value: object, lowest: int) -> bool:
    """Whether a value is a whole number, of Python or of numpy, that is not below `lowest`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= lowest


def joined(first: Samples, second: Samples) -> Samples:
    return Samples(
        np.concatenate([first.features, second.features]),
        np.concatenate([first.labels, second.labels]),
        first.classes,
    )


def class_sums(rows: Matrix, samples: Samples) -> Matrix:
    """Return the sum of the rows (n, k) of each class, (c, k); every class occurs, as in the samples that were read."""
    order = np.argsort(samples.labels, kind="stable")
    starts = np.searchsorted(samples.labels[order], np.arange(samples.num_classes))
    return np.add.reduceat(rows[order], starts, axis=0)


def check_accuracy(name: str) -> None:
    """Refuse a name that is not one of `ACCURACIES`.

    Raises:
        InputError: with near matches.
    """
    check_names([name], ACCURACIES, "score")


def accuracy(predicted: Numbers, labels: Numbers, kind: str) -> float:
    """Return the share of right predictions, or its mean over the classes that occur in `labels`.

    Args:
        predicted, labels: (n,), class numbers.
        kind: `top1` or `mean_per_class`.
    """
    right = predicted == labels
    if kind == "top1":
        return float(right.mean())
    counts = np.bincount(labels)
    return float((np.bincount(labels, weights=right) / np.maximum(counts, 1))[counts > 0].mean())
