"""Bounds on the accuracy of classifiers of a representation collapsed to points (Hui, Belkin, Nakkiran 2022, sec. 4.1).

A classifier sees the point, not the sample: all samples at a point get the same decision. Any classifier is therefore
right about at most one class per point. Bounds are exact fractions.

Letters: n samples, p features, k classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.papers.hui2022.constructions import OneHotDecisions
from collapselab.probes.evaluating import evaluating


def best_accuracy_of_points(
    points: Shaped[Tensor, " n"] | Shaped[Tensor, "n p"], labels: Int[Tensor, " m"]
) -> Fraction:
    """Return the largest accuracy on these samples of any classifier that reads these points.

    It is the number of samples of the most frequent class at each point, summed over distinct points, divided by n.
    The classifier that answers with this class reaches it.

    Args:
        points: features, whose equal rows are one point; or one number per sample that identifies its point.
        labels: one label per sample.

    Raises:
        InputError: no samples, a different number of labels, features that are NaN.
    """
    if len(points) == 0 or len(points) != len(labels):
        raise InputError(f"points: {len(points)} points and {len(labels)} labels; give one label per sample")
    return Fraction(int(_counts_at_points(points, labels).amax(1).sum()), len(labels))


def super_class_bound(group_of_class: Sequence[int], class_counts: Sequence[int] | None = None) -> Fraction:
    """Return the largest accuracy on a representation that maps every sample to the point of its super-class.

    Args:
        group_of_class: the super-class of each class.
        class_counts: number of samples of each class; default: equal numbers.

    Raises:
        InputError: no classes, a different number of counts, negative counts.

    Example:
        >>> super_class_bound([0, 0, 1, 1, 1, 1, 1, 1, 0, 0])  # animals and objects of CIFAR-10
        Fraction(1, 5)
    """
    counts = _checked_counts([1] * len(group_of_class) if class_counts is None else class_counts)
    if len(counts) != len(group_of_class):
        raise InputError(
            f"super-classes: {len(group_of_class)} classes and {len(counts)} class counts; give one per class"
        )
    largest: dict[int, int] = {}
    for group, count in zip(group_of_class, counts, strict=True):
        largest[group] = max(largest.get(group, 0), count)
    return Fraction(sum(largest.values()), sum(counts))


def any_points_bound(num_points: int, class_counts: Sequence[int]) -> Fraction:
    """Return the largest accuracy of any classifier on any representation that has `num_points` points.

    Each point is right about one class, so at most the `num_points` largest classes are recognised. Errors of a
    super-class network, which move samples to another point, cannot exceed the bound of balanced classes either.

    Args:
        num_points: at least 1.
        class_counts: number of samples of each class.

    Raises:
        InputError: no points, no classes, negative counts.
    """
    if num_points < 1:
        raise InputError(f"num_points is {num_points}; a representation has at least one point")
    counts = _checked_counts(class_counts)
    return Fraction(sum(sorted(counts, reverse=True)[:num_points]), sum(counts))


@dataclass(frozen=True, eq=False)
class PointRepresentation:
    """Features that have collapsed to points, with the labels of a finer task.

    Attributes:
        features: one-hot rows.
        labels: labels of the finer task.
        num_points: number of distinct rows.
        bound: largest accuracy of any classifier of these features on the finer task.
    """

    features: Float[Tensor, "n p"]
    labels: Int[Tensor, " n"]
    num_points: int
    bound: Fraction


def collapsed_representation(
    network: nn.Module, num_super_classes: int, batches: Iterable[tuple[Tensor, Tensor]]
) -> PointRepresentation:
    """Compute the features that a super-class network, once it has collapsed at test time, offers to a finer task.

    The network is wrapped as `OneHotDecisions`: same decisions, one point per super-class, for every input.

    Args:
        network: returns scores of the super-classes; it runs in evaluation mode on the device of its parameters, and
            is left as it was.
        num_super_classes: number of scores.
        batches: inputs with the labels of the finer task.

    Raises:
        InputError: no batches; scores of another shape, or NaN.
    """
    collapsed = OneHotDecisions(network, num_super_classes)
    device = collapsed.classifier.weight.device
    features: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(collapsed):
        for inputs, fine in batches:
            features.append(collapsed.features(inputs.to(device)).cpu())
            labels.append(fine.cpu())
    if not features:
        raise InputError("collapsed_representation: the batches are empty; give inputs with labels")
    rows, fine = torch.cat(features), torch.cat(labels)
    bound = best_accuracy_of_points(rows, fine)
    return PointRepresentation(rows, fine, len(torch.unique(rows, dim=0)), bound)


def _counts_at_points(points: Tensor, labels: Tensor) -> Int[Tensor, "q k"]:
    """Count the samples of each class at each distinct point."""
    if points.is_floating_point() and bool(points.isnan().any()):
        raise InputError("points: some features are NaN and have no point; correct or remove such samples")
    numbers = torch.unique(points.cpu(), dim=0, return_inverse=True)[1]
    classes = torch.unique(labels.cpu(), return_inverse=True)[1]
    num_points, num_classes = int(numbers.max()) + 1, int(classes.max()) + 1
    cells = torch.bincount(numbers * num_classes + classes, minlength=num_points * num_classes)
    return cells.reshape(num_points, num_classes)


def _checked_counts(class_counts: Sequence[int]) -> list[int]:
    counts = [int(count) for count in class_counts]
    if min(counts, default=-1) < 0 or sum(counts) == 0:
        raise InputError(
            "class counts: all are zero, or some are negative; give the number of samples of each class"
        )
    return counts
