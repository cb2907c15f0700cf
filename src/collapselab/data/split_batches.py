"""Batches of a split in stored order, for one process or for one of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable  # for the type checks of the tests
class Readable(Protocol):
    """Samples that can be read in order."""

    @property
    def labels(self) -> Int[Tensor, " n"]: ...

    def read(self, ranges: Sequence[range]) -> Iterator[Float[Tensor, "b ..."]]:
        """Yield the inputs of consecutive samples, for each range."""
        ...


class SplitBatches:
    """Every batch of a split, or every `world`-th, beginning with number `rank`: the others are other processes'.

    Attributes:
        labels: of all samples.
        is_share: whether there are other processes.
        numbers: of the batches that are read.
    """

    def __init__(self, split: Readable, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self._split = split
        self.labels, self.is_share = split.labels, world > 1
        count = len(self.labels)
        self._ranges = [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
        self.numbers = range(rank, len(self._ranges), world)

    def __len__(self) -> int:
        return len(self.numbers)

    def first_of_all(self) -> tuple[Float[Tensor, "b ..."], Int[Tensor, " b"]]:
        """Return the first batch of the whole split: a process may have no batch to inspect."""
        return next(self._read(self._ranges[:1]))

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "b ..."], Int[Tensor, " b"]]]:
        return self._read([self._ranges[number] for number in self.numbers])

    def _read(self, ranges: Sequence[range]) -> Iterator[tuple[Float[Tensor, "b ..."], Int[Tensor, " b"]]]:
        for samples, inputs in zip(ranges, self._split.read(ranges), strict=True):
            yield inputs, self.labels[samples.start : samples.stop]
