"""What every stored form of a split is read into, before anything is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
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
        """The images in these ascending rows, each with where it is stored; their pixels may still be packed."""


class ValueSource(ABC):
    """Inputs that are not images."""

    @abstractmethod
    def values(self) -> Float[Tensor, "n ..."]:
        """All of them, float32."""


@dataclass(frozen=True)
class StoredSplit:
    """Labels and where the inputs are.

    Attributes:
        labels: (n,), as they are stored.
        class_names: of labels 0, 1, …, if the data set names its classes.
        label_values: the distinct labels of all splits, so that train and test share one label space.
        content: the inputs.
    """

    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...] | None
    label_values: npt.NDArray[np.int64]
    content: ImageSource | ValueSource

    def numbered(self) -> tuple[npt.NDArray[np.int64], tuple[str, ...] | None]:
        """Labels 0 … C-1 (n,) and the names of the classes.

        Labels with gaps are numbered in ascending order, and named by what they were.
        """
        if self.class_names is not None or np.array_equal(
            self.label_values, np.arange(len(self.label_values))
        ):
            return self.labels, self.class_names
        names = tuple(str(value) for value in self.label_values.tolist())
        return np.searchsorted(self.label_values, self.labels).astype(np.int64), names


def checked_labels(
    labels: npt.NDArray[Any], where: str, names: tuple[str, ...] | None = None
) -> npt.NDArray[np.int64]:
    """Labels (n,) as int64.

    Raises:
        InputError: none at all; not whole, negative (which is how hidden labels are stored) or beyond `names`.
    """
    if not len(labels):
        raise InputError(f"{where}: no samples; give a split that holds some")
    checked = check_labels(labels, len(labels), where)
    if names is not None and checked.max() >= len(names):
        row = int(np.flatnonzero(checked >= len(names))[0])
        raise InputError(
            f"{where}: label {checked[row]} in row {row} is none of the {len(names)} classes; mend it"
        )
    return checked
