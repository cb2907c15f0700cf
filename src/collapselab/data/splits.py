"""A data set to train and to test on: tensors in memory, or images that are streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data.split_batches import SplitBatches
from collapselab.data.streamed import StreamedSplit


@dataclass(frozen=True)
class Split:
    """Samples of one split, in memory."""

    inputs: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.inputs.shape[1:])

    def every(self, stride: int) -> Split:
        """Return every `stride`-th sample."""
        return Split(self.inputs[::stride], self.labels[::stride])

    def first(self, count: int) -> Float[Tensor, "n ..."]:
        """Return the first inputs."""
        return self.inputs[:count]

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> SplitBatches:
        """Return batches (inputs, labels) in stored order, or every `world`-th; the last batch may be smaller."""
        return SplitBatches(self, batch_size, rank, world)

    def read(self, ranges: Sequence[range]) -> Iterator[Float[Tensor, "b ..."]]:
        """Yield the inputs of consecutive samples, for each range."""
        for samples in ranges:
            yield self.inputs[samples.start : samples.stop]

    def to(self, device: torch.device) -> Split:
        return Split(self.inputs.to(device), self.labels.to(device))


# Both have labels, batches and the rest; only the first has its inputs in memory.
AnySplit = Split | StreamedSplit


@dataclass(frozen=True)
class DataSplits:
    """A data set: samples to train on, and samples to test on.

    Attributes:
        class_names: one name per class, if the data set has names.
        standardized_with: mean and standard deviation by which inputs in memory were made of pixels in [0, 1]; None if
            they are no images that were read.
    """

    name: str
    num_classes: int
    train: AnySplit
    test: AnySplit
    class_names: tuple[str, ...] | None = None
    standardized_with: tuple[Tensor, Tensor] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.train.input_shape

    @property
    def standardization(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation by which inputs are made of pixels in [0, 1]; None for what were no images.

        Those of streamed images are computed when they are first needed, in one pass.
        """
        if isinstance(self.train, StreamedSplit):
            return self.train.pixels.standardization
        return self.standardized_with

    def to(self, device: torch.device) -> DataSplits:
        return replace(self, train=self.train.to(device), test=self.test.to(device))
