"""Sums that are linear or quadratic in one row: counts, class means, class scatters, mean directions.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapselab.statistics.centred_rows import (
    SAFE_NORMS,
    CentredRows,
    are_safe,
    centred_in_float32,
    deviations_of,
)
from collapselab.statistics.class_sums import SLICE_ELEMENTS, ClassSums
from collapselab.statistics.readback import Readback
from collapselab.statistics.rows import (
    SumByClass,
    class_means_in,
    index_sums,
    refuse_unbounded,
    selected,
    squared_norms,
)
from collapselab.statistics.shared import shared_scratch

# A block of this size stays in the processor's cache while it is added.
_BLOCK_ELEMENTS = 2**20
# Narrow rows cost little: they are computed in float64 throughout.
NARROW = 64
# A class that grows by this factor in one block takes the block's mean as its centre.
_GROWTH = 4
# A centre further from its class mean than this many standard deviations is poor: float32 squares and
# products about it lose accuracy by that factor squared.
_MAX_CENTRE_SHIFT = 2.0


def block_rows(dim: int) -> int:
    """Return the largest number of rows of p features that are added at a time."""
    return max(64, _BLOCK_ELEMENTS // dim)


class ClassMoments:
    """First-order sums of each class, about a provisional centre per class.

    The centre of a class is the mean of its rows in the block where the class is first seen, rounded to
    `centre_dtype`, so that subtracting it from a row near it is exact (Sterbenz). A centre that proves poor
    is moved while its class is small: when one block brings many times the rows seen so far
    (`outgrown_centres`), and otherwise whenever a class has grown fourfold (`poor_centres`). So no centre is ever
    much further from the mean of its class than the samples are.

    Attributes:
        counts: samples per class, int64.
        squares: sum of squared deviations from the centre, float64.
        unit_weights: sum of 1/norm(h) over samples of non-zero norm, float64.
        centres: provisional centres, `centre_dtype`.
        centre_squares: their squared norms, float64.
        zero_norms: samples per class with norm zero, which have no direction.
        judge_at: the count at which the centre of a class is examined next.
        max_square: the largest squared deviation so far, about the centre used at the time.
        all_seen: whether every class has a centre.
    """

    def __init__(
        self, num_classes: int, dim: int, *, centre_dtype: torch.dtype, device: torch.device
    ) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.num_classes = num_classes
        self.dim = dim
        self.zero_norms = zeros(num_classes, dtype=torch.int64)
        self.centres = zeros(num_classes, dim, dtype=centre_dtype)
        self.centre_squares = zeros(num_classes)
        self.judge_at = torch.full((num_classes,), _GROWTH, device=device)
        self.max_square = 0.0
        self.counts = zeros(num_classes, dtype=torch.int64)
        self.squares = zeros(num_classes)
        self.unit_weights = zeros(num_classes)
        self._sums = ClassSums(num_classes, dim, device)
        self.all_seen = False
        self._least_count = 0  # of a class with samples, or less
        self._judgement: tuple[Tensor, Readback] | None = None
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
        return self.sums.div_(self.counts.double()[:, None]).add_(self.centres)

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
        deviations = block.deviations
        sums, unit_sums = self._sums.targets(deviations.dtype, len(labels))
        sums.index_add_(0, labels, deviations)
        self.max_square = max(self.max_square, float(block.squares.max()))
        if on_deviations is not None:
            on_deviations(deviations, labels)
        inverse_norms = block.norms.reciprocal()
        if block.has_small:
            inverse_norms.masked_fill_(block.norms == 0, 0.0)
            self.zero_norms.index_add_(0, labels, (block.norms == 0).long())
        unit_sums.index_add_(0, labels, deviations.mul_(inverse_norms.to(deviations.dtype)[:, None]))
        self.counts += here
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
        self.centre_squares[classes] = _squares(centres)

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
        outgrown = (self.counts > 0) & (here >= _GROWTH * self.counts)
        if not bool(outgrown.any()):
            return None
        refuse_unbounded(features)
        rows = features.to(torch.promote_types(features.dtype, torch.float32))
        classes, means = class_means_in(rows, labels, outgrown, summed)
        return self._moving(classes, means)

    def poor_centres(self) -> tuple[Int[Tensor, " k"], Float[Tensor, "k p"]] | None:
        """Return the classes that have grown fourfold since their centre was last judged and whose centre proves
        poor, and their means. Call this after a block is added.
        """
        due = self.counts >= self.judge_at
        if not bool(due.any()):
            return None
        classes = due.nonzero()[:, 0]
        self.judge_at[classes] = _GROWTH * self.counts[classes]
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
        self.judge_at = torch.where(due, _GROWTH * self.counts, self.judge_at)
        self._judgement = poor, Readback(poor.any().double()[None])

    def judged(self) -> tuple[Int[Tensor, " k"], Float[Tensor, "k p"]] | None:
        """Return the classes whose centre proved poor when `judge` was called last, and their means now."""
        judgement, self._judgement = self._judgement, None
        if judgement is None or not judgement[1].read()[0]:
            return None
        classes = judgement[0].nonzero()[:, 0]
        shifts = self._sums.read(0, classes).div_(self.counts[classes].double()[:, None])
        return self._moving(classes, shifts.add_(self.centres[classes]))

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
        self.counts += here
        self.squares += by_class[:, 0]
        self.unit_weights += by_class[:, 1]
        if by_class.shape[1] > 2:
            self.zero_norms += by_class[:, 2].long()
        self.max_square = max(self.max_square, max_square)

    def questions(self, here: Int[Tensor, " c"]) -> tuple[Bool[Tensor, " c"], Bool[Tensor, " c"]]:
        """Return masks of the classes that need a centre from a block, and of those that `judge` examines after it.

        The former have their first rows in the block, or many times the rows seen so far.

        Args:
            here: rows of each class in the block.
        """
        return here >= (_GROWTH * self.counts).clamp_min_(1), self.counts + here >= self.judge_at

    def can_outgrow(self, num_rows: int) -> bool:
        """Return whether `outgrown_centres` could find any in a block of so many rows; no value is read."""
        return num_rows >= _GROWTH * self._least_count

    def _moving(self, classes: Tensor, means: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return those of `classes` whose rounded mean differs from their centre, and these means."""
        moved = means.to(self.centres.dtype)
        changed = (moved != self.centres[classes]).any(dim=1)
        return (classes[changed], moved[changed]) if bool(changed.any()) else None

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
        self.judge_at = (_GROWTH * self.counts).clamp_min(_GROWTH)
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
        chosen["judge_at"].clamp_min_(_GROWTH)
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
        self.judge_at.clamp_min_(_GROWTH)
        self._sums.grow(which)
        self.num_classes, self.all_seen = num_classes, False

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
        self.centre_squares, self._least_count = _squares(self.centres), 0
        self._sums.replace(tensors["sums"].clone(), tensors["unit_sums"].clone())
        self.all_seen = bool((self.counts > 0).all())


def _squares(centres: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
    """Return the squared norm of each centre, float64."""
    parts = centres.split(max(1, SLICE_ELEMENTS // centres.shape[1]))
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts]).square_()
