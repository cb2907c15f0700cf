"""Sums of deviations and of unit deviations by class: float64 totals, and float32 sums that are added to them.

Letters: n samples, p features, c classes, k entries.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import add_converted_, slice_elements
from collapselab.statistics.rows import selected

# float32 deviations are summed in float32 over about this many rows of a class, then added to the float64
# total: the rounding of a class mean stays below eps32 times the spread of its class.
_ROWS_PER_PARTIAL = 64
_MIN_PARTIAL_ROWS = 512
# Blocks of at least so many rows per class are summed in the order of their classes. For fewer, the sums of a block are
# about as large as the block itself.
_ROWS_PER_BAG = 4


class ClassSums:
    """Two sums for each class: of deviations (kind 0) and of unit deviations (kind 1).

    Totals and partial sums are allocated when first needed: for many classes, touching fresh memory costs as much as the
    sums themselves.
    """

    def __init__(self, num_classes: int, dim: int, device: torch.device) -> None:
        self.num_classes, self.dim, self._device = num_classes, dim, device
        self._totals: tuple[Tensor, Tensor] | None = None
        self._partials: tuple[Tensor, Tensor] | None = None
        self._partial_rows = 0

    def read(self, kind: int, classes: Tensor | slice = slice(None)) -> Float[Tensor, "k p"]:
        """Return total plus partial sum of these classes, float64, in a new tensor."""
        pairs = [pair for pair in (self._totals, self._partials) if pair is not None]
        if not pairs:
            shape = self.num_classes, self.dim
            return torch.zeros(shape, dtype=torch.float64, device=self._device)[classes]
        total = pairs[0][kind][classes]
        total = (
            total.clone() if isinstance(classes, slice) and total.dtype == torch.float64 else total.double()
        )
        for pair in pairs[1:]:
            add_converted_(total, pair[kind][classes])
        return total

    def norms(self, classes: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Return the norm of the sum of deviations of each of `classes`, float64."""
        parts = classes.split(max(1, slice_elements(self._device) // self.dim))
        return torch.cat([torch.linalg.vector_norm(self.read(0, part), dim=1) for part in parts])

    def targets(self, dtype: torch.dtype, num_rows: int) -> tuple[Float[Tensor, "c p"], Float[Tensor, "c p"]]:
        """Return the tensors to which so many rows of this dtype are to be added, by kind."""
        if dtype == torch.float64:
            return self.totals()
        if self._partials is None:
            self._partials = self._zeros(torch.float32)
        limit = max(_MIN_PARTIAL_ROWS, _ROWS_PER_PARTIAL * self.num_classes)
        if self._partial_rows and self._partial_rows + num_rows > limit:
            for total, partial in zip(self.totals(), self._partials, strict=True):
                add_converted_(total, partial)
                partial.zero_()
            self._partial_rows = 0
        self._partial_rows += num_rows
        return self._partials

    def add(
        self,
        deviations: Float[Tensor, "n p"],
        labels: Int[Tensor, " n"],
        here: Int[Tensor, " c"],
        weights: Float[Tensor, " n"],
    ) -> None:
        """Add a block of deviations to the first sum, and times `weights` to the second; they may be overwritten.

        Args:
            here: number of rows of each class in the block.
        """
        num_rows, weights = labels.shape[0], weights.to(deviations.dtype)
        if deviations.dtype == torch.float32 and num_rows >= _ROWS_PER_BAG * self.num_classes:
            # `embedding_bag` reads rows where they are and multiplies them by weights on the way: two passes over the
            # block, by all threads. `index_add_` needs three, and is slower with two threads than with one.
            order, starts = torch.argsort(labels, stable=True), here.cumsum(0).sub_(here)
            sums, unit_sums = self.totals()
            sums.add_(_bag_sums(deviations, order, starts, None))
            unit_sums.add_(_bag_sums(deviations, order, starts, weights.index_select(0, order)))
            return
        sums, unit_sums = self.targets(deviations.dtype, num_rows)
        sums.index_add_(0, labels, deviations)
        unit_sums.index_add_(0, labels, deviations.mul_(weights.unsqueeze(1)))

    def totals(self) -> tuple[Float[Tensor, "c p"], Float[Tensor, "c p"]]:
        """Return the tensors to which float64 sums are added, by kind."""
        if self._totals is None:
            self._totals = self._zeros(torch.float64)
        return self._totals

    def _zeros(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        first, second = (
            torch.zeros(self.num_classes, self.dim, dtype=dtype, device=self._device) for _ in range(2)
        )
        return first, second

    def replace_some(self, which: Int[Tensor, " k"], *sums: Float[Tensor, "k p"]) -> None:
        """Replace both sums of the classes `which`."""
        # Before the first total is needed, partial sums hold a new sum as well as its terms.
        targets = self._partials if self._totals is None and self._partials is not None else self.totals()
        for target, new in zip(targets, sums, strict=True):
            target[which] = new.to(target.dtype)
        if targets is not self._partials:
            for partial in self._partials or ():
                partial[which] = 0.0

    def replace(self, sums: Float[Tensor, "c p"], unit_sums: Float[Tensor, "c p"]) -> None:
        """Replace both sums of all classes; the tensors are kept."""
        self._totals, self._partials, self._partial_rows = (sums, unit_sums), None, 0

    def grow(self, which: Int[Tensor, " k"]) -> None:
        """Renumber the classes: entry i becomes the old class `which[i]`, or an empty one for -1."""
        self.num_classes = len(which)
        for name in ("_totals", "_partials"):
            pair: tuple[Tensor, Tensor] | None = getattr(self, name)
            setattr(self, name, pair and (selected(pair[0], which), selected(pair[1], which)))


def _bag_sums(rows: Tensor, order: Tensor, starts: Tensor, weights: Tensor | None) -> Tensor:
    """Return sums of `rows[order]`, times weights, from each of `starts` to the next: `embedding_bag` unchecked."""
    return torch.embedding_bag(rows, order, starts, per_sample_weights=weights)[0]
