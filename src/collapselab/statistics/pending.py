"""Raw rows that wait for a product. If they are all rows, and fewer than features, no p x p product is needed.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.moments import ClassMoments

# Rows are collected until a product over all of them is worth one float64 pass over the p x p total.
_PENDING_BYTES, _MIN_PENDING_ROWS, _MAX_PENDING_ROWS = 2**25, 4096, 8192
# Rows of a sketch are kept beside it up to as many: float32 rows then take no more memory than the sketch.
ROWS_PER_SKETCH_COLUMN = 2


def pending_rows(dim: int, dtype: torch.dtype) -> int:
    """Return how many rows of p features are collected before they are multiplied.

    Args:
        dim: p.
        dtype: of the products.
    """
    return max(_MIN_PENDING_ROWS, min(_MAX_PENDING_ROWS, _PENDING_BYTES // (dtype.itemsize * dim)))


class PendingRows:
    """A buffer of rows and their labels.

    Args:
        dim: p.
        device: of the rows.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self._rows = torch.empty(0, dim, device=device)
        self._labels = torch.empty(0, dtype=torch.int64, device=device)
        self._number = 0

    def __len__(self) -> int:
        return self._number

    @property
    def rows(self) -> Float[Tensor, "n p"]:
        return self._rows[: self._number]

    @property
    def labels(self) -> Int[Tensor, " n"]:
        return self._labels[: self._number]

    def has_room(self, number: int, dtype: torch.dtype) -> bool:
        """Return whether so many rows of a dtype can be added without loss."""
        fits = self._number + number <= len(self._rows)
        return fits and torch.promote_types(dtype, self._rows.dtype) == self._rows.dtype

    def make_room(self, number: int, dtype: torch.dtype) -> None:
        """Create an empty buffer for so many rows."""
        if len(self._rows):  # rows of several dtypes come: the widest holds them all
            dtype = torch.promote_types(dtype, self._rows.dtype)
        device, dim = self._rows.device, self._rows.shape[1]
        self._rows = torch.empty(number, dim, dtype=dtype, device=device)
        self._labels = torch.empty(number, dtype=torch.int64, device=device)
        self._number = 0

    def add(self, rows: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Copy rows into the buffer, which must have room."""
        end = self._number + len(labels)
        self._rows[self._number : end] = rows
        self._labels[self._number : end] = labels
        self._number = end

    def clear(self) -> None:
        """Forget the rows; their memory is used again."""
        self._number = 0

    def renumbered(self, which: Int[Tensor, " k"], num_classes: int) -> PendingRows:
        """Return the same rows with the labels 0, 1, … for the classes `which` (-1: a class without rows)."""
        numbers = torch.full((num_classes,), -1, device=which.device)
        numbers[which[which >= 0]] = (which >= 0).nonzero()[:, 0]
        part = PendingRows(self._rows.shape[1], self._rows.device)
        part._rows, part._labels, part._number = self.rows, numbers[self.labels], self._number
        return part


def joined_rows(
    parts: Sequence[PendingRows | None], device: torch.device, fit: Callable[[int], bool]
) -> PendingRows | None:
    """Return the rows of all parts, copied to a device; None if those of one part are not known, or all do not `fit`."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not fit(sum(map(len, known))):
        return None
    joined = PendingRows(known[0].rows.shape[1], device)
    filled = [part for part in known if len(part)]
    for dtype in {part.rows.dtype for part in filled}:
        joined.make_room(sum(map(len, filled)), dtype)  # the widest holds them all
    for part in filled:
        joined.add(part.rows.to(device), part.labels.to(device))
    return joined


def deviations_of_few(
    pending: PendingRows, moments: ClassMoments
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]]:
    """Return the deviations of all rows from their class means, float64, and their labels.

    Args:
        pending: all rows that `moments` have seen.
        moments: their first-order sums.
    """
    labels = pending.labels
    deviations = pending.rows.double() - moments.means().index_select(0, labels)
    # The means are rounded: what that leaves would count as one more direction of each class.
    rest = torch.zeros_like(moments.centres, dtype=torch.float64).index_add_(0, labels, deviations)
    rest /= moments.counts.clamp_min(1)[:, None]
    return deviations.sub_(rest.index_select(0, labels)), labels
