"""Features of a source as the engine of passes reads them: a network with one probe point.

Letters: n samples, p features, c classes, k labels of the label space.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.features.sources import FeatureSource
from collapselab.metrics.decision import network_rule
from collapselab.passes.stream import EndBatch, Point, ReceiveRows

# The name of the one source of features.
FEATURES = "features"

# Rows are handed on in pieces of this many, so that progress is reported.
_ROWS = 2**16


def only_point(dim: int) -> Point:
    """Return the probe point of features of this width: they are what the classifier reads."""
    return Point(FEATURES, FEATURES, dim, channels_first=True, is_classifier=True)


class Classifier:
    """The classifier of the train split, which decides where no predictions are given.

    Args:
        weight: (C, p), or None.
        bias: (C,), or None.
    """

    def __init__(self, weight: npt.NDArray[np.generic] | None, bias: npt.NDArray[np.generic] | None) -> None:
        self._weight, self._bias = weight, bias

    @cached_property
    def weight(self) -> Float[Tensor, "c p"] | None:
        """The weight as a floating-point tensor; None without."""
        return None if self._weight is None else _as_float(self._weight)

    @cached_property
    def decide(self) -> Callable[[Tensor], Tensor] | None:
        """Function that returns the class numbers argmax(W h + b) of rows; None without weight."""
        if self.weight is None:
            return None
        return network_rule(self.weight, None if self._bias is None else _as_float(self._bias))


class SourceStream:
    """The features of one split.

    Args:
        split: `train` or `test`.
        source: the features.
        label_values: (k,) all labels of both splits, sorted.
        classifier: decides where the source has no predictions.
    """

    is_shared = False
    can_be_read_again = True
    expected_labels = None

    def __init__(
        self,
        split: str,
        source: FeatureSource,
        label_values: npt.NDArray[np.int64],
        classifier: Classifier,
    ) -> None:
        self.split, self.where = split, source.where
        self.label_values = torch.from_numpy(label_values)
        self._source, self._values, self._classifier = source, label_values, classifier
        self._labels = self._number(source.labels)
        self.declared_counts = torch.bincount(self._labels, minlength=len(label_values))

    @property
    def present(self) -> Int[Tensor, " c"]:
        """Label numbers that occur in this split, in ascending order."""
        return (self.declared_counts > 0).nonzero()[:, 0]

    @property
    def in_memory(self) -> tuple[Tensor, Tensor] | None:
        if not self._source.in_memory:
            return None
        (block,) = self._source.blocks()
        return block.features, self._labels

    def settle_labels(self) -> None:
        """Do nothing: all labels are known."""

    def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        done = 0
        for block in self._source.blocks():
            labels = self._labels[done : done + len(block.labels)]
            done += len(labels)
            decided = None if block.predictions is None else self._number(block.predictions)
            for start in range(0, len(labels), _ROWS):
                rows = slice(start, start + _ROWS)
                features = block.features[rows]
                receive(FEATURES, features, labels[rows])
                end_batch(labels[rows], lambda x=features, y=decided, at=rows: self._decide(x, y, at))

    def _decide(self, features: Tensor, decided: Tensor | None, rows: slice) -> Tensor | None:
        if decided is not None:
            return decided[rows]
        decide = self._classifier.decide
        return None if decide is None else decide(features).cpu()

    def _number(self, labels: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.searchsorted(self._values, labels))


def _as_float(array: npt.NDArray[np.generic]) -> Tensor:
    """Return `array` as a floating-point tensor of its own."""
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
