"""The provisional centre of each class: when it is placed, and when it is moved.

Letters: n samples, p features, c classes, k entries.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapselab.numerics import slice_elements
from collapselab.statistics.class_sums import ClassSums
from collapselab.statistics.readback import Readback
from collapselab.statistics.rows import SumByClass, class_means_in, index_sums, refuse_unbounded

# A class that grows by this factor in one block takes the block's mean as its centre.
GROWTH = 4
# A centre further from its class mean than this many standard deviations is poor: float32 squares and
# products about it lose accuracy by that factor squared.
_MAX_CENTRE_SHIFT = 2.0


class ClassCentres:
    """A provisional centre per class, and the sums about it that decide whether it is a good one.

    The centre of a class is the mean of its rows in the block where the class is first seen, rounded to
    `centre_dtype`, so that subtracting it from a row near it is exact (Sterbenz). A centre that proves poor
    is moved while its class is small: when one block brings many times the rows seen so far
    (`outgrown_centres`), and otherwise whenever a class has grown fourfold (`poor_centres`). So no centre is ever
    much further from the mean of its class than the samples are.

    Attributes:
        counts: samples per class, int64.
        squares: sum of squared deviations from the centre, float64.
        centres: provisional centres, `centre_dtype`.
        centre_squares: their squared norms, float64.
        judge_at: the count at which the centre of a class is examined next.
        all_seen: whether every class has a centre.
    """

    def __init__(
        self, num_classes: int, dim: int, *, centre_dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_classes = num_classes
        self.dim = dim
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.squares = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.centres = torch.zeros(num_classes, dim, dtype=centre_dtype, device=device)
        self.centre_squares = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.judge_at = torch.full((num_classes,), GROWTH, device=device)
        self.all_seen = False
        self._sums = ClassSums(num_classes, dim, device)
        self._least_count = 0  # of a class with samples, or less
        self._rows_until_due = 0  # fewer rows leave no centre to examine
        self._judgement: tuple[Tensor, Readback] | None = None

    def new_classes(self, here: Int[Tensor, " c"]) -> Bool[Tensor, " c"] | None:
        """Return a mask of the classes that are seen for the first time; None if there are none.

        Args:
            here: number of rows of each class in a block.
        """
        new = None if self.all_seen else (here > 0) & (self.counts == 0)
        return new if new is not None and bool(new.any()) else None

    def place_centres(
        self,
        rows: Float[Tensor, "n p"],
        labels: Int[Tensor, " n"],
        new: Bool[Tensor, " c"],
        summed: SumByClass = index_sums,
    ) -> None:
        """Give the classes `new` a centre, the mean of their rows in this block."""
        self._set_centres(*class_means_in(rows, labels, new, summed))
        self.all_seen = bool(((self.counts > 0) | new).all())
        self._least_count = 0

    def _set_centres(self, classes: Tensor, centres: Tensor) -> None:
        self.centres[classes] = centres = centres.to(self.centres.dtype)
        self.centre_squares[classes] = squared_centres(centres)

    def outgrown_centres(
        self,
        features: Float[Tensor, "n p"],
        labels: Int[Tensor, " n"],
        here: Int[Tensor, " c"],
        summed: SumByClass = index_sums,
    ) -> tuple[Int[Tensor, " k"], Float[Tensor, "k p"]] | None:
        """Return the classes of which this block has many times the rows seen so far, and their means in the block.

        Call this before the block is added.

        Args:
            here: number of rows of each class in the block.
            summed: how rows are summed by class.

        Raises:
            ValueError: as `add`.
        """
        if not self.can_outgrow(len(labels)):
            return None
        outgrown = (self.counts > 0) & (here >= GROWTH * self.counts)
        if not bool(outgrown.any()):
            return None
        refuse_unbounded(features)
        rows = features.to(torch.promote_types(features.dtype, torch.float32))
        classes, means = class_means_in(rows, labels, outgrown, summed)
        return self._moving(classes, means)

    def poor_centres(self, num_rows: int) -> tuple[Int[Tensor, " k"], Float[Tensor, "k p"]] | None:
        """Return the classes that have grown fourfold since their centre was last judged and whose centre proves
        poor, and their means. Call this after a block is added.

        Args:
            num_rows: of the block.
        """
        self._rows_until_due -= num_rows
        if self._rows_until_due > 0:
            return None
        missing = self.judge_at - self.counts
        self._rows_until_due = int(missing.min())
        if self._rows_until_due > 0:
            return None
        classes = (missing <= 0).nonzero()[:, 0]
        self.judge_at[classes] = GROWTH * self.counts[classes]
        present = torch.where(self.counts > 0, self.counts, torch.iinfo(torch.int64).max)
        self._least_count = int(present.min())
        counts = self.counts[classes].double()
        shift2 = (self._sums.norms(classes) / counts).square_()
        poor = shift2 > _MAX_CENTRE_SHIFT**2 * (self.squares[classes] / counts - shift2)
        if not bool(poor.any()):
            return None
        classes = classes[poor]
        shifts = self._sums.read(0, classes).div_(counts[poor][:, None])
        return self._moving(classes, shifts.add_(self.centres[classes]))

    def judge(self) -> None:
        """Begin to look for poor centres among the classes that have grown fourfold; `judged` has the answer.

        The host waits for nothing: this is `poor_centres` for large blocks.
        """
        due = self.counts >= self.judge_at
        counts = self.counts.clamp_min(1).double()
        shift2 = (torch.linalg.vector_norm(self._sums.read(0), dim=1) / counts).square_()
        poor = due & (shift2 > _MAX_CENTRE_SHIFT**2 * (self.squares / counts - shift2))
        self.judge_at = torch.where(due, GROWTH * self.counts, self.judge_at)
        self._judgement = poor, Readback(poor.any().double()[None])

    def judged(self) -> tuple[Int[Tensor, " k"], Float[Tensor, "k p"]] | None:
        """Return the classes whose centre proved poor when `judge` was called last, and their means now."""
        judgement, self._judgement = self._judgement, None
        if judgement is None or not judgement[1].read()[0]:
            return None
        classes = judgement[0].nonzero()[:, 0]
        shifts = self._sums.read(0, classes).div_(self.counts[classes].double()[:, None])
        return self._moving(classes, shifts.add_(self.centres[classes]))

    def questions(self, here: Int[Tensor, " c"]) -> tuple[Bool[Tensor, " c"], Bool[Tensor, " c"]]:
        """Return masks of the classes that need a centre from a block, and of those that `judge` examines after it.

        The former have their first rows in the block, or many times the rows seen so far.

        Args:
            here: rows of each class in the block.
        """
        return here >= (GROWTH * self.counts).clamp_min_(1), self.counts + here >= self.judge_at

    def can_outgrow(self, num_rows: int) -> bool:
        """Return whether `outgrown_centres` could find any in a block of so many rows; no value is read."""
        return num_rows >= GROWTH * self._least_count

    def _moving(self, classes: Tensor, means: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return those of `classes` whose rounded mean differs from their centre, and these means."""
        moved = means.to(self.centres.dtype)
        changed = (moved != self.centres[classes]).any(dim=1)
        return (classes[changed], moved[changed]) if bool(changed.any()) else None


def squared_centres(centres: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
    """Return the squared norm of each centre, float64."""
    parts = centres.split(max(1, slice_elements(centres.device) // centres.shape[1]))
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts]).square_()
