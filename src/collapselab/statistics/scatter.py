"""Within-class scatter matrices, pooled, sketched or per class, one large product at a time.

Letters: n samples, p features, c classes, k sketch columns.
"""

from __future__ import annotations

import copy
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.choices import Scatter
from collapselab.numerics import add_gram_, full_precision_products, power_of_two_near, symmetrized
from collapselab.statistics.moments import ClassMoments
from collapselab.statistics.pending import (
    ROWS_PER_SKETCH_COLUMN,
    PendingRows,
    deviations_of_few,
    joined_rows,
    pending_rows,
)
from collapselab.statistics.rows import selected
from collapselab.statistics.shared import Directions, shared_directions
from collapselab.statistics.weighting import balancing_scale

SCATTERS: tuple[Scatter, ...] = get_args(Scatter)

# For a p x k total few rows are enough: rows of a sketch are never collected. Longer float32 sums of nearly equal
# terms would round by more than a few hundred eps.
_ROWS_PER_SKETCH_PRODUCT = 256
# float32 products of deviations of this size neither overflow nor underflow; others are scaled.
_SAFE_DEVIATIONS = (2.0**-30, 2.0**40)


class WithinScatter:
    """sum_i w_{y_i} (h_i - centre)(h_i - centre)^T, whole, times a Gaussian, or per class.

    Args:
        kind: `full` stores p x p, `sketch` stores (p x p) @ Omega, `per_class` stores c x p x p.
        moments: the first-order sums of the same rows.
        class_counts: samples of each class in the whole data set, int64, (c,): rows of `full` and `sketch` are then
            weighted by 1/n_c where the classes are unbalanced. None for equal weights of all rows.
        dtype: dtype of the products.
        sketch_size, seed: columns and seed of the Gaussian Omega.
    """

    def __init__(
        self,
        kind: Scatter,
        moments: ClassMoments,
        *,
        class_counts: Int[Tensor, " c"] | None,
        dtype: torch.dtype,
        sketch_size: int,
        seed: int,
    ) -> None:
        p, device = moments.dim, moments.centres.device
        self.kind: Scatter = kind
        self.moments = moments
        scale = None
        if class_counts is not None and kind != "per_class":
            scale = balancing_scale(class_counts, dtype)
        # sqrt(w_c), in values that `dtype` can represent; None for ones.
        self.row_scale = None if scale is None else scale.to(device)
        self.dtype = dtype
        self.max_abs = 0.0
        self._directions: Directions | None = None
        if kind == "sketch":
            self._directions = shared_directions(p, sketch_size, seed, dtype, device)
        self._sketch_size = sketch_size
        self._total: Tensor | None = None
        # For a sketch they are copies of rows that have been added.
        self._pending = PendingRows(p, device)
        self._pending_are_all = True
        # Of merged parts: copies of all their rows, which are in the total.
        self.kept: PendingRows | None = None
        self._any_in_total = False

    @property
    def total(self) -> Tensor:
        """The sum of the products; created when it is first needed, which few rows never do."""
        if self._total is None:
            p, device = self.moments.dim, self.moments.centres.device
            if self.kind == "sketch":
                # Stored transposed: its products come as k x p.
                self._total = torch.zeros(self._sketch_size, p, dtype=torch.float64, device=device).T
            else:
                shape = (p, p) if self.kind == "full" else (self.moments.num_classes, p, p)
                self._total = torch.zeros(shape, dtype=torch.float64, device=device)
        return self._total

    @total.setter
    def total(self, total: Tensor) -> None:
        self._total = total

    @property
    def omega(self) -> Float[Tensor, "p k"] | None:
        """The Gaussian of a sketch, float64."""
        return None if self._directions is None else self._directions.exact

    def add_deviations(self, deviations: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Add rows to a sketch that `moments` has centred already; they are only read."""
        assert self._directions is not None
        scale, omega = self._product_scale(), self._directions.of_products
        weights = None if self.row_scale is None else self.row_scale.square().to(self.dtype)
        for rows, classes in zip(
            deviations.split(_ROWS_PER_SKETCH_PRODUCT), labels.split(_ROWS_PER_SKETCH_PRODUCT), strict=True
        ):
            rows = (rows if scale == 1 else rows / scale).to(self.dtype)
            with full_precision_products(rows.device):
                along = rows @ omega
                if weights is not None:
                    along *= weights.index_select(0, classes)[:, None]
                # k x p: the shape that multiplies faster.
                product = along.T @ rows
            self.total.T.add_(product, alpha=scale**2)
        self._any_in_total = True

    def add_centred(self, deviations: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Add a large block of rows that `moments` has centred already; they are overwritten.

        The centres must be those of `moments` now.
        """
        scale = self._product_scale()
        rows = deviations if scale == 1 else deviations.div_(scale)
        if self.row_scale is not None:
            rows.mul_(self.row_scale.to(rows.dtype).index_select(0, labels)[:, None])
        rows = rows.to(self.dtype)
        with full_precision_products(self.total.device):
            if self.kind == "sketch":
                self._add_sketched(rows, scale**2)
            else:
                self._add_grams(self.total, rows, labels, scale**2)
                self._pending_are_all = False
        self._any_in_total = True

    def _add_sketched(self, rows: Tensor, factor: float) -> None:
        """Add `rows.T @ rows @ Omega`, summed in the dtype of the rows over a few of them at a time."""
        assert self._directions is not None
        pieces, step = len(rows) // _ROWS_PER_SKETCH_PRODUCT, _ROWS_PER_SKETCH_PRODUCT
        for part in (rows[: pieces * step].view(pieces, step, rows.shape[1]), rows[pieces * step :][None]):
            if part.numel():
                # k x p: the shape that multiplies faster.
                products = (part @ self._directions.of_products).mT @ part
                self.total.T.add_(products.sum(0, dtype=torch.float64), alpha=factor)

    def _product_scale(self) -> float:
        """Return a power of two to divide rows by, so that float32 products neither overflow nor underflow."""
        largest = self.moments.max_square**0.5
        if largest == 0 or _SAFE_DEVIATIONS[0] < largest < _SAFE_DEVIATIONS[1]:
            return 1.0
        # Within float32, so that it can divide float32 rows.
        return min(max(power_of_two_near(largest), 2.0**-120), 2.0**120)

    def see(self, low: float, high: float) -> None:
        """Record the smallest and the largest value of a block of features."""
        self.max_abs = max(self.max_abs, -low, high)

    def push(self, features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Add a block of rows that `moments` already has; once enough rows are collected, they are multiplied.

        A sketch got their deviations already.
        """
        low, high = torch.aminmax(features)
        self.see(float(low), float(high))
        self.kept = None
        self._collect(features, labels)
        if self.kind != "sketch" and len(self._pending) >= pending_rows(self.moments.dim, self.dtype):
            self._flush()

    def hold(self, features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> bool:
        """Collect rows of a large block, as long as all rows so far are fewer than features.

        Returns:
            Whether they wait now; otherwise `add_centred` must get them.
        """
        self.kept = None
        if self.kind == "sketch":
            self._collect(features, labels)
            return False
        holds = self._pending_are_all and self._are_few(len(self._pending) + len(labels))
        if holds:
            self._collect(features, labels, most=self.moments.dim)
        else:
            self._flush()
        return holds

    def _are_few(self, num_rows: int) -> bool:
        """Return whether products between rows and class means are smaller than the p x p product."""
        return num_rows + self.moments.num_classes <= self.moments.dim

    def _collect(self, features: Tensor, labels: Tensor, most: int | None = None) -> None:
        """Add rows to those that wait, or to the few that are kept beside a sketch.

        Args:
            most: number of rows to make room for; default as many as are multiplied at once.
        """
        pending, dim = self._pending, self.moments.dim
        # float64 rows are collected as they are: rounded before they are centred, they would lose a collapsed class.
        dtype = torch.promote_types(self.dtype, features.dtype)
        if self.kind == "sketch":
            most = ROWS_PER_SKETCH_COLUMN * self._sketch_size
            fits = self._pending_are_all and self._fit(len(pending) + len(labels))
            if not fits or (len(pending) and not pending.has_room(len(labels), dtype)):
                self._pending, self._pending_are_all = PendingRows(dim, labels.device), False
                return
        if not pending.has_room(len(labels), dtype):
            self._flush()
            # The block that reaches the limit still fits.
            pending.make_room(most or pending_rows(dim, self.dtype) + self.moments.block_rows(), dtype)
        pending.add(features, labels)

    def few_rows(self) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]] | None:
        """Return the deviations of all rows from their class means, float64, and their labels; None as `all_rows`."""
        rows = self.all_rows()
        if rows is None or not len(rows) or len(rows) != int(self.moments.counts.sum()):
            return None
        return deviations_of_few(rows, self.moments)

    def all_rows(self) -> PendingRows | None:
        """Return all rows, none if there are none yet; None if they are many, or not known any more."""
        rows = self._pending if self._pending_are_all else self.kept
        return rows if rows is not None and self._fit(len(rows)) else None

    def _fit(self, num_rows: int) -> bool:
        most = ROWS_PER_SKETCH_COLUMN * self._sketch_size if self.kind == "sketch" else num_rows
        return num_rows <= most and self._are_few(num_rows)

    def _flush(self) -> None:
        if len(self._pending) and self.kind != "sketch":
            self._add_products(self.total, self._pending.rows, self._pending.labels)
            self._pending.clear()
            self._any_in_total, self._pending_are_all = True, False

    def folded_total(self) -> Tensor:
        """Return the total with pending rows included. Nothing changes: pending rows are copied."""
        if not len(self._pending) or self.kind == "sketch":
            return self.total
        total = self.total.clone()
        self._add_products(total, self._pending.rows.clone(), self._pending.labels)
        return total

    def about_means(self) -> Tensor:
        """Return the scatter about the exact class means, in a new tensor of the stored shape.

        sum (d - s/n)(d - s/n)^T = sum d d^T - s s^T / n, one small term per class, where s is the sum of
        deviations d from the centre.
        """
        total = self.folded_total()
        total = total.clone() if total is self.total else total
        counts = self.moments.counts.clamp_min(1).double()
        rows = self.moments.sums / counts.sqrt()[:, None]
        self._add_outer(total, torch.arange(len(counts), device=total.device), rows, -1.0)
        if self.kind == "full":
            return symmetrized(total)
        if self.kind == "per_class":
            return torch.triu(total) + torch.triu(total, diagonal=1).mT
        return total

    def pooled_about_means(self, weights: Float[Tensor, " c"]) -> Float[Tensor, "p p"]:
        """Return sum_c weights_c times the scatter of class c about its exact mean, in a new tensor (`per_class`).

        No corrected copy of each class's matrix is made; pending rows are multiplied once for all classes.
        """
        counts = self.moments.counts.clamp_min(1).double()
        pooled = torch.tensordot(weights, self.total, dims=1)
        if len(self._pending):
            rows, labels = self._pending.rows.clone(), self._pending.labels
            rows, scale = self._centred(rows, labels, weights.sqrt())
            with full_precision_products(pooled.device):
                add_gram_(pooled, rows, scale**2)
        add_gram_(pooled, self.moments.sums * (weights / counts).sqrt()[:, None], -1.0)
        return symmetrized(pooled)

    def add_shifted(self, part: WithinScatter) -> None:
        """Add another part's scatter, re-expressed about this object's centres; the part is only read."""
        device, known = self.total.device, self.all_rows()
        self.total += part.folded_total().to(device)
        self.max_abs = max(self.max_abs, part.max_abs)
        present = (part.moments.counts.to(device) > 0).nonzero()[:, 0]
        by = self.moments.shift_from(part.moments)[present]
        counts = part.moments.counts.to(device)[present].double()
        self._shift(present, counts, part.moments.sums.to(device)[present], by)
        self._any_in_total, self._pending_are_all = True, False
        self.kept = joined_rows([known, part.all_rows()], device, self._fit)

    def select_classes(self, which: Int[Tensor, " k"], moments: ClassMoments) -> WithinScatter:
        """Return the scatter of these classes (all others are empty) with their `moments`; it shares memory."""
        if not self._pending_are_all:
            self._flush()
        part = copy.copy(self)
        part.moments = moments
        part._pending = self._pending.renumbered(which, self.moments.num_classes)
        if self.kept is not None:
            part.kept = self.kept.renumbered(which, self.moments.num_classes)
        if self.kind == "per_class" and self._total is not None:
            part.total = selected(self.total, which)
        if self.row_scale is not None:
            part.row_scale = self.row_scale[which]
        return part

    def grow(self, num_classes: int) -> None:
        """Add classes without samples, so that there are `num_classes`; there are no class counts."""
        if self.kind == "per_class" and self._total is not None:
            new = self.total.new_zeros(num_classes - len(self.total), *self.total.shape[1:])
            self.total = torch.cat((self.total, new))

    def pool(self) -> None:
        """Turn `per_class` into `full`, with equal weights of all rows."""
        if self._total is not None:
            self.total = self.total.sum(0)
        self.kind = "full"

    def load(self, total: Tensor, max_abs: float) -> None:
        """Continue from what `folded_total` and `max_abs` gave; the total is copied."""
        self.total, self.max_abs, self.kept = total.clone(), max_abs, None
        self._any_in_total, self._pending_are_all = True, False

    def prepare_move(self, which: Int[Tensor, " k"], moved: Float[Tensor, "k p"]) -> None:
        """Re-express the total before `moments` moves the centres of classes `which` to `moved`.

        Pending rows need nothing: they are centred when they are multiplied.
        """
        if not self._any_in_total:
            return
        moments = self.moments
        counts, sums = moments.counts.double(), moments.sums
        if len(self._pending) and self.kind != "sketch":
            pending, labels = self._pending.rows, self._pending.labels
            counts -= torch.bincount(labels, minlength=moments.num_classes)
            moving = torch.zeros_like(counts, dtype=torch.bool)
            moving[which] = True
            for rows in moving[labels].nonzero()[:, 0].split(moments.block_rows()):
                deviations = pending[rows].double() - moments.centres[labels[rows]].double()
                sums.index_add_(0, labels[rows], deviations, alpha=-1)
        self._shift(which, counts[which], sums[which], moved.double() - moments.centres[which].double())

    def _shift(self, classes: Tensor, counts: Tensor, sums: Tensor, by: Tensor) -> None:
        """Re-express the scatter of `classes` about centres moved by `by`:
        sum (d - b)(d - b)^T = S + n (m - b)(m - b)^T - n m m^T with m the mean deviation.
        """
        mean = sums / counts.clamp_min(1)[:, None]
        root = counts.sqrt()[:, None]
        self._add_outer(self.total, classes, root * (mean - by), 1.0)
        self._add_outer(self.total, classes, root * mean, -1.0)

    def _add_outer(self, total: Tensor, classes: Tensor, rows: Tensor, sign: float) -> None:
        """Add sign * w_c r_c r_c^T for each of `classes` and its row, in the stored form."""
        if self.row_scale is not None:
            rows = rows * self.row_scale[classes][:, None]
        if self.kind == "full":
            add_gram_(total, rows, sign)
        elif self.kind == "sketch":
            assert self.omega is not None
            total.add_(rows.T @ (rows @ self.omega), alpha=sign)
        else:
            for index, row in zip(classes.tolist(), rows, strict=True):
                total[index].addr_(row, row, alpha=sign)

    def _add_products(self, total: Tensor, rows: Tensor, labels: Tensor) -> None:
        """Centre `rows` in place and add their products to `total`."""
        rows, scale = self._centred(rows, labels, self.row_scale)
        with full_precision_products(total.device):
            self._add_grams(total, rows, labels, scale**2)

    def _add_grams(self, total: Tensor, rows: Tensor, labels: Tensor, factor: float) -> None:
        if self.kind == "full":
            add_gram_(total, rows, factor)
            return
        order = labels.argsort(stable=True)
        sizes = torch.bincount(labels, minlength=self.moments.num_classes).tolist()
        for index, members in enumerate(order.split(sizes)):
            if len(members):
                add_gram_(total[index], rows[members], factor)

    def _centred(self, rows: Tensor, labels: Tensor, row_scale: Tensor | None) -> tuple[Tensor, float]:
        """Centre `rows` in place, multiply them by `row_scale` of their class and divide them by a power of two.

        Returns:
            The rows, and that power of two.
        """
        scale = self._product_scale()
        centres = self.moments.centres.to(rows.dtype)
        row_scale = None if row_scale is None else row_scale.to(rows.dtype)
        step = self.moments.block_rows()
        for start in range(0, len(rows), step):
            block, block_labels = rows[start : start + step], labels[start : start + step]
            shift = centres.index_select(0, block_labels)
            if scale > 1:  # first, so that the difference cannot overflow
                block /= scale
                shift /= scale
            block -= shift
            if scale < 1:
                block /= scale
            if row_scale is not None:
                block *= row_scale.index_select(0, block_labels)[:, None]
        return rows.to(self.dtype), scale
