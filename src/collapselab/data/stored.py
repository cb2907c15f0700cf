"""Interface of every storage format: splits, labels and inputs, each read on demand."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from collapselab.checks import check_labels
from collapselab.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageSource(ABC):
    """Images of a split, each decoded when it is used."""

    @abstractmethod
    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        """Yield the images in these ascending rows, each with where it is stored; pixels may still be packed."""

    @abstractmethod
    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many bytes each of these images takes where it is stored; no image is read.

        Raises:
            InputError: an image that is gone.
        """

    def stored_state(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return one or more numbers of each of these images, which change when it does; none is decoded.

        Raises:
            InputError: an image that is gone.
        """
        return self.stored_bytes(rows)

    def random_access(self) -> ImageSource:
        """Return the same images where any of them is read fast; they may have to be copied for it."""
        return self


def checksums(pieces: Iterable[bytes | memoryview]) -> npt.NDArray[np.int64]:
    """Return the CRC-32 of each piece, (n,)."""
    return np.array([zlib.crc32(piece) for piece in pieces], dtype=np.int64)


class ValueSource(ABC):
    """Inputs that are not images."""

    @abstractmethod
    def values(self) -> Float[Tensor, "n ..."]:
        """Return all inputs of the split, float32."""


class TextSource(ABC):
    """Texts of a split, for the tokenizer of a network."""

    @abstractmethod
    def texts(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the texts in these ascending rows."""


class Store(ABC):
    """A data set in one form of storage. Splits are named as they are stored."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the stored splits, train and test first."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of labels 0, 1, …, where they are stored."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is stored here but not read, with the reason."""
        return ()

    @abstractmethod
    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Read the labels (n,) of a split, as they are stored.

        Raises:
            InputError: labels that are missing, no whole numbers, negative or beyond the class names.
        """

    @abstractmethod
    def content(self, split: str) -> ImageSource | ValueSource | TextSource:
        """Find the inputs of a split; no image is decoded.

        Raises:
            InputError: inputs that are missing, misshapen or not numbers.
        """


def ordered_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """Sort names of splits: train, test, then the others by name."""
    return tuple(sorted(splits, key=lambda split: (split != "train", split != "test", split)))


def checked_labels(
    labels: npt.NDArray[Any], where: str, names: tuple[str, ...] | None = None
) -> npt.NDArray[np.int64]:
    """Return labels (n,) as int64.

    Raises:
        InputError: no labels; labels that are not whole, negative (which is how hidden labels are stored) or beyond
            `names`.
    """
    if not len(labels):
        raise InputError(f"{where}: the split is empty; give one with samples")
    checked = check_labels(labels, len(labels), where)
    if names is not None and checked.max() >= len(names):
        row = int(np.flatnonzero(checked >= len(names))[0])
        raise InputError(
            f"{where}: label {checked[row]} in row {row} is outside the {len(names)} classes; correct the label"
        )
    return checked
