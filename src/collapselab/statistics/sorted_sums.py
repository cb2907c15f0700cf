"""Sums by class of the rows of a large block, in an order that depends on the labels alone.

`index_add_` adds atomically on an accelerator, in whatever order its threads come: float32 sums would differ from run to
run. A product with a one-hot matrix has a fixed order, but for 1000 classes it costs as much as the covariance itself.
Here the rows are sorted by class and summed in short pieces, each by its own threads (`embedding_bag`, which reads the
rows where they are); the sums of the pieces are added up for each class. No value is read back.

Letters: n rows, p features, c classes, m classes that can occur among n rows.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

# Float32 sums of this many deviations from a provisional centre round by less than eps32 times their spread.
_PIECE = 64


class RowsByClass:
    """The rows of a block in the order of their classes.

    Args:
        labels: (n,), int64, in 0 … c-1, n > 0.
        num_classes: c.

    Attributes:
        order: (n,) numbers of the rows, sorted by class; within a class in their order.
        starts: (m,) where each class begins in `order`; m = min(c, n).
        classes: (m,) class of each sum; where fewer than m occur, sums of zero for a class that occurs. None if these
            are all classes in their order.
    """

    def __init__(self, labels: Int[Tensor, " n"], num_classes: int) -> None:
        n, device = len(labels), labels.device
        self._num_classes = num_classes
        # Fewer bits of a key are sorted in fewer passes.
        ordered, self.order = labels.to(torch.int16 if num_classes < 2**15 else torch.int32).sort(stable=True)
        places = _numbers(n, torch.int64, device)
        self.classes: Tensor | None = None
        if num_classes <= n:
            self.starts = torch.searchsorted(ordered, _numbers(num_classes, ordered.dtype, device))
        else:
            begins = torch.ones_like(ordered, dtype=torch.bool)
            torch.ne(ordered[1:], ordered[:-1], out=begins[1:])
            self.starts = torch.where(begins, places, n).sort().values
            self.classes = ordered[self.starts.clamp_max(n - 1)].long()
        # A piece ends where a class does, and after `_PIECE` rows at the latest; some are empty.
        self._pieces = torch.cat([self.starts, places[::_PIECE]]).sort().values
        self._first_piece = torch.searchsorted(self._pieces, self.starts)
        self._numbers = _numbers(len(self._pieces), torch.int64, device)

    def sums(
        self, values: Float[Tensor, "n p"], weights: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, "m p"]:
        """Return the sum of each class's rows, times `weights` of the rows, in the dtype of `values` or float64."""
        weights = None if weights is None else weights[self.order]
        sums = embedding_bag(
            self.order,
            values,
            self._pieces,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=False,
        )
        # Few classes have many pieces each; many classes have one or two, and their sums take memory.
        if len(self.starts) * _PIECE <= len(values):
            sums = sums.double()
        return embedding_bag(self._numbers, sums, self._first_piece, mode="sum")

    def add_to(
        self,
        total: Float[Tensor, "c p"],
        values: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Add `sums` to a float64 total, in place."""
        sums = self.sums(values, weights)
        if self.classes is None:
            total += sums
        else:
            # Each class comes once, or again with zeros: the order of these additions changes nothing.
            total.index_add_(0, self.classes, sums.to(total.dtype))

    def by_class(self, sums: Float[Tensor, "m k"]) -> Float[Tensor, "c k"]:
        """Return sums with a row for each class."""
        if self.classes is None:
            return sums
        return sums.new_zeros(self._num_classes, sums.shape[1]).index_add_(0, self.classes, sums)


@lru_cache(maxsize=16)
def _numbers(count: int, dtype: torch.dtype, device: torch.device) -> Int[Tensor, " count"]:
    """Return 0 … count-1; the tensor is shared, and only read."""
    with torch.inference_mode(False):
        return torch.arange(count, dtype=dtype, device=device)
