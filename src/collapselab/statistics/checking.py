"""Input checks of `ClassStats`: arguments out of range, batches of the wrong shape, parts that cannot be merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapselab.checks import as_features, check_labels
from collapselab.errors import InputError, one_line
from collapselab.statistics.gathering import CHECKS
from collapselab.statistics.scatter import SCATTERS

_MUST_AGREE = ("num_classes", "dim", "scatter", "sketch_size", "seed")


def check_arguments(
    num_classes: int, dim: int, scatter: str, product_dtype: torch.dtype | None, sketch_size: int, checks: str
) -> None:
    """Check the arguments of `ClassStats`.

    Raises:
        ValueError: naming the one that is out of range.
    """
    if num_classes < 1 or dim < 1:
        raise ValueError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}")
    if scatter not in SCATTERS:
        raise ValueError(f"scatter must be one of {SCATTERS}, got {scatter!r}")
    if product_dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"product_dtype must be float32 or float64, got {product_dtype}")
    if sketch_size < 1:
        raise ValueError(f"sketch_size must be at least 1, got {sketch_size}")
    if checks not in CHECKS:
        raise ValueError(f"checks must be one of {CHECKS}, got {checks!r}")


def checked_counts(class_counts: Tensor | Sequence[int], num_classes: int) -> Tensor:
    """Return `class_counts` as an int64 tensor of its own, (C,).

    Raises:
        ValueError: another shape, or negative counts.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.int64).cpu().clone()
    if counts.shape != (num_classes,) or bool((counts < 0).any()):
        raise ValueError(
            f"class_counts must be {num_classes} non-negative counts, got shape {tuple(counts.shape)}"
        )
    return counts


class RefusedBatch(ValueError):
    """Batches that could not be added, found when the chunk that they belong to was.

    Args:
        batch: number of the first such batch, counted from 0 in the order of updates.
        problem: what is wrong with it, as it is reported when batches are checked at once.
        others: how many more batches of the chunk could not be added.
    """

    def __init__(self, batch: int, problem: str, *, others: int = 0) -> None:
        more = f"; {others} more batches after it were refused" if others else ""
        super().__init__(f"batch {batch}, {problem}{more}")
        self.batch = batch
        self.problem = problem + more


def batch_tensors(features: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return a batch as tensors. Tensors stay as they are; arrays and lists are converted and checked.

    Raises:
        InputError: masked or missing values, text, fractional or negative labels, another number of labels than rows.
    """
    if not isinstance(features, Tensor):
        array = _array(features, "features")
        is_empty = array.ndim == 2 and not len(array)
        features = torch.empty(array.shape) if is_empty else as_features(array, "features")
    if not isinstance(labels, Tensor):
        rows = features.shape[0] if features.ndim else 0
        labels = torch.from_numpy(check_labels(_array(labels, "labels"), rows, "labels"))
    return features, labels


def _array(value: Any, name: str) -> Any:
    if np.ma.isMaskedArray(value) and np.ma.getmaskarray(value).any():  # numpy would fill masked values in
        raise InputError(f"{name}: some values are masked; leave such rows out of features and labels")
    try:
        if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            return np.stack([part.detach().cpu().numpy() for part in value])
        return np.asarray(value)
    except Exception as error:  # containers of others raise what they like
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{name} ({type(value).__name__}) cannot be read as numbers ({reason}); give a tensor or an array"
        ) from error


def check_shapes(features: Tensor, labels: Tensor, dim: int) -> None:
    """Check what can be checked of a batch for `ClassStats.update` without reading values.

    Args:
        features: to be (n, dim).
        labels: to be (n,).
        dim: features per sample.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    if features.ndim != 2 or features.shape[1] != dim:
        raise ValueError(f"features have shape {tuple(features.shape)}; this ClassStats takes (n, {dim})")
    if not features.is_floating_point():
        raise ValueError(f"features have dtype {features.dtype}; convert them to floating point")
    if labels.shape != (features.shape[0],):
        raise ValueError(f"labels have shape {tuple(labels.shape)} for {features.shape[0]} rows of features")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}; use whole numbers")


def check_range(labels: Tensor, num_classes: int | None) -> int:
    """Check labels for `ClassStats.update` and return the highest, -1 without labels.

    Args:
        labels: whole numbers.
        num_classes: labels must be lower; None for no limit.

    Raises:
        ValueError: labels out of range.
    """
    if len(labels) == 0:
        return -1
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or (num_classes is not None and high >= num_classes):
        limit = "any from 0" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(f"labels go from {low} to {high}; this ClassStats takes {limit}")
    return high


def check_mergeable(first: Any, other: Any) -> None:
    """Check that two `ClassStats` were created with arguments that allow merging them.

    Raises:
        ValueError: naming the first argument in which they differ.
    """
    for name in _MUST_AGREE:
        mine, theirs = getattr(first, name), getattr(other, name)
        if mine != theirs:
            raise ValueError(f"cannot merge statistics with {name} {mine!r} and {theirs!r}")
    mine, theirs = first.class_counts, other.class_counts
    if (mine is None) != (theirs is None) or (mine is not None and not torch.equal(mine, theirs)):
        raise ValueError("cannot merge statistics with different class_counts")
