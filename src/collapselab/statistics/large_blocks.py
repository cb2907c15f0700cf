"""Large blocks of rows are added to `ClassMoments` with few kernels, and the host never lets an accelerator run dry.

The arithmetic is that of `ClassMoments.add`: rows are centred, then squared; totals are float64. What differs is how many
rows are centred at a time, that float32 sums are added to the float64 totals after 64 rows, and when the host decides.
A block is centred before the host knows whether that can be done: meanwhile the findings that say so travel to it. Only
then is anything added.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.centred_rows import CANCELLED, are_safe
from collapselab.statistics.checking import RefusedBatch, check_range
from collapselab.statistics.gathering import Chunk
from collapselab.statistics.moments import ClassMoments
from collapselab.statistics.readback import Readback
from collapselab.statistics.rows import is_bounded, refuse_unbounded, squared_norms
from collapselab.statistics.sorted_sums import RowsByClass

# Products with the rows are a temporary of this size.
_PRODUCT_ELEMENTS = 2**22


class ChunkCheck:
    """What decides whether a chunk can be added, on its way to the host.

    Args:
        chunk: on the device of the statistics.
        num_classes: labels must be lower; None for no limit.
    """

    def __init__(self, chunk: Chunk, num_classes: int | None) -> None:
        self._dim, self._num_classes = chunk.rows.shape[1], num_classes
        ranges = [*torch.aminmax(chunk.labels), *torch.aminmax(chunk.rows)]
        self._readback = Readback(torch.stack([value.double() for value in ranges]))

    def read(self) -> tuple[bool, int, tuple[float, float]]:
        """Return whether it can be added, the highest label, and the smallest and the largest value."""
        low, high, smallest, largest = self._readback.read()
        in_range = low >= 0 and (self._num_classes is None or high < self._num_classes)
        return in_range and is_bounded(smallest, largest, self._dim), int(high), (smallest, largest)


def accepted_batches(chunk: Chunk, num_classes: int | None) -> tuple[Chunk | None, RefusedBatch]:
    """Return the batches of a chunk that can be added, None without any, and the error for the others.

    Args:
        num_classes: labels must be lower; None for no limit.
    """
    sizes = [size for _, size in chunk.batches]
    accepted, errors = [], []
    for batch, rows, labels in zip(
        chunk.batches, chunk.rows.split(sizes), chunk.labels.split(sizes), strict=True
    ):
        try:
            check_range(labels, num_classes)
            refuse_unbounded(rows)
        except ValueError as error:
            errors.append((batch[0], str(error)))
        else:
            accepted.append((batch, rows, labels))
    refused = RefusedBatch(*errors[0], others=len(errors) - 1)
    if not accepted:
        return None, refused
    batches, rows, labels = zip(*accepted, strict=True)
    return Chunk(torch.cat(rows), torch.cat(labels), batches), refused


@dataclass(frozen=True)
class BlockFindings:
    """What the host learns of a block before it is added.

    Attributes:
        is_safe: whether norms and deviations are exact enough; only float32 blocks can be unsafe.
        max_square: the largest squared deviation.
        moves_centres: whether a class has its first rows here, or many times the rows seen so far.
        is_due: whether `ClassMoments.judge` has any centre to examine.
    """

    is_safe: bool
    max_square: float
    moves_centres: bool
    is_due: bool


class LargeBlock:
    """A block on its way into `ClassMoments`: centred when it is made.

    Args:
        moments: what the block is added to.
        rows: (n, p).
        labels: (n,), int64. Those outside the classes are read as classes, until the host knows of them.
        dtype: dtype in which rows are centred and squared.

    Attributes:
        here: (c,) rows of each class.
        deviations: (n, p) the rows minus the centres of their classes.
        dtype: as given.
    """

    def __init__(
        self, moments: ClassMoments, rows: Float[Tensor, "n p"], labels: Int[Tensor, " n"], dtype: torch.dtype
    ) -> None:
        self.moments, self.rows, self.dtype = moments, rows, dtype
        self.labels = labels.clamp(0, moments.num_classes - 1)
        self.here = torch.zeros_like(moments.counts).scatter_add_(
            0, self.labels, torch.ones_like(self.labels)
        )
        out = moments.centres.index_select(0, self.labels).to(dtype)
        self.deviations = torch.sub(rows, out, out=out)
        self._squares = squared_norms(self.deviations)
        ranges = torch.aminmax(self._find_norms(), dim=1)
        classes = torch.stack(moments.questions(self.here)).any(1)
        self._readback = Readback(torch.cat([*ranges, classes.double()]))
        # Launched before the host waits: the device is busy until it goes on.
        self._by_class = RowsByClass(self.labels, moments.num_classes)

    def _find_norms(self) -> Float[Tensor, "3 n"]:
        """Compute the norms of the rows; return what decides whether they can be used, by row."""
        if self.dtype == torch.float64:
            norms2 = torch.linalg.vector_norm(self.rows, dim=1, dtype=torch.float64).square_()
            uncancelled = norms2
        else:
            # As in `centred_in_float32`, with h.d = m.d + norm(d)^2: norm(h)^2 = norm(m)^2 + 2 h.d - norm(d)^2.
            terms = self.moments.centre_squares[self.labels].add_(self._squares)
            norms2 = torch.add(terms, self._along_deviations(), alpha=2).sub_(self._squares, alpha=2)
            uncancelled = torch.sub(norms2, terms, alpha=CANCELLED)
        self._norms = norms2.sqrt()
        return torch.stack([self._norms, uncancelled, self._squares])

    def _along_deviations(self) -> Float[Tensor, " n"]:
        """Return the product of each row with its deviation."""
        step = max(64, _PRODUCT_ELEMENTS // self.rows.shape[1])
        pairs = zip(self.rows.split(step), self.deviations.split(step), strict=True)
        products = [torch.mul(rows, deviations).sum(1) for rows, deviations in pairs]
        return products[0] if len(products) == 1 else torch.cat(products)

    def findings(self) -> BlockFindings:
        """Return what was found; wait until it has been computed."""
        low, uncancelled, _, high, _, max_square, moves_centres, is_due = self._readback.read()
        is_safe = self.dtype == torch.float64 or (uncancelled > 0 and are_safe(low, high))
        return BlockFindings(is_safe, max_square, bool(moves_centres), bool(is_due))

    def release(self) -> None:
        """Free the deviations, before the block is centred again."""
        self.deviations = self.deviations.new_empty(0, self.rows.shape[1])

    def again(self, dtype: torch.dtype | None = None) -> LargeBlock:
        """Return the block centred again: after its centres have changed, or in another dtype."""
        self.release()
        return LargeBlock(self.moments, self.rows, self.labels, dtype or self.dtype)

    def add(self, found: BlockFindings) -> None:
        """Add the block. The findings must be its own: safe, with centres that are not to be moved."""
        moments = self.moments
        inverse_norms = self._norms.reciprocal()
        columns = [self._squares, inverse_norms]
        if self.dtype == torch.float64:  # in float32, no norm is zero
            is_zero = self._norms == 0
            inverse_norms.masked_fill_(is_zero, 0.0)
            columns.append(is_zero.double())
        sums, unit_sums = moments.float64_totals()
        self._by_class.add_to(sums, self.deviations)
        self._by_class.add_to(unit_sums, self.deviations, inverse_norms.to(self.deviations.dtype))
        by_class = self._by_class.by_class(self._by_class.sums(torch.stack(columns, dim=1)))
        moments.add_sums(self.here, by_class, found.max_square)


def class_sums(values: Float[Tensor, "n p"], members: Int[Tensor, " n"], num_classes: int) -> Tensor:
    """Return the sums of rows by class, in an order that depends on the labels alone."""
    return RowsByClass(members, num_classes).sums(values)
