"""Bounds on the accuracy of classifiers of a representation collapsed to points (Hui, Belkin, Nakkiran 2022, sec. 4.1).

A classifier sees the point, not the sample: all samples at a point get the same decision. Any classifier is therefore
right about at most one class per point. Bounds are exact fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from collapselab.errors import InputError


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


def _checked_counts(class_counts: Sequence[int]) -> list[int]:
    counts = [int(count) for count in class_counts]
    if min(counts, default=-1) < 0 or sum(counts) == 0:
        raise InputError(
            "class counts: all are zero, or some are negative; give the number of samples of each class"
        )
    return counts
