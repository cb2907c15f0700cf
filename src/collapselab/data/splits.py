"""What every data set comes as: tensors, train and test."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Samples that are measured or trained on together."""

    inputs: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: object) -> Split:
        return Split(self.inputs.to(device), self.labels.to(device))  # pyright: ignore[reportArgumentType, reportCallIssue] any torch device


@dataclass(frozen=True)
class DataSplits:
    """A data set: train and test, inputs standardised with the statistics of train only."""

    name: str
    num_classes: int
    train: Split
    test: Split


def standardised(train: Float[Tensor, "n *d"], test: Float[Tensor, "m *d"]) -> tuple[Tensor, Tensor]:
    """Both with zero mean and unit variance per input position over train; constant positions become zero."""
    mean = train.mean(0)
    spread = (train - mean).square().mean(0).sqrt()
    scale = spread.where(spread > 0, 1.0)
    return (train - mean) / scale, (test - mean) / scale
