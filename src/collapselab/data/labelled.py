"""Labelled samples in batches: labels are in memory, inputs are read batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data.decoding import default_workers
from collapselab.errors import InputError

# Images that take more are decoded whenever they are read.
MEMORY_BYTES = 2 * 2**30


class Inputs(ABC):
    """The inputs of one split, in a fixed order."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, as a network receives it."""

    @abstractmethod
    def read(self, start: int, stop: int, step: int) -> Iterator[Float[Tensor, "b ..."]]:
        """Yield samples `start` … `stop - 1`, float32, `step` at a time."""


class ImageInputs(Inputs):
    """Images: kept in memory when they are first read, if they fit."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory that all of them take."""

    @abstractmethod
    def streamed(self, workers: int) -> ImageInputs:
        """Return the same images, never all in memory, but decoded ahead by this many processes whenever they are read."""


class TensorInputs(Inputs):
    """Inputs that are in memory already, returned unchanged."""

    def __init__(self, values: Float[Tensor, "n ..."]) -> None:
        self._values = values

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._values.shape[1:])

    def read(self, start: int, stop: int, step: int) -> Iterator[Float[Tensor, "b ..."]]:
        for first in range(start, stop, step):
            yield self._values[first : min(first + step, stop)]


class Batches:
    """A contiguous share of the samples, batch by batch; it can be iterated over repeatedly.

    Attributes:
        labels: labels of all shares together.
        is_share: whether there are other shares, empty or not.
    """

    def __init__(
        self,
        inputs: Inputs,
        labels: Int[Tensor, " n"],
        batch_size: int,
        start: int,
        stop: int,
        *,
        is_share: bool = False,
    ) -> None:
        self.labels, self.is_share = labels, is_share
        self._inputs, self._labels = inputs, labels
        self._batch_size, self._start, self._stop = batch_size, start, stop

    def __len__(self) -> int:
        return -((self._start - self._stop) // self._batch_size)

    def first_of_all(self) -> tuple[Float[Tensor, "b ..."], Int[Tensor, " b"]]:
        """Return the first batch of the whole split: an empty share has no batch to inspect."""
        return next(iter(Batches(self._inputs, self._labels, self._batch_size, 0, len(self._labels))))

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "b ..."], Int[Tensor, " b"]]]:
        first = self._start
        for inputs in self._inputs.read(self._start, self._stop, self._batch_size):
            after = min(first + self._batch_size, self._stop)
            yield inputs, self._labels[first:after]
            first = after


@dataclass(frozen=True)
class LabelledData:
    """One split of a data set.

    Attributes:
        name: name of the data set.
        labels: int64, 0 … `num_classes` - 1, known before any image is decoded.
        num_classes: size of the label space; a class may have no samples here.
        class_names: one per class, where the data set names them.
        inputs: the inputs; `batches` reads them.
    """

    name: str
    labels: Int[Tensor, " n"]
    num_classes: int
    class_names: tuple[str, ...] | None
    inputs: Inputs

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as `batches` yields it: (channels, height, width) for images.

        Raises:
            InputError: images of several sizes, or damaged ones, if the shape has to be read from them.
        """
        return self.inputs.shape

    @property
    def class_counts(self) -> Int[Tensor, " c"]:
        """Number of samples of each class of the label space."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    def streamed(self, workers: int | None = None) -> LabelledData:
        """Return the same samples, images decoded ahead by processes whenever they are read.

        Args:
            workers: number of processes; None for the default number, and only if the images do not fit in memory.
        """
        if not isinstance(self.inputs, ImageInputs) or (
            workers is None and self.inputs.num_bytes <= MEMORY_BYTES
        ):
            return self
        return replace(self, inputs=self.inputs.streamed(default_workers() if workers is None else workers))

    def batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Batches:
        """Return batches (inputs float32 (b, ...), labels int64 (b,)) in stored order.

        Args:
            batch_size: samples per batch; the last batch may be smaller.
            rank: which of the `world` contiguous, disjoint shares to read. Shares consist of whole batches, the same
                batches that one process would read; no sample is repeated to make the shares equal.

        Raises:
            InputError: a batch size below 1, a rank outside 0 … world - 1; on iteration, damaged images.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} is below 1; give at least 1")
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} is not one of 0 … {world - 1}; give a rank below world")
        # Whole batches, because float32 features of a sample depend slightly on the batch it is in.
        whole = -(-len(self) // batch_size)
        start, stop = (min(whole * r // world * batch_size, len(self)) for r in (rank, rank + 1))
        return Batches(self.inputs, self.labels, batch_size, start, stop, is_share=world > 1)
