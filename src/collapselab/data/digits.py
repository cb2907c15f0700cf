"""The 1,797 handwritten digits (8 x 8 pixels) included in scikit-learn: real data, no download."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.data.names import DIGITS
from collapselab.data.splits import DataSplits, Split
from collapselab.data.stored import Store, ValueSource

NUM_TRAIN = 1000
_MAX_INTENSITY = 16


def load_digits(num_train: int = NUM_TRAIN) -> DataSplits:
    """Load the optical digits (Alpaydin and Kaynak 1998): the first `num_train` for training, the rest for test.

    The digits are in the order of their writers, so the test digits are by other writers than the training digits.
    Pixels are scaled to [0, 1] and not standardised one by one: border pixels, which few digits reach, would become
    outliers of thirty standard deviations.

    Returns:
        Inputs (n, 64), float32; labels 0 … 9.
    """
    inputs, labels = (tensor.clone() for tensor in _digits())
    return DataSplits(
        name=DIGITS,
        num_classes=10,
        train=Split(inputs[:num_train], labels[:num_train]),
        test=Split(inputs[num_train:], labels[num_train:]),
    )


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Read inputs and labels once: they are text, and an experiment asks for them in every run."""
    from sklearn.datasets import load_digits as load

    raw = load()
    inputs = torch.from_numpy(raw.data).float() / _MAX_INTENSITY  # pyright: ignore[reportAttributeAccessIssue] a Bunch
    return inputs, torch.from_numpy(raw.target).long()  # pyright: ignore[reportAttributeAccessIssue] a Bunch


class DigitsStore(Store):
    """The digits that come with scikit-learn, opened like any other data set."""

    def __init__(self) -> None:
        data = load_digits()
        self._splits = {"train": data.train, "test": data.test}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(10))

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        return self._splits[split].labels.numpy()

    def content(self, split: str) -> ValueSource:
        return _DigitValues(self._splits[split].inputs)


class _DigitValues(ValueSource):
    def __init__(self, inputs: Tensor) -> None:
        self._inputs = inputs

    def values(self) -> Tensor:
        return self._inputs
