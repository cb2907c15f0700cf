"""The 1,797 handwritten digits (8 x 8 pixels) included in scikit-learn: real data, no download."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.data.names import DIGITS
from collapselab.data.splits import DataSplits, Split
from collapselab.data.stored import ImageSource, Store, ValueSource

if TYPE_CHECKING:
    from PIL.Image import Image

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

    def content(self, split: str) -> DigitValues:
        return DigitValues(self._splits[split].inputs)


class DigitValues(ValueSource, ImageSource):
    """The digits as values (n, 64), and as grey images for the preprocessing of a network."""

    def __init__(self, inputs: Tensor) -> None:
        self._inputs = inputs

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        from PIL import Image

        side = math.isqrt(self._inputs.shape[1])
        for row in rows.tolist():
            grey = (self._inputs[row] * 255).round().to(torch.uint8).reshape(side, side)
            yield f"{DIGITS}, row {row}", Image.fromarray(grey.numpy())

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.full(len(rows), self._inputs.shape[1])

    def values(self) -> Tensor:
        return self._inputs


def images_of(values: Tensor, channels: int | None, image_size: tuple[int, int] | None) -> Tensor:
    """Return digits (n, 64) as images: each pixel is repeated to fill the size, and equal in every channel."""
    side = math.isqrt(values.shape[1])
    images = values.unflatten(1, (1, side, side)).expand(-1, channels or 1, -1, -1)
    if image_size is None:
        return images.contiguous()
    return torch.nn.functional.interpolate(images, image_size, mode="nearest")
