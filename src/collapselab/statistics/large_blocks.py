"""Large blocks of rows are added to `ClassMoments` with few kernels, and with two values at most that the host waits for.

The arithmetic is that of `ClassMoments.add`: rows are centred, then squared; totals are float64. What differs is how many
rows are centred at a time, and that float32 sums are added to the float64 totals after 64 rows.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.checking import RefusedBatch, check_range
from collapselab.statistics.gathering import Chunk
from collapselab.statistics.moments import ClassMoments
from collapselab.statistics.rows import is_bounded, refuse_unbounded, squared_norms
from collapselab.statistics.sorted_sums import RowsByClass

_NORM_ELEMENTS = 2**21


@dataclass(frozen=True)
class CheckedChunk:
    """The rows of a chunk that can be added.

    Attributes:
        rows: (n, p).
        labels: (n,), int64.
        norms: (n,) norms of the rows, float64.
        norm_range: the smallest and the largest of these.
        value_range: the smallest and the largest value.
        high: the largest label.
        refused: the error for batches that were left out; None if all rows can be added.
    """

    rows: Float[Tensor, "n p"]
    labels: Int[Tensor, " n"]
    norms: Float[Tensor, " n"]
    norm_range: tuple[float, float]
    value_range: tuple[float, float]
    high: int
    refused: RefusedBatch | None = None


def checked_chunk(chunk: Chunk, num_classes: int | None) -> CheckedChunk | RefusedBatch:
    """Check labels and values of a chunk, whole at first and by batch only if something is wrong.

    Args:
        num_classes: labels must be lower; None for no limit.

    Returns:
        The rows of the batches that can be added, or the error if there are none.
    """
    found = _looked_at(chunk.rows, chunk.labels)
    if _is_in_range(found, num_classes):
        return found
    sizes = [size for _, size in chunk.batches]
    accepted, errors = [], []
    for (number, _), rows, labels in zip(
        chunk.batches, chunk.rows.split(sizes), chunk.labels.split(sizes), strict=True
    ):
        try:
            check_range(labels, num_classes)
            refuse_unbounded(rows)
        except ValueError as error:
            errors.append((number, str(error)))
        else:
            accepted.append((rows, labels))
    refused = RefusedBatch(*errors[0], others=len(errors) - 1)
    if not accepted:
        return refused
    rows, labels = (torch.cat(parts) for parts in zip(*accepted, strict=True))
    return replace(_looked_at(rows, labels), refused=refused)


def _looked_at(rows: Tensor, labels: Tensor) -> CheckedChunk:
    # A few rows at a time: each norm in float64 is computed from a float64 copy.
    parts = rows.split(max(64, _NORM_ELEMENTS // rows.shape[1]))
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts])
    ranges = [*torch.aminmax(labels), *torch.aminmax(rows), *torch.aminmax(norms)]
    low, high, *bounds = torch.stack([value.double() for value in ranges]).tolist()
    return CheckedChunk(
        rows, labels, norms, (bounds[2], bounds[3]), (bounds[0], bounds[1]), int(high if low >= 0 else -1)
    )


def _is_in_range(found: CheckedChunk, num_classes: int | None) -> bool:
    fits = found.high >= 0 and (num_classes is None or found.high < num_classes)
    return fits and is_bounded(*found.value_range, found.rows.shape[1])


class LargeBlock:
    """A block on its way into `ClassMoments`; call its methods in this order.

    Args:
        moments: what the block is added to.
        rows: (n, p), checked.
        labels: (n,), int64, in range.
        norms: (n,) norms of the rows, float64.
        dtype: dtype in which rows are centred and squared.
    """

    def __init__(
        self, moments: ClassMoments, rows: Tensor, labels: Tensor, norms: Tensor, dtype: torch.dtype
    ) -> None:
        self.moments, self._dtype = moments, dtype
        self._rows, self._labels, self._norms = rows, labels, norms
        ones = torch.ones_like(labels)
        self._here = torch.zeros_like(moments.counts).scatter_add_(0, labels, ones)
        self._by_class = RowsByClass(labels, moments.num_classes)

    def outgrown_centres(self) -> tuple[Tensor, Tensor] | None:
        """Return `ClassMoments.outgrown_centres`."""
        if self.moments.can_outgrow(len(self._labels)):
            return self.moments.outgrown_centres(self._rows, self._labels, self._here, _class_sums)
        return None

    def deviations(self) -> Float[Tensor, "n p"]:
        """Return the rows minus the centres of their classes, in a new tensor."""
        out = self.moments.centres.index_select(0, self._labels).to(self._dtype)
        return torch.sub(self._rows, out, out=out)

    def add(self) -> tuple[Float[Tensor, "n p"], bool]:
        """Add the block.

        Returns:
            Its deviations, which the caller may change, and whether `ClassMoments.poor_centres` has any to examine.
        """
        moments, norms = self.moments, self._norms
        new = moments.new_classes(self._here)
        if new is not None:
            moments.place_centres(self._rows.to(self._dtype), self._labels, new, _class_sums)
        deviations = self.deviations()
        squares = squared_norms(deviations)
        is_zero = norms == 0
        inverse_norms = norms.reciprocal().masked_fill_(is_zero, 0.0)
        sums, unit_sums = moments.float64_totals()
        self._by_class.add_to(sums, deviations)
        self._by_class.add_to(unit_sums, deviations, inverse_norms.to(deviations.dtype))
        by_row = torch.stack([squares, inverse_norms, is_zero.double()], dim=1)
        by_class = torch.zeros(moments.num_classes, 3, dtype=torch.float64, device=norms.device)
        self._by_class.add_to(by_class, by_row)
        moments.squares += by_class[:, 0]
        moments.unit_weights += by_class[:, 1]
        moments.zero_norms += by_class[:, 2].long()
        moments.counts += self._here
        return deviations, moments.look_at_centres(squares)


def _class_sums(values: Tensor, members: Tensor, num_classes: int) -> Tensor:
    return RowsByClass(members, num_classes).sums(values)
