"""What a caller passes is checked once, here, and refused in one sentence: what, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.errors import InputError
from collapselab.errors import one_line as one_line


def near_matches(name: str, known: Iterable[str]) -> str:
    """` Did you mean …?` for a misspelt `name`, or the whole list when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [other for other in known if name and name in other and other not in near][:3]
    if near:
        return "did you mean " + " or ".join(repr(match) for match in near[:4]) + "?"
    return "known: " + ", ".join(known)


def check_names(names: Sequence[str], known: Iterable[str], what: str) -> None:
    """Refuse any of `names` that is not `known`, listing near matches.

    Raises:
        InputError: naming the first unknown one.
    """
    known = set(known)
    for name in names:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; {near_matches(name, known)}")


def as_features(array: npt.NDArray[np.generic] | Tensor, where: str) -> Tensor:
    """`array` as a floating-point tensor (n, p), sharing memory where it can.

    Integers and booleans are converted: to float32 where that holds every value (up to 16 bits), else to
    float64. Values are not looked at: see `check_finite`.

    Raises:
        InputError: objects, text or complex numbers; not 2-D; empty.
    """
    if isinstance(array, Tensor):
        tensor = array.detach()
        if tensor.is_complex():
            raise InputError(f"{where}: features have dtype {tensor.dtype}; save them as real numbers")
    else:
        if array.dtype.kind == "O":
            raise InputError(f"{where}: features are Python objects; save them as an array of numbers (n, p)")
        if array.dtype.kind not in "fiub":
            raise InputError(f"{where}: features have dtype {array.dtype}; save them as real numbers")
        tensor = None
    if array.ndim != 2:
        raise InputError(
            f"{where}: features are {array.ndim}-D with shape {tuple(array.shape)}; "
            "reshape them to (samples, features)"
        )
    if 0 in array.shape:
        raise InputError(f"{where}: features are empty, shape {tuple(array.shape)}; nothing to measure")
    if tensor is None:
        assert isinstance(array, np.ndarray)
        if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            tensor = torch.from_numpy(np.ascontiguousarray(native))
        else:
            small = array.dtype.kind in "iub" and array.dtype.itemsize <= 2
            tensor = torch.from_numpy(array.astype(np.float32 if small else np.float64))
    elif not tensor.is_floating_point():
        small = tensor.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16)
        tensor = tensor.to(torch.float32 if small else torch.float64)
    return tensor


def check_finite(features: Tensor, where: str, first_row: int = 0) -> None:
    """Refuse NaN and infinity, saying how many and in which row the first is.

    Args:
        first_row: number of the first row here, for features read piece by piece.

    Raises:
        InputError: with the count and the first row.
    """
    low, high = torch.aminmax(features)
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return
    bad, first = 0, -1
    step = max(1, 2**22 // features.shape[1])
    for start in range(0, len(features), step):
        wrong = ~torch.isfinite(features[start : start + step])
        if first < 0 and bool(wrong.any()):
            first = first_row + start + int(wrong.any(dim=1).nonzero()[0])
        bad += int(wrong.sum())
    raise InputError(
        f"{where}: {bad} feature value{'s are' if bad > 1 else ' is'} NaN or infinite, "
        f"the first in row {first}; remove or mend such rows"
    )


def check_labels(
    labels: npt.NDArray[np.generic], num_samples: int, where: str, what: str = "labels"
) -> npt.NDArray[np.int64]:
    """`labels` as int64: one non-negative whole number per sample.

    Returns:
        The labels, shape (n,). Floating-point labels are accepted when every one is whole.

    Raises:
        InputError: wrong shape, length, dtype; fractional or negative values (which and how many).
    """
    if labels.dtype.kind not in "iufb":
        raise InputError(f"{where}: {what} have dtype {labels.dtype}; use non-negative whole numbers")
    if labels.ndim != 1:
        raise InputError(
            f"{where}: {what} have shape {labels.shape}; one whole number per sample, shape (n,)"
        )
    if len(labels) != num_samples:
        raise InputError(
            f"{where}: {len(labels)} {what} for {num_samples} rows of features; "
            "give one per row, in the same order"
        )
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = ~(np.isfinite(labels) & (labels == np.floor(labels)))
        if wrong.any():
            first = labels[wrong][0]
            raise InputError(
                f"{where}: {int(wrong.sum())} of the {what} are not whole numbers, the first is "
                f"{first:g} in row {int(np.flatnonzero(wrong)[0])}; use class numbers 0, 1, 2, …"
            )
    negative = np.less(labels, 0)
    if negative.any():
        raise InputError(
            f"{where}: {int(negative.sum())} of the {what} are negative, the first is "
            f"{labels[negative][0]:g} in row {int(np.flatnonzero(negative)[0])}; "
            "use class numbers 0, 1, 2, …"
        )
    largest = labels.max() if len(labels) else 0
    if largest >= 2**63 - 1:
        raise InputError(f"{where}: {what} go up to {largest}; they must fit a 64-bit integer")
    return labels.astype(np.int64)


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

    Raises:
        InputError: with the shape found and the shape wanted.
    """
    for name, array, wanted in (("weight", weight, (num_classes, dim)), ("bias", bias, (num_classes,))):
        if array is None:
            continue
        if array.dtype.kind not in "fiub":
            raise InputError(f"{where}: {name} has dtype {array.dtype}; save it as real numbers")
        if array.shape != wanted:
            raise InputError(
                f"{where}: {name} has shape {array.shape} but {num_classes} classes and {dim} "
                f"features need {wanted}; rows follow the sorted labels"
            )
        if not np.isfinite(array).all():
            raise InputError(
                f"{where}: {name} has {int((~np.isfinite(array)).sum())} NaN or infinite values; "
                "save the trained classifier's own"
            )
    if bias is not None and weight is None:
        raise InputError(f"{where}: bias is given without weight; add weight {(num_classes, dim)}")
