"""Checks of what callers pass. Each error is one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.errors import InputError

_NARROW_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Squares of larger values, summed over features and samples, could overflow float64.
_MAX_VALUE = 1e130
# Sums of larger ones could overflow.
_MAX_WEIGHT = 1e300


def check_real_matrix(
    shape: Sequence[int], dtype: np.dtype[Any] | torch.dtype, where: str, what: str = "features"
) -> None:
    """Refuse anything but a non-empty matrix of real numbers.

    Raises:
        InputError: objects, text or complex numbers; not 2-D; empty.
    """
    if isinstance(dtype, torch.dtype):
        real = not dtype.is_complex
    else:
        real = dtype.kind in "fiub"
        if dtype.kind == "O":
            raise InputError(f"{where}: {what} are Python objects; save them as an array of numbers (n, p)")
    if not real and "complex" in str(dtype):
        raise InputError(
            f"{where}: {what} have dtype {dtype}; save them as real numbers: real and imaginary parts as separate features"
        )
    if not real:
        raise InputError(f"{where}: {what} have dtype {dtype}; save them as real numbers")
    if len(shape) != 2:
        raise InputError(
            f"{where}: {what} are {len(shape)}-D with shape {tuple(shape)}; reshape them to (samples, features)"
        )
    if 0 in shape:
        raise InputError(
            f"{where}: {what} are empty, shape {tuple(shape)}; give at least one sample and one feature"
        )


def features_dtype(dtype: np.dtype[Any] | torch.dtype) -> torch.dtype:
    """Return the floating-point dtype in which features of `dtype` are measured.

    Floating-point features keep theirs. Integers and booleans become float32 if that represents every value (up
    to 16 bits), else float64.
    """
    if isinstance(dtype, torch.dtype):
        if dtype.is_floating_point:
            return dtype if dtype in _FLOATS else torch.float32  # dtypes of 8 bits and less
        return torch.float32 if dtype in _NARROW_INTEGERS else torch.float64
    if dtype.kind == "f":
        return {2: torch.float16, 4: torch.float32}.get(dtype.itemsize, torch.float64)
    return torch.float32 if dtype.itemsize <= 2 else torch.float64


def as_features(array: npt.NDArray[np.generic] | Tensor, where: str) -> Tensor:
    """Return `array` as a floating-point tensor (n, p) of `features_dtype`, sharing memory if possible.

    The values are not checked: see `check_finite`.

    Raises:
        InputError: objects, text or complex numbers; not 2-D; empty.
    """
    check_real_matrix(array.shape, array.dtype, where)
    dtype = features_dtype(array.dtype)
    if isinstance(array, Tensor):
        return array.detach().to(dtype)
    with np.errstate(over="ignore"):  # a long double that overflows is found later, as infinity
        native = array.astype(str(dtype).removeprefix("torch."), order="C", copy=False)
    # torch can share neither read-only memory nor negative strides (order="C" has copied these).
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def check_finite(features: Tensor, where: str, first_row: int = 0) -> None:
    """Refuse NaN, infinity and values whose square overflows.

    Args:
        features: (n, p).
        where: name of the data in the message.
        first_row: number of the first row here, for features read in pieces.

    Raises:
        InputError: with the number of such values and the first row.
    """
    count, first = count_unbounded(features)
    if count:
        refuse_unbounded(count, first_row + first, where)


def count_unbounded(features: Tensor) -> tuple[int, int]:
    """Return how many values (n, p) are NaN, infinite or too large to be squared, and the row of the first (or -1)."""
    count, first = 0, -1
    step = max(1, 2**22 // features.shape[1])
    for start in range(0, len(features), step):
        rows = features[start : start + step]
        low, high = (float(value) for value in torch.aminmax(rows))
        if low > -_MAX_VALUE and high < _MAX_VALUE:  # false for NaN
            continue
        wrong = ~(rows.abs() < _MAX_VALUE)
        if first < 0:
            first = start + int(wrong.any(dim=1).nonzero()[0])
        count += int(wrong.sum())
    return count, first


def refuse_unbounded(count: int, first: int, where: str) -> NoReturn:
    """Refuse `count` values that are NaN, infinite or too large, the first of them in row `first`."""
    raise InputError(
        f"{where}: {count} feature value{'s are' if count > 1 else ' is'} NaN, infinite or beyond {_MAX_VALUE:g}, "
        f"the first in row {first} (counting from 0); remove or correct such rows"
    )


def check_label_shape(
    shape: Sequence[int], dtype: np.dtype[Any], num_samples: int, where: str, what: str = "labels"
) -> None:
    """Refuse labels by their header: anything but `num_samples` numbers, shape (n,).

    Raises:
        InputError: wrong shape, length or dtype.
    """
    if dtype.kind not in "iufb":
        raise InputError(
            f"{where}: {what} have dtype {dtype}; use non-negative whole numbers: number the classes 0, 1, 2, …"
        )
    if len(shape) != 1:
        raise InputError(
            f"{where}: {what} have shape {tuple(shape)}; give one whole number per sample, shape (n,)"
        )
    if shape[0] != num_samples:
        raise InputError(
            f"{where}: {shape[0]} {what} for {num_samples} rows of features; give one per row, in the same order"
        )


def check_labels(
    labels: npt.NDArray[np.generic], num_samples: int, where: str, what: str = "labels"
) -> npt.NDArray[np.int64]:
    """Return `labels` as int64, (n,): one non-negative whole number per sample.

    Floating-point labels are accepted if every one of them is whole.

    Raises:
        InputError: wrong shape, length, dtype; fractional or negative values (which and how many).
    """
    check_label_shape(labels.shape, labels.dtype, num_samples, where, what)
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            fractional = ~(np.isfinite(labels) & (labels == np.floor(labels)))
        _refuse_labels(labels, fractional, "not whole numbers", where, what)
    _refuse_labels(labels, np.less(labels, 0), "negative", where, what)
    largest = labels.max().item() if len(labels) else 0
    if largest >= 2**63 - 1:
        raise InputError(
            f"{where}: {what} go up to {largest}; they must fit a 64-bit integer; use class numbers 0, 1, 2, …"
        )
    return labels.astype(np.int64)


def _refuse_labels(
    labels: npt.NDArray[np.generic], wrong: npt.NDArray[np.bool_], problem: str, where: str, what: str
) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{where}: {int(wrong.sum())} of the {what} are {problem}, the first is {labels[row]:g} in row {row} "
            "(counting from 0); use class numbers 0, 1, 2, …"
        )


def check_predictions(predictions: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], where: str) -> None:
    """Refuse decisions (n,) that are not among the sorted `classes`.

    Raises:
        InputError: with their number, the first of them and its row.
    """
    outside = ~np.isin(predictions, classes)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{where}: {int(outside.sum())} predictions are not among the training labels, the first is "
            f"{predictions[row]} in row {row} (counting from 0); predictions are labels, not positions"
        )


def check_classifier_shape(
    name: str, shape: Sequence[int], dtype: np.dtype[Any], *, num_classes: int, dim: int, where: str
) -> None:
    """Refuse a weight (C, p) or bias (C,) by its header.

    Raises:
        InputError: no real numbers, or the shape found and the shape needed.
    """
    if dtype.kind not in "fiub":
        raise InputError(f"{where}: {name} has dtype {dtype}; save it as real numbers")
    wanted, each = ((num_classes, dim), "row") if name == "weight" else ((num_classes,), "number")
    if tuple(shape) != wanted:
        raise InputError(
            f"{where}: {name} has shape {tuple(shape)} but {num_classes} classes and {dim} features need {wanted}: "
            f"one {each} per class, in ascending order of the labels"
        )


def check_classifier(
    weight: npt.NDArray[np.generic] | None,
    bias: npt.NDArray[np.generic] | None,
    *,
    num_classes: int,
    dim: int,
    where: str,
) -> None:
    """Refuse a classifier weight or bias that does not fit the features and classes.

    Args:
        weight: (C, p), rows in the order of the sorted labels.
        bias: (C,).
        num_classes: C.
        dim: p.
        where: name of the data in the message.

    Raises:
        InputError: with the shape found and the shape needed.
    """
    for name, array in (("weight", weight), ("bias", bias)):
        if array is None:
            continue
        check_classifier_shape(name, array.shape, array.dtype, num_classes=num_classes, dim=dim, where=where)
        with np.errstate(invalid="ignore"):
            unbounded = ~(np.abs(array.astype(np.float64)) < _MAX_WEIGHT)
        if unbounded.any():
            raise InputError(
                f"{where}: {name} has {int(unbounded.sum())} NaN or infinite values (the limit is {_MAX_WEIGHT:g}); "
                "save those of a trained classifier"
            )
    if bias is not None and weight is None:
        raise InputError(f"{where}: bias is given without weight; add weight {(num_classes, dim)}")
