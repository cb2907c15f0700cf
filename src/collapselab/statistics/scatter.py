"""Within-class scatter matrices, pooled, sketched or per class, one large product at a time.

Letters: n samples, p features, c classes, k sketch columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import add_gram_, full_precision_products, power_of_two_near, symmetrized
from collapselab.statistics.moments import ClassMoments

ScatterKind = Literal["full", "sketch", "per_class"]

# Rows wait until a product over this many is worth one float64 pass over the p x p total.
_PENDING_BYTES, _MIN_PENDING_ROWS, _MAX_PENDING_ROWS = 2**26, 4096, 8192
# A centre further from its class mean than this many standard deviations is moved before the product:
# a float32 product would otherwise lose that factor squared.
_MAX_CENTRE_SHIFT = 2.0
# float32 products of deviations of this size neither overflow nor underflow; others are scaled.
_SAFE_DEVIATIONS = (2.0**-30, 2.0**40)


class WithinScatter:
    """sum_i w_{y_i} (h_i - centre)(h_i - centre)^T, kept whole, times a Gaussian, or per class.

    Args:
        kind: `full` keeps p x p, `sketch` keeps (p x p) @ Omega, `per_class` keeps c x p x p.
        moments: the first-order sums of the same rows; their centres are moved where they prove poor.
        row_scale: sqrt(w_c), float64 values that `dtype` can hold; None for ones.
        dtype: of the products.
        sketch_size, seed: columns and seed of the Gaussian Omega.
    """

    def __init__(
        self,
        kind: ScatterKind,
        moments: ClassMoments,
        *,
        row_scale: Float[Tensor, " c"] | None,
        dtype: torch.dtype,
        sketch_size: int,
        seed: int,
    ) -> None:
        p, device = moments.dim, moments.centres.device
        shapes = {
            "full": (p, p),
            "sketch": (p, sketch_size),
            "per_class": (moments.num_classes, p, p),
        }
        self.kind: ScatterKind = kind
        self.moments = moments
        self.row_scale = row_scale
        self.dtype = dtype
        self.total = torch.zeros(shapes[kind], dtype=torch.float64, device=device)
        self.max_abs = 0.0
        self.omega: Tensor | None = None
        if kind == "sketch":
            generator = torch.Generator().manual_seed(seed)
            omega = torch.randn(p, sketch_size, dtype=torch.float64, generator=generator)
            self.omega = omega.to(device)
        self._rows: Tensor | None = None
        self._labels: Tensor | None = None
        self._num_pending = 0

    def push(self, features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Add rows that `moments` already has; whenever a chunk is full, its product is taken."""
        if self._rows is None or self._labels is None:
            itemsize = torch.finfo(self.dtype).bits // 8
            size = _PENDING_BYTES // (itemsize * self.moments.dim)
            size = max(_MIN_PENDING_ROWS, min(_MAX_PENDING_ROWS, size))
            device = self.moments.centres.device
            self._rows = torch.empty(size, self.moments.dim, dtype=self.dtype, device=device)
            self._labels = torch.empty(size, dtype=torch.int64, device=device)
        low, high = torch.aminmax(features)
        self.max_abs = max(self.max_abs, -float(low), float(high))
        start = 0
        while start < len(labels):
            stop = min(len(labels), start + len(self._rows) - self._num_pending)
            end = self._num_pending + stop - start
            self._rows[self._num_pending : end] = features[start:stop]
            self._labels[self._num_pending : end] = labels[start:stop]
            self._num_pending, start = end, stop
            if end == len(self._rows):
                with full_precision_products(self.total.device):
                    self._move_poor_centres()
                    self._add_products(self.total, self._rows, self._labels)
                self._num_pending = 0

    def folded(self) -> Tensor:
        """The total with pending rows included. Reading changes nothing: pending rows are copied."""
        if self._num_pending == 0 or self._rows is None or self._labels is None:
            return self.total
        total = self.total.clone()
        rows, labels = self._rows[: self._num_pending].clone(), self._labels[: self._num_pending]
        with full_precision_products(total.device):
            self._add_products(total, rows, labels)
        return total

    def about_means(self) -> Tensor:
        """The scatter about the exact class means, in a new tensor of the kept shape.

        sum (d - s/n)(d - s/n)^T = sum d d^T - s s^T / n, one small term per class, where s is the sum of
        deviations d from the centre.
        """
        total = self.folded()
        total = total.clone() if total is self.total else total
        counts = self.moments.counts.clamp_min(1).double()
        rows = self.moments.sums / counts.sqrt()[:, None]
        self._add_outer(total, torch.arange(len(counts), device=total.device), rows, -1.0)
        if self.kind == "full":
            return symmetrized(total)
        if self.kind == "per_class":
            return torch.triu(total) + torch.triu(total, diagonal=1).mT
        return total

    def add_shifted(self, part: WithinScatter) -> None:
        """Add another part's scatter, re-expressed about this object's centres; the part is only read."""
        device = self.total.device
        self.total += part.folded().to(device)
        self.max_abs = max(self.max_abs, part.max_abs)
        present = (part.moments.counts.to(device) > 0).nonzero()[:, 0]
        by = self.moments.shift_from(part.moments)[present]
        counts = part.moments.counts.to(device)[present].double()
        self._shift(present, counts, part.moments.sums.to(device)[present], by)

    def _move_poor_centres(self) -> None:
        moments = self.moments
        counts = moments.counts.clamp_min(1).double()
        shifts = moments.sums / counts[:, None]
        shift2 = shifts.square().sum(1)
        variances = moments.squares / counts - shift2
        poor = (shift2 > _MAX_CENTRE_SHIFT**2 * variances).nonzero()[:, 0]
        if len(poor) == 0:
            return
        old = moments.centres[poor].double()
        moved = (old + shifts[poor]).to(moments.centres.dtype)
        changed = (moved.double() != old).any(dim=1)
        poor, old, moved = poor[changed], old[changed], moved[changed]
        # Only rows already in the total need shifting; pending ones are centred when they are used.
        in_total, sums = self._summed_into_total()
        self._shift(poor, in_total[poor], sums[poor], moved.double() - old)
        moments.move_centres(poor, moved)

    def _summed_into_total(self) -> tuple[Tensor, Tensor]:
        counts, sums = self.moments.counts.double(), self.moments.sums.clone()
        if self._num_pending and self._rows is not None and self._labels is not None:
            labels = self._labels[: self._num_pending]
            counts -= torch.bincount(labels, minlength=self.moments.num_classes)
            rows = self._rows[: self._num_pending]
            for start in range(0, len(labels), self.moments.block_rows()):
                block = slice(start, min(start + self.moments.block_rows(), len(labels)))
                deviations = rows[block].double() - self.moments.centres[labels[block]].double()
                sums.index_add_(0, labels[block], deviations, alpha=-1)
        return counts, sums

    def _shift(self, classes: Tensor, counts: Tensor, sums: Tensor, by: Tensor) -> None:
        """Re-express the scatter of `classes` about centres moved by `by`:
        sum (d - b)(d - b)^T = S + n (m - b)(m - b)^T - n m m^T with m the mean deviation.
        """
        mean = sums / counts.clamp_min(1)[:, None]
        root = counts.sqrt()[:, None]
        self._add_outer(self.total, classes, root * (mean - by), 1.0)
        self._add_outer(self.total, classes, root * mean, -1.0)

    def _add_outer(self, total: Tensor, classes: Tensor, rows: Tensor, sign: float) -> None:
        """Add sign * w_c r_c r_c^T for each of `classes` and its row, in the kept form."""
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
        centres = self.moments.centres.to(rows.dtype)
        row_scale = None if self.row_scale is None else self.row_scale.to(rows.dtype)
        step = self.moments.block_rows()
        for start in range(0, len(rows), step):
            block, block_labels = rows[start : start + step], labels[start : start + step]
            block -= centres.index_select(0, block_labels)
            if row_scale is not None:
                block *= row_scale.index_select(0, block_labels)[:, None]
        scale, largest = 1.0, self.moments.max_square**0.5
        if largest > 0 and not _SAFE_DEVIATIONS[0] < largest < _SAFE_DEVIATIONS[1]:
            scale = power_of_two_near(largest)
            rows /= scale
        if self.kind == "full":
            add_gram_(total, rows, scale**2)
        elif self.kind == "sketch":
            assert self.omega is not None
            total.add_(rows.T @ (rows @ self.omega.to(rows.dtype)), alpha=scale**2)
        else:
            order = labels.argsort(stable=True)
            sizes = torch.bincount(labels, minlength=self.moments.num_classes).tolist()
            for index, members in enumerate(order.split(sizes)):
                if len(members):
                    add_gram_(total[index], rows[members], scale**2)
