"""Inputs and labels in one `.npz` file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.checks import check_finite
from collapselab.data.stored import ImageSource, StoredSplit, ValueSource, checked_labels
from collapselab.errors import InputError
from collapselab.features.files import NpzFile

if TYPE_CHECKING:
    from PIL.Image import Image

_INPUTS = ("inputs", "images", "features")
_PREFIXES = {"train": "", "test": "test_"}


def npz_splits(path: Path) -> tuple[str, ...]:
    """Of `train` and `test`, those whose labels are in the file.

    Raises:
        InputError: damaged, or without arrays of these names.
    """
    names = NpzFile(path).names
    found = tuple(split for split, prefix in _PREFIXES.items() if f"{prefix}labels" in names)
    if not found:
        held = ", ".join(names) or "nothing"
        raise InputError(
            f"{path}: holds {held}; save arrays 'inputs' and 'labels' (and test_inputs, test_labels)"
        )
    return found


def read_npz(path: Path, split: str) -> StoredSplit:
    """A split that `npz_splits` lists.

    Raises:
        InputError: damaged; arrays that are missing, misshapen, or not numbers.
    """
    file = NpzFile(path)
    prefix = _PREFIXES[split]
    wanted = [prefix + name for name in _INPUTS]
    present = [name for name in wanted if name in file.names]
    if len(present) != 1:
        raise InputError(
            f"{path}: holds {' and '.join(present) or 'none'} of {', '.join(wanted)}; "
            f"save one of them beside {prefix}labels"
        )
    name, shape, dtype = present[0], file.shape(present[0]), np.asarray(file.empty(present[0])).dtype
    if dtype.kind not in "fiub":
        raise InputError(f"{path}: {name} has dtype {dtype}; save it as real numbers")
    labels = {
        split: checked_labels(np.asarray(file.read(f"{prefix}labels")), f"{path}, {prefix}labels")
        for split, prefix in _PREFIXES.items()
        if f"{prefix}labels" in file.names
    }
    if len(shape) < 2 or 0 in shape or shape[0] != len(labels[split]):
        raise InputError(
            f"{path}: {name} has shape {shape} for {len(labels[split])} labels; "
            "save one non-empty row per label, in the same order"
        )
    is_images = dtype == np.uint8 and len(shape) > 2
    content = _ArrayImages(file, name, shape) if is_images else _ArrayValues(file, name)
    return StoredSplit(labels[split], None, np.unique(np.concatenate([*labels.values()])), content)


class _ArrayImages(ImageSource):
    """Bytes (n, h, w), (n, h, w, channels) or (n, channels, h, w)."""

    def __init__(self, file: NpzFile, name: str, shape: tuple[int, ...]) -> None:
        self._file, self._name = file, name
        if not (len(shape) == 3 or (len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)))):
            raise InputError(
                f"{file.path}: {name} has shape {shape}; save images as (n, height, width), "
                "(n, channels, height, width) or (n, height, width, channels), of 1 or 3 channels"
            )

    @cached_property
    def _array(self) -> npt.NDArray[np.uint8]:
        """(n, h, w) or (n, h, w, 3)."""
        array = np.asarray(self._file.read(self._name), dtype=np.uint8)
        if array.ndim == 4 and array.shape[1] in (1, 3):
            array = array.transpose(0, 2, 3, 1)
        return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("reading images needs pillow: pip install 'collapselab[papers]'") from error
        for row in rows.tolist():
            image = Image.fromarray(np.ascontiguousarray(self._array[row]))
            yield f"{self._file.path}, {self._name}, row {row}", image


class _ArrayValues(ValueSource):
    def __init__(self, file: NpzFile, name: str) -> None:
        self._file, self._name = file, name

    def values(self) -> Float[Tensor, "n ..."]:
        """As they are; bytes scaled to [0, 1].

        Raises:
            InputError: NaN or infinity, also after rounding to float32.
        """
        array = np.asarray(self._file.read(self._name))
        with np.errstate(over="ignore"):  # found below, as infinity
            values = torch.from_numpy(array.astype(np.float32, order="C"))
        if array.dtype == np.uint8:
            values /= 255
        check_finite(values.flatten(1), f"{self._file.path}, {self._name}")
        return values
