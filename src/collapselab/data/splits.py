"""A data set as tensors in memory: train and test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data.labelled import Batches, TensorInputs


@dataclass(frozen=True)
class Split:
    """Samples of one split, in memory."""

    inputs: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Batches:
        """Return batches (inputs, labels) in stored order; the last batch may be smaller."""
        return Batches(TensorInputs(self.inputs), self.labels, batch_size, 0, len(self))

    def to(self, device: torch.device) -> Split:
        return Split(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSplits:
    """A data set: samples to train on, and samples to test on.

    Attributes:
        class_names: one name per class, if the data set has names.
        standardization: mean and standard deviation by which inputs were made of pixels in [0, 1]; None if they are no
            images that were read.
    """

    name: str
    num_classes: int
    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    standardization: tuple[Tensor, Tensor] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device) -> DataSplits:
        return replace(self, train=self.train.to(device), test=self.test.to(device))
