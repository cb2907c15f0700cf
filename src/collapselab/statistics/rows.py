"""Functions of rows: squared norms, means of classes within a block, and the check for NaN and overflow.

Letters: n rows, p features, k entries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

# A float32 sum of this many squares is accurate to 2e-6 at worst and usually to 1e-7, with either sign; wider
# rows are summed in pieces, and the pieces in float64.
_SQUARES_PER_SUM = 256
# Returns the sum of rows (n, p) by class number (n,), for so many classes.
SumByClass = Callable[[Tensor, Tensor, int], Tensor]
# Squares of larger values, summed over many samples, could overflow float64.
_MAX_NORM = 1e140


def selected(tensor: Tensor, which: Int[Tensor, " k"]) -> Tensor:
    """Return the entries `which` of the first axis, 0 for -1; a tensor without axes is returned unchanged."""
    if tensor.ndim == 0:
        return tensor
    out = tensor[which]  # entry -1 exists, and is overwritten
    out[which < 0] = 0
    return out


def index_sums(rows: Tensor, members: Tensor, num_classes: int) -> Tensor:
    """Return the sum of the rows of each class, added one after another."""
    return rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, members, rows)


def class_means_in(
    rows: Tensor, labels: Tensor, wanted: Tensor, summed: SumByClass = index_sums
) -> tuple[Tensor, Tensor]:
    """Return which of the `wanted` classes (mask over all) occur in these rows, and their means here.

    Rows are summed about the first row of their class: the plain sum of many rows far from the origin would round by
    more than the spread of a collapsed class.
    """
    mask = wanted[labels]
    rows = rows[mask]
    classes, members = labels[mask].unique(return_inverse=True)
    first = torch.full_like(classes, len(rows))
    first.scatter_reduce_(0, members, torch.arange(len(rows), device=rows.device), "amin")
    anchors = rows[first]
    sums = summed(rows.sub_(anchors[members]), members, len(classes))
    return classes, anchors + sums / torch.bincount(members)[:, None]


def squared_norms(rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Return the squared Euclidean norm of each row, float64, without a float64 copy of float32 rows."""
    if rows.dtype == torch.float64:
        return torch.linalg.vector_norm(rows, dim=1).square_()
    n, p = rows.shape
    whole = p // _SQUARES_PER_SUM
    if whole * _SQUARES_PER_SUM == p:
        pieces = torch.linalg.vector_norm(rows.view(n, whole, _SQUARES_PER_SUM), dim=2)
        return torch.linalg.vector_norm(pieces, dim=1, dtype=torch.float64).square_()
    split = whole * _SQUARES_PER_SUM
    total = torch.linalg.vector_norm(rows[:, split:], dim=1).double().square_()
    if whole:
        pieces = torch.linalg.vector_norm(rows[:, :split].unflatten(1, (whole, -1)), dim=2)
        total += torch.linalg.vector_norm(pieces, dim=1, dtype=torch.float64).square_()
    return total


def is_bounded(low: float, high: float, dim: int) -> bool:
    """Whether values between `low` and `high` are finite, and the squares of `dim` of them too; NaN are not."""
    limit = _MAX_NORM / dim
    return -limit < low and high < limit


def refuse_unbounded(features: Float[Tensor, "n p"]) -> None:
    """Refuse NaN, infinity and values whose square overflows.

    Raises:
        ValueError: naming the first such row of this batch.
    """
    low, high = (float(value) for value in torch.aminmax(features))
    if is_bounded(low, high, features.shape[1]):
        return
    wrong = ~torch.isfinite(features).all(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"features contain NaN or infinity, the first in row {row} of this batch (counting from 0)"
        )
    raise ValueError(f"features go up to {max(-low, high):g}: squares overflow float64; rescale them")
