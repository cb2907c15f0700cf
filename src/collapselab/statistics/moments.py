"""Sums that are linear or quadratic in one row: counts, class means, class scatters, mean directions.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import add_converted_
from collapselab.statistics.centred_rows import (
    SAFE_NORMS,
    CentredRows,
    are_safe,
    centred_in_float32,
    deviations_of,
)
from collapselab.statistics.class_centres import GROWTH, ClassCentres, squared_centres
from collapselab.statistics.rows import refuse_unbounded, selected, squared_norms
from collapselab.statistics.shared import shared_scratch

# A block of this size stays in the processor's cache while it is added.
_BLOCK_ELEMENTS = 2**20
# Narrow rows cost little: they are computed in float64 throughout.
NARROW = 64


def block_rows(dim: int) -> int:
    """Return the largest number of rows of p features that are added at a time."""
    return max(64, _BLOCK_ELEMENTS // dim)


class ClassMoments(ClassCentres):
    """First-order sums of each class, about a provisional centre per class.

    Attributes:
        unit_weights: sum of 1/norm(h) over samples of non-zero norm, float64.
        zero_norms: samples per class with norm zero, which have no direction.
        max_square: the largest squared deviation so far, about the centre used at the time.
    """

    def __init__(
        self, num_classes: int, dim: int, *, centre_dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(num_classes, dim, centre_dtype=centre_dtype, device=device)
        self.unit_weights = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.zero_norms = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.max_square = 0.0
        self._scratch = shared_scratch()

    @property
    def sums(self) -> Float[Tensor, "c p"]:
        """Sum of deviations from the centre, float64."""
        return self._sums.read(0)

    @property
    def unit_sums(self) -> Float[Tensor, "c p"]:
        """Sum of (h - centre)/norm(h) over samples of non-zero norm, float64."""
        return self._sums.read(1)

    def means(self) -> Float[Tensor, "c p"]:
        """Return the mean of each class, float64; NaN where a class has no samples."""
        means = self.sums.div_(self.counts.double()[:, None])
        add_converted_(means, self.centres)
        return means

    def variances(self) -> Float[Tensor, " c"]:
        """Return the mean squared distance of each class's rows from their mean, float64; NaN without samples."""
        counts = self.counts.double()
        shifts = self._sums.norms(torch.arange(self.num_classes, device=counts.device)) / counts
        return (self.squares / counts - shifts.square()).clamp_min(0.0)

    def unit_counts(self) -> Int[Tensor, " c"]:
        """Return how many rows of each class have a norm other than zero."""
        return self.counts - self.zero_norms

    def unit_means(self, classes: Int[Tensor, " k"] | slice = slice(None)) -> Float[Tensor, "k p"]:
        """Return the mean of h / norm(h) over each class's rows of non-zero norm, float64; NaN without any."""
        means = self._sums.read(1, classes)
        means.add_(self.centres[classes] * self.unit_weights[classes][:, None])
        return means.div_(self.unit_counts()[classes].double()[:, None])

    def block_rows(self) -> int:
        """Return the largest number of rows that `add` takes at a time."""
        return block_rows(self.dim)

    def block_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which rows of this dtype are centred and squared, if their norms allow it."""
        return torch.float64 if self.dim <= NARROW or dtype == torch.float64 else torch.float32

    def add(
        self,
        features: Float[Tensor, "n p"],
        labels: Int[Tensor, " n"],
        here: Int[Tensor, " c"],
        on_deviations: Callable[[Float[Tensor, "n p"], Int[Tensor, " n"]], None] | None = None,
    ) -> None:
        """Add one block of rows.

        Args:
            here: number of rows of each class in the block.
            on_deviations: called with the centred rows and their labels; it must not store them.

        Raises:
            ValueError: NaN, infinity, or a norm whose square overflows; then nothing is added.
        """
        block = self._centred(features, labels, here)
        self.max_square = max(self.max_square, float(block.squares.max()))
        if on_deviations is not None:
            on_deviations(block.deviations, labels)
        inverse_norms = block.norms.reciprocal()
        if block.has_small:
            inverse_norms.masked_fill_(block.norms == 0, 0.0)
            self.zero_norms.index_add_(0, labels, (block.norms == 0).long())
        self._sums.add(block.deviations, labels, here, inverse_norms)
        self.counts.add_(here)
        self.squares.index_add_(0, labels, block.squares)
        self.unit_weights.index_add_(0, labels, inverse_norms)

    def _centred(self, features: Tensor, labels: Tensor, here: Tensor) -> CentredRows:
        self._scratch = shared_scratch()  # of the thread that adds rows
        rows, new = features.to(self.block_dtype(features.dtype)), self.new_classes(here)
        if new is None and rows.dtype == self.centres.dtype == torch.float32:
            block = centred_in_float32(rows, labels, self.centres, self.centre_squares, self._scratch)
            if block is not None:
                return block
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        low, high = (float(value) for value in torch.aminmax(norms))
        if not are_safe(low, high):
            rows = features.double()
            norms = torch.linalg.vector_norm(rows, dim=1)
            refuse_unbounded(features)
        if new is not None:
            self.place_centres(rows, labels, new)
        deviations = deviations_of(rows, labels, self.centres, self._scratch)
        return CentredRows(deviations, squared_norms(deviations), norms, has_small=not low > SAFE_NORMS[0])

    def add_sums(
        self,
        here: Int[Tensor, " c"],
        by_class: Float[Tensor, "c k"],
        max_square: float,
    ) -> None:
        """Add what a large block adds to the classes, besides `float64_totals`.

        Args:
            here: rows of each class in the block.
            by_class: sums of squared deviations and of 1/norm, and rows of norm zero where there can be any.
            max_square: the largest squared deviation.
        """
        self._rows_until_due = 0
        self.counts.add_(here)
        self.squares.add_(by_class[:, 0])
        self.unit_weights.add_(by_class[:, 1])
        if by_class.shape[1] > 2:
            self.zero_norms.add_(by_class[:, 2].long())
        self.max_square = max(self.max_square, max_square)

    def float64_totals(self) -> tuple[Float[Tensor, "c p"], Float[Tensor, "c p"]]:
        """Return the tensors to which float64 sums of deviations and of unit deviations are added."""
        return self._sums.totals()

    def move_centres(self, which: Int[Tensor, " k"], moved: Float[Tensor, "k p"]) -> None:
        """Move the centres of classes `which` to `moved` and re-express every sum about them."""
        sums, unit_sums = self._sums.read(0, which), self._sums.read(1, which)
        by = moved.double() - self.centres[which].double()
        n = self.counts[which].double()[:, None]
        self.squares[which] += (n * by.square() - 2 * by * sums).sum(1)
        self._sums.replace_some(which, sums - n * by, unit_sums - self.unit_weights[which][:, None] * by)
        self._set_centres(which, moved)

    def fill_from(self, parts: list[ClassMoments]) -> None:
        """Add up `parts` in this object, which must be empty; the parts are only read."""
        device = self.centres.device
        counts = [part.counts.to(device) for part in parts]
        self.counts = torch.stack(counts).sum(0)
        n = self.counts.clamp_min(1).double()[:, None]
        # The common centre is the rounded mean, computed relative to the first part's centre of each class.
        total, unit_total = (torch.zeros_like(self.centres, dtype=torch.float64) for _ in range(2))
        anchor = torch.zeros_like(total)
        known = torch.zeros_like(self.counts, dtype=torch.bool)
        for part, count in zip(parts, counts, strict=True):
            new = (count > 0) & ~known
            anchor[new] = part.centres.to(device)[new].double()
            known |= new
        offset = torch.zeros_like(anchor)
        for part, count in zip(parts, counts, strict=True):
            to_centre = part.centres.to(device).double() - anchor
            offset += torch.where((count > 0)[:, None], count[:, None] * to_centre, 0.0)
            offset += part.sums.to(device)
        self.judge_at = (GROWTH * self.counts).clamp_min(GROWTH)
        self._set_centres(torch.arange(self.num_classes, device=device), anchor + offset / n)
        self.all_seen = bool((self.counts > 0).all())
        for part, count in zip(parts, counts, strict=True):
            by = self.shift_from(part)
            sums, weights = part.sums.to(device), part.unit_weights.to(device)
            m = count.double()[:, None]
            self.squares.add_(part.squares.to(device) + (m * by.square() - 2 * by * sums).sum(1))
            total += sums - m * by
            self.zero_norms += part.zero_norms.to(device)
            self.unit_weights.add_(weights)
            self.max_square = max(self.max_square, part.max_square)
            unit_total += part.unit_sums.to(device) - weights[:, None] * by
        self._sums.replace(total, unit_total)

    def shift_from(self, part: ClassMoments) -> Float[Tensor, "c p"]:
        """Return this object's centres minus the part's, zero for classes the part has not seen."""
        device = self.centres.device
        by = self.centres.double() - part.centres.to(device).double()
        return torch.where((part.counts.to(device) > 0)[:, None], by, 0.0)

    def select_classes(self, which: Int[Tensor, " k"]) -> ClassMoments:
        """Return the sums of these classes only (-1: an empty one), renumbered; the result owns its tensors."""
        part = ClassMoments(len(which), self.dim, centre_dtype=self.centres.dtype, device=self.centres.device)
        chosen = {name: selected(tensor, which) for name, tensor in self.tensors().items()}
        chosen["judge_at"].clamp_min_(GROWTH)
        part.load(chosen)
        return part

    def grow(self, num_classes: int) -> None:
        """Add classes without samples, so that there are `num_classes`."""
        which = torch.arange(num_classes, device=self.counts.device)
        which[self.num_classes :] = -1
        for name in (
            "counts",
            "squares",
            "unit_weights",
            "zero_norms",
            "judge_at",
            "centres",
            "centre_squares",
        ):
            setattr(self, name, selected(getattr(self, name), which))
        self.judge_at.clamp_min_(GROWTH)
        self._sums.grow(which)
        self.num_classes, self.all_seen, self._rows_until_due = num_classes, False, 0

    def tensors(self) -> dict[str, Tensor]:
        """Return everything summed so far, as owned tensors, for storage."""
        return {
            "counts": self.counts.clone(),
            "squares": self.squares.clone(),
            "unit_weights": self.unit_weights.clone(),
            "zero_norms": self.zero_norms.clone(),
            "judge_at": self.judge_at.clone(),
            "centres": self.centres.clone(),
            "sums": self.sums,
            "unit_sums": self.unit_sums,
            "max_square": torch.tensor(self.max_square, dtype=torch.float64),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave; the arguments are copied."""
        for name in ("counts", "squares", "unit_weights", "zero_norms", "judge_at", "centres"):
            setattr(self, name, tensors[name].clone())
        self.max_square = float(tensors["max_square"])
        self.centre_squares, self._least_count, self._rows_until_due = squared_centres(self.centres), 0, 0
        self._sums.replace(tensors["sums"].clone(), tensors["unit_sums"].clone())
        self.all_seen = bool((self.counts > 0).all())
