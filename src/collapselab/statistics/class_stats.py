"""`ClassStats`: exact class statistics that can be updated, merged, read and stored.

Letters: n samples, p features, c classes, k sketch columns.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.accumulation import ClassAccumulation
from collapselab.statistics.checking import check_arguments, check_mergeable, checked_counts
from collapselab.statistics.gathering import Checks
from collapselab.statistics.pending import PendingRows
from collapselab.statistics.scatter import Scatter


class ClassStats(ClassAccumulation):
    """Counts, means and within-class scatter of labelled features, accumulated in one pass.

    Args:
        num_classes: C; labels are 0 … C-1.
        dim: p, features per sample.
        scatter: which part of the within-class scatter is stored.
            `full`: the pooled p x p matrix, enough for every metric.
            `trace`: one number per class, for any p; metrics that need a matrix are not available.
            `sketch`: the pooled matrix times a p x `sketch_size` Gaussian, for any p; the leading spectrum is
            estimated from it (`within_sketch`).
            `per_class`: one p x p matrix per class (C p^2 numbers); both weightings are always available.
        class_counts: number of samples of each class in the whole data set, shape (C,). With it, pooled scatter
            (`full` and `sketch`) is summed with balanced weights (each row is scaled by 1/sqrt(n_c)); without it,
            with sample weights. On balanced data the two agree.
        product_dtype: dtype of the p x p products. Default: the dtype of the features, with float16 and bfloat16
            raised to float32. `torch.float64` makes the products exact at about twice the cost.
        device: where sums are stored; default: the device of the first features (the CPU if that device has no
            float64).
        sketch_size: k, columns of the sketch.
        seed: seed for the sketch's Gaussian; statistics with different seeds cannot be merged.
        growing: whether a label of at least `num_classes` enlarges the statistics; `num_classes` is then the initial
            capacity, which is doubled when needed.
        max_per_class: with `growing`, the number of classes beyond which `per_class` scatter becomes `full`.
        checks: when labels and values of a batch are checked.
            `eager`: by `update`, which reads values from the device of the features.
            `deferred`: `update` waits for no accelerator. Rows are collected (32 MiB at most) and added as one large
            block when enough of them have come, and whenever statistics are read, merged or stored. A batch that
            cannot be added is reported then, with its number; see `update`.
            `auto` (the default): `deferred` where sums are stored on an accelerator, `eager` on the CPU.

    Raises:
        ValueError: an argument out of range, class_counts of the wrong shape, or class_counts with `growing`.

    Example:
        >>> import torch
        >>> stats = ClassStats(num_classes=2, dim=3)
        >>> stats.update(torch.tensor([[0., 0, 0], [0, 0, 2]]), torch.tensor([0, 0]))
        >>> stats.update([[5., 0, 0]], [1])
        >>> stats.class_means[0].tolist()
        [0.0, 0.0, 1.0]
        >>> stats.within_trace("balanced")
        0.5
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scatter: Scatter = "full",
        *,
        class_counts: Int[Tensor, " c"] | Sequence[int] | None = None,
        product_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        sketch_size: int = 32,
        seed: int = 0,
        growing: bool = False,
        max_per_class: int | None = None,
        checks: Checks = "auto",
    ) -> None:
        check_arguments(num_classes, dim, scatter, product_dtype, sketch_size, checks)
        if growing and class_counts is not None:
            raise ValueError("growing statistics take no class_counts")
        self._num_classes = num_classes
        self.dim = dim
        self._scatter: Scatter = scatter
        self.sketch_size = min(sketch_size, dim)
        self.seed = seed
        self.product_dtype = product_dtype
        self.class_counts = None if class_counts is None else checked_counts(class_counts, num_classes)
        self._growing, self._max_per_class = growing, max_per_class
        self._device = None if device is None else torch.device(device)
        self._checks: Checks = checks
        self._gatherer = self._moments = self._within = self._dropped_max_abs = None

    # ---------------------------------------------------------------- combination

    @classmethod
    @torch.no_grad()
    def merge(cls, parts: Sequence[ClassStats]) -> ClassStats:
        """Return the statistics of the samples of all parts together.

        The result is exact up to rounding, in any grouping and order. It owns its tensors and can be updated
        further; the parts are not changed.

        Raises:
            ValueError: no parts, or parts of different classes, dim, scatter, class_counts or sketch.
        """
        if not parts:
            raise ValueError("merge needs at least one ClassStats")
        first = parts[0]
        for part in parts:
            check_mergeable(first, part)  # adds the rows that wait
        filled = [part for part in parts if part._moments is not None]
        dtypes = {part.product_dtype for part in filled or parts}
        merged = first._copy()
        merged._moments = merged._within = merged._dropped_max_abs = None
        merged.product_dtype = torch.float32 if torch.float32 in dtypes else dtypes.pop()
        merged._device = filled[0]._device if filled else first._device
        if filled:
            moments = merged._allocate(filled[0]._filled_moments().centres)
            moments.fill_from([part._filled_moments() for part in filled])
            for part in filled:
                if merged._within is not None and part._within is not None:
                    merged._within.add_shifted(part._within)
        return merged

    @torch.no_grad()
    def drop_empty_classes(self) -> ClassStats:
        """Return the statistics of the classes that have samples, renumbered 0, 1, … in ascending order.

        This is for labels that do not fill their label space, such as the vocabulary of a language model. The
        result shares its matrices with this object: update neither of them afterwards.
        """
        seen = (self._filled_moments().counts > 0).nonzero()[:, 0]
        return self if len(seen) == self._num_classes else self.renumbered(seen)

    @torch.no_grad()
    def renumbered(self, numbers: Int[Tensor, " k"]) -> ClassStats:
        """Return the same sums with other class numbers; the result does not grow.

        It shares matrices with this object: update neither of them afterwards.

        Args:
            numbers: (k,) old number of each new class; -1 for a new class without samples (only without
                `class_counts`). Classes that are left out must have no samples.
        """
        part = self._copy()
        part._num_classes, part._growing = len(numbers), False
        part.class_counts = None if self.class_counts is None else self.class_counts[numbers.cpu()]
        if self._moments is not None:
            numbers = numbers.to(self._moments.counts.device)
            part._moments = self._moments.select_classes(numbers)
            if self._within is not None:
                part._within = self._within.select_classes(numbers, part._moments)
        part._pool_many_classes()
        return part

    def without_scatter(self) -> ClassStats:
        """Return the same sums without the matrix, as `scatter="trace"` stores them.

        The largest absolute feature value is kept.
        The result shares its means with this object.
        """
        part = self._copy()
        if self._within is not None:
            part._dropped_max_abs = self._within.max_abs
        part._scatter, part._within = "trace", None
        return part

    def _copy(self) -> ClassStats:
        """Return statistics that share this object's sums, and collect rows of their own."""
        self._settle()
        part = copy.copy(self)
        part._gatherer = None
        return part

    # ---------------------------------------------------------------- storage

    def state_dict(self, *, with_scatter: bool = True) -> dict[str, Any]:
        """Return everything needed to continue in another process: plain numbers, strings and owned tensors.

        The result can be loaded with `torch.load(..., weights_only=True)`.

        Args:
            with_scatter: False omits the matrix. Statistics loaded from such a state contribute no scatter when
                they are merged.
        """
        self._settle()
        state: dict[str, Any] = {
            "num_classes": self._num_classes,
            "dim": self.dim,
            "scatter": self._scatter,
            "sketch_size": self.sketch_size,
            "seed": self.seed,
            "product_dtype": None if self.product_dtype is None else str(self.product_dtype),
            "class_counts": None if self.class_counts is None else self.class_counts.clone(),
            "moments": None if self._moments is None else self._moments.tensors(),
        }
        if self._within is not None and with_scatter:
            state["within"] = self._within.folded_total().clone()
            state["max_abs"] = self._within.max_abs
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> ClassStats:
        """Return the ClassStats that `state_dict` described; it owns its tensors."""
        dtype = state["product_dtype"]
        stats = cls(
            state["num_classes"],
            state["dim"],
            state["scatter"],
            class_counts=state["class_counts"],
            product_dtype=None if dtype is None else getattr(torch, dtype.removeprefix("torch.")),
            sketch_size=state["sketch_size"],
            seed=state["seed"],
        )
        if state["moments"] is not None:
            stats._allocate(state["moments"]["centres"]).load(state["moments"])
            if stats._within is not None and "within" in state:
                stats._within.load(state["within"], state["max_abs"])
            elif "within" not in state:
                stats._within = None
        return stats

    def scatter_total(self) -> Tensor | None:
        """Return the accumulated scatter about the provisional centres, before its correction to the class means.

        Totals of several processes can be added if their provisional centres are equal, which is the case after
        `merge` of the same parts. None without scatter.
        """
        self._settle()
        return None if self._within is None else self._within.folded_total()

    def replace_scatter(self, total: Tensor, max_abs: float) -> None:
        """Replace the scatter that `scatter_total` returns.

        Args:
            max_abs: the largest absolute feature value of all its samples.
        """
        self._settle()
        if self._within is not None:
            self._within.load(total, max_abs)

    def all_rows(self) -> tuple[Tensor, Tensor] | None:
        """Return all features and labels as they came, if they are few; no rows without samples."""
        self._settle()
        if self._moments is None:
            return torch.empty(0, self.dim), torch.empty(0, dtype=torch.int64)
        rows = None if self._within is None else self._within.all_rows()
        return None if rows is None else (rows.rows, rows.labels)

    def keep_rows(self, features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Keep the features of all samples of several processes, whose sums are here, if they are few."""
        if self._within is not None:
            rows = PendingRows(self.dim, self._within.moments.centres.device)
            rows.make_room(len(labels), features.dtype)
            rows.add(features, labels)
            self._within.kept = rows

    def __repr__(self) -> str:
        seen = 0 if self._moments is None else self.num_samples
        arguments = f"num_classes={self._num_classes}, dim={self.dim}, scatter={self._scatter!r}"
        return f"ClassStats({arguments}, num_samples={seen})"
