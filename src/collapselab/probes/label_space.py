"""Number the labels of a split: memory and time follow the labels that occur, however large they are.

Letters: n labels of a batch, k labels of the label space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from collapselab.distributed import largest_over_ranks, union_over_ranks

# Room is made for so many times the distinct labels of the first batch.
_ROOM = 4


class LabelSpace:
    """The labels of a split, each with a number 0 … k-1.

    A closed space knows its labels. An open one numbers new labels in the order in which they come; `settle` closes it.

    Args:
        values: (k,) labels that are known, each once; they keep their numbers.
        counts: (k,) samples of each in the whole split, where known; the space is closed then.
        room: number of labels that are expected in an open space; None for a closed one.

    Attributes:
        values: (k,) the label of each number.
        counts: as given.
        room: as given; None once the space is closed.
        is_range: whether the labels are 0 … k-1, in this order.
    """

    def __init__(
        self, values: Int[Tensor, " k"], counts: Int[Tensor, " k"] | None = None, room: int | None = None
    ) -> None:
        self.values, self.counts, self.room = values, counts, room
        self._num_known = len(values)
        self._sort()

    @classmethod
    def of_labels(cls, labels: Int[Tensor, " n"]) -> LabelSpace:
        """Return the closed space of all labels of a split."""
        return cls(*labels.unique(return_counts=True))

    @classmethod
    def of_counts(cls, counts: Tensor | Sequence[int] | Mapping[int, int]) -> LabelSpace:
        """Return the closed space of the labels that have samples.

        Args:
            counts: (m,) samples of the labels 0 … m-1, or samples by label.
        """
        if isinstance(counts, Mapping):
            values, counted = torch.tensor(list(counts)), torch.tensor(list(counts.values()))
        else:
            counted = torch.as_tensor(counts)
            values = torch.arange(len(counted))
        return cls(values[counted > 0], counted[counted > 0])

    @classmethod
    def open(cls, labels: Int[Tensor, " n"], num_outputs: int | None) -> LabelSpace:
        """Return an open space without labels.

        Args:
            labels: of the first batch of this process.
            num_outputs: number of the network's class scores, which no label can reach; None where unknown.
        """
        room = _ROOM * largest_over_ranks(max(1, len(labels.unique())))
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(empty, room=room if num_outputs is None else min(room, num_outputs))

    def extended(self, labels: Int[Tensor, " n"] | None) -> LabelSpace:
        """Return the space of the test split: these labels keep their numbers, and others follow.

        Args:
            labels: all labels of the test split; None where unknown.
        """
        if labels is None:
            return LabelSpace(self.values, room=len(self))
        found, counts = labels.unique(return_counts=True)
        values = torch.cat((self.values, found[~torch.isin(found, self.values)]))
        order = values.argsort()
        all_counts = torch.zeros_like(values)
        all_counts[order[torch.searchsorted(values[order], found)]] = counts
        return LabelSpace(values, all_counts)

    def __len__(self) -> int:
        return len(self.values)

    def numbers(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Return the number of each label, on the host; k for labels that are not in the space."""
        # By numpy: for so few values, starting the threads of torch takes longer than the search.
        given, (values, order) = labels.numpy(), self._sorted
        if len(values) == 0:
            return torch.zeros_like(labels)
        at = values.searchsorted(given).clip(max=len(values) - 1)
        return torch.from_numpy(np.where(values[at] == given, order[at], len(values)))

    def numbers_below(self, labels: Int[Tensor, " n"], bound: int) -> Int[Tensor, " n"]:
        """Return the number of each label as `numbers` does, by at most one operation on the device of the labels.

        Args:
            labels: 0 … bound-1, on any device.
            bound: which no label reaches.
        """
        if self.is_range:  # each label is its number
            return labels if bound <= len(self) else labels.clamp_max(len(self))
        key = labels.device, bound
        if key not in self._tables:
            self._tables[key] = self.numbers(torch.arange(bound)).to(labels.device)
        return self._tables[key][labels]

    def add(self, labels: Int[Tensor, " n"]) -> None:
        """Give the next numbers to those of these labels that are not yet in the space."""
        new = labels[self.numbers(labels) == len(self)].unique()
        if len(new):
            self.values = torch.cat((self.values, new))
            self._sort()

    def settle(self) -> Int[Tensor, " k"] | None:
        """Close the space with the labels that occurred in any process.

        Returns:
            The old number of each new one, -1 where this process has not seen the label; None if it was closed.
        """
        if self.room is None:
            return None
        known, new = self.values[: self._num_known], self.values[self._num_known :]
        values = torch.cat((known, union_over_ranks(new)))
        numbers = self.numbers(values)
        numbers[numbers == len(self)] = -1
        self.values, self.room = values, None
        self._sort()
        return numbers

    def _sort(self) -> None:
        values = self.values.numpy()
        order = values.argsort(kind="stable")
        # Sorted labels and their numbers.
        self._sorted = values[order], order
        # Whether the labels are 0 … k-1, in this order.
        self.is_range = bool((values == np.arange(len(values))).all())
        # Numbers of the labels 0 … bound-1, by device and bound.
        self._tables: dict[tuple[torch.device, int], Tensor] = {}
