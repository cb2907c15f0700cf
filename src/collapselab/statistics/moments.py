"""Sums that are linear or quadratic in one row: counts, class means, class scatters, mean directions.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import add_converted_
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
# float32 squares and their sums neither overflow nor underflow for rows of such norms, even where deviations are 1e-6
# of them; blocks with other rows are computed in float64.
_SAFE_NORMS = (2.0**-30, 2.0**50)
# float32 deviations are summed in float32 over about this many rows of a class, then added to the float64
# total: the rounding of a class mean stays below eps32 times the spread of its class.
_ROWS_PER_PARTIAL = 64
_MIN_PARTIAL_ROWS = 512
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
        self.judge_at = torch.full((num_classes,), _GROWTH, device=device)
        self.max_square = 0.0
        self.counts = zeros(num_classes, dtype=torch.int64)
        self.squares = zeros(num_classes)
        self.unit_weights = zeros(num_classes)
        # float64 totals, and float32 sums that are added to them from time to time. Each pair is allocated when first
        # needed: for many classes, touching fresh memory costs as much as the sums themselves.
        self._totals: tuple[Tensor, Tensor] | None = None
        self._partials: tuple[Tensor, Tensor] | None = None
        self._partial_rows = 0
        self.all_seen = False
        self._least_count = 0
        self._scratch = shared_scratch()

    @property
    def sums(self) -> Float[Tensor, "c p"]:
        """Sum of deviations from the centre, float64."""
        return self._sum_of(0, slice(None))

    @property
    def unit_sums(self) -> Float[Tensor, "c p"]:
        """Sum of (h - centre)/norm(h) over samples of non-zero norm, float64."""
        return self._sum_of(1, slice(None))

    def means(self) -> Float[Tensor, "c p"]:
        """Return the mean of each class, float64; NaN where a class has no samples."""
        return (self.sums / self.counts.double()[:, None]).add_(self.centres)

    def variances(self) -> Float[Tensor, " c"]:
        """Return the mean squared distance of each class's rows from their mean, float64; NaN without samples."""
        counts = self.counts.double()
        shifts = torch.linalg.vector_norm(self.sums, dim=1) / counts
        return (self.squares / counts - shifts.square()).clamp_min(0.0)

    def unit_counts(self) -> Int[Tensor, " c"]:
        """Return how many rows of each class have a norm other than zero."""
        return self.counts - self.zero_norms

    def unit_means(self) -> Float[Tensor, "c p"]:
        """Return the mean of h / norm(h) over each class's rows of non-zero norm, float64; NaN without any."""
        sums = (self.centres * self.unit_weights[:, None]).add_(self.unit_sums)
        return sums.div_(self.unit_counts().double()[:, None])

    def _sum_of(self, kind: int, classes: Tensor | slice) -> Tensor:
        """Return total plus partial sum of these classes, in a new tensor."""
        total = torch.zeros_like(self.centres[classes], dtype=torch.float64)
        for pair in (self._totals, self._partials):
            if pair is not None:
                add_converted_(total, pair[kind][classes])
        return total

    def block_rows(self) -> int:
        """Return the largest number of rows that `add` takes at a time."""
        return block_rows(self.dim)

    def block_dtype(self, dtype: torch.dtype, norm_range: tuple[float, float]) -> torch.dtype:
        """Return the dtype in which rows of this dtype and these norms are centred and squared."""
        narrow = self.dim <= NARROW or dtype == torch.float64
        low, high = norm_range
        return torch.float64 if narrow or not _are_safe(low, high) else torch.float32

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
        narrow = self.dim <= NARROW or features.dtype == torch.float64
        rows = features.to(torch.float64 if narrow else torch.float32)
        # In float64: 1 - norm(m_c)^2, the angular spread of a class, is the squared deviation of unit vectors,
        # which is smaller than the rounding of a float32 norm for features far from the origin.
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        low, high = (float(value) for value in torch.aminmax(norms))
        if not _are_safe(low, high):
            rows, norms, high = self._careful_norms(features)
        if not self.all_seen:
            self.place_centres(rows, labels, here)
        deviations = self._deviations(rows, labels)
        squares = squared_norms(deviations)
        sums, unit_sums = self._targets(deviations.dtype, len(labels))
        sums.index_add_(0, labels, deviations)
        self.max_square = max(self.max_square, float(squares.max()))
        if on_deviations is not None:
            on_deviations(deviations, labels)
        inverse_norms = norms.reciprocal()
        if not low > _SAFE_NORMS[0]:
            inverse_norms.masked_fill_(norms == 0, 0.0)
            self.zero_norms.index_add_(0, labels, (norms == 0).long())
        unit_sums.index_add_(0, labels, deviations.mul_(inverse_norms.to(deviations.dtype)[:, None]))
        self.counts += here
        self.squares.index_add_(0, labels, squares)
        self.unit_weights.index_add_(0, labels, inverse_norms)

    def _careful_norms(self, features: Tensor) -> tuple[Tensor, Tensor, float]:
        rows = features.double()
        norms = torch.linalg.vector_norm(rows, dim=1)
        refuse_unbounded(features)
        return rows, norms, float(norms.max())

    def place_centres(
        self, rows: Tensor, labels: Tensor, here: Tensor, summed: SumByClass = index_sums
    ) -> None:
        """Give classes that are seen for the first time a centre, the mean of their rows in this block."""
        new = (here > 0) & (self.counts == 0)
        if bool(new.any()):
            classes, means = class_means_in(rows, labels, new, summed)
            self.centres[classes] = means.to(self.centres.dtype)
            self.all_seen = bool(((self.counts > 0) | new).all())

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
        counts = self.counts[classes].double()
        shifts = self._sum_of(0, classes) / counts[:, None]
        shift2 = shifts.square().sum(1)
        poor = shift2 > _MAX_CENTRE_SHIFT**2 * (self.squares[classes] / counts - shift2)
        if not bool(poor.any()):
            return None
        classes = classes[poor]
        return self._moving(classes, self.centres[classes].double() + shifts[poor])

    def look_at_centres(self, squares: Float[Tensor, " n"]) -> bool:
        """Return whether `poor_centres` has any to examine, reading all values from the device at once.

        Args:
            squares: squared deviations of the block that was added last.
        """
        present = torch.where(self.counts > 0, self.counts, torch.iinfo(torch.int64).max)
        due = (self.counts >= self.judge_at).any()
        read = torch.stack([squares.max(), due.double(), present.min().double()]).tolist()
        self.max_square = max(self.max_square, read[0])
        self._least_count = int(read[2])
        return bool(read[1])

    def can_outgrow(self, num_rows: int) -> bool:
        """Return whether `outgrown_centres` could find any in a block of so many rows; no value is read."""
        return num_rows >= _GROWTH * self._least_count

    def _moving(self, classes: Tensor, means: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return those of `classes` whose rounded mean differs from their centre, and these means."""
        moved = means.to(self.centres.dtype)
        changed = (moved != self.centres[classes]).any(dim=1)
        return (classes[changed], moved[changed]) if bool(changed.any()) else None

    def _deviations(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return rows - centres[labels] in scratch memory."""
        self._scratch = shared_scratch()  # of the thread that adds rows
        out = self._scratch.take(len(rows), self.dim, rows.dtype, rows.device)
        if rows.dtype == self.centres.dtype:
            torch.index_select(self.centres, 0, labels, out=out)
        else:
            out.copy_(self.centres[labels])
        return torch.sub(rows, out, out=out)

    def _targets(self, dtype: torch.dtype, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the tensors to which deviations and unit deviations of this dtype are added."""
        if dtype == torch.float64:
            return self.float64_totals()
        if self._partials is None:
            self._partials = self._zero_pair(torch.float32)
        limit = max(_MIN_PARTIAL_ROWS, _ROWS_PER_PARTIAL * self.num_classes)
        if self._partial_rows and self._partial_rows + num_rows > limit:
            for total, partial in zip(self.float64_totals(), self._partials, strict=True):
                add_converted_(total, partial)
                partial.zero_()
            self._partial_rows = 0
        self._partial_rows += num_rows
        return self._partials

    def float64_totals(self) -> tuple[Float[Tensor, "c p"], Float[Tensor, "c p"]]:
        """Return the tensors to which float64 sums of deviations and of unit deviations are added."""
        if self._totals is None:
            self._totals = self._zero_pair(torch.float64)
        return self._totals

    def _zero_pair(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.centres, dtype=dtype), torch.zeros_like(self.centres, dtype=dtype)

    def move_centres(self, which: Int[Tensor, " k"], moved: Float[Tensor, "k p"]) -> None:
        """Move the centres of classes `which` to `moved` and re-express every sum about them."""
        sums, unit_sums = self._sum_of(0, which), self._sum_of(1, which)
        by = moved.double() - self.centres[which].double()
        n = self.counts[which].double()[:, None]
        self.squares[which] += (n * by.square() - 2 * by * sums).sum(1)
        self.centres[which] = moved
        totals = self.float64_totals()
        totals[0][which] = sums - n * by
        totals[1][which] = unit_sums - self.unit_weights[which][:, None] * by
        for partial in self._partials or ():
            partial[which] = 0.0

    def _replace_sums(self, sums: Tensor, unit_sums: Tensor) -> None:
        self._totals, self._partials, self._partial_rows = (sums, unit_sums), None, 0

    def fill_from(self, parts: list[ClassMoments]) -> None:
        """Add up `parts` in this object, which must be empty; the parts are only read."""
        device = self.centres.device
        counts = [part.counts.to(device) for part in parts]
        self.counts = torch.stack(counts).sum(0)
        n = self.counts.clamp_min(1).double()[:, None]
        # The common centre is the rounded mean, computed relative to the first part's centre of each class.
        total, unit_total = self._zero_pair(torch.float64)
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
        self.centres = (anchor + offset / n).to(self.centres.dtype)
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
        self._replace_sums(total, unit_total)

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
        for name in ("counts", "squares", "unit_weights", "zero_norms", "judge_at", "centres"):
            setattr(self, name, selected(getattr(self, name), which))
        self.judge_at.clamp_min_(_GROWTH)
        for name in ("_totals", "_partials"):
            pair: tuple[Tensor, Tensor] | None = getattr(self, name)
            setattr(self, name, pair and (selected(pair[0], which), selected(pair[1], which)))
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
        self._replace_sums(tensors["sums"].clone(), tensors["unit_sums"].clone())
        self.all_seen = bool((self.counts > 0).all())


def _are_safe(low: float, high: float) -> bool:
    return _SAFE_NORMS[0] < low and high < _SAFE_NORMS[1]  # false for NaN
