"""Inputs and labels in one `.npz` file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.checks import check_finite, check_label_shape
from collapselab.data.encoding import encoded_splits
from collapselab.data.names import VALIDATION
from collapselab.data.npy import NpyFolder
from collapselab.data.stored import ImageSource, Store, ValueSource, checked_labels, checksums
from collapselab.errors import InputError
from collapselab.features.files import NpzFile

if TYPE_CHECKING:
    from PIL.Image import Image

_INPUTS = ("inputs", "images", "features")
# What the names of the arrays of each split begin with.
_PREFIXES = {"train": ("", "train_"), **{split: (f"{split}_",) for split in ("test", *VALIDATION)}}


class NpzStore(Store):
    """Arrays `inputs` (or `images`, `features`) and `labels`; those of a test or validation split have its name in front.

    Raises:
        InputError: a damaged file, or one without labels.
    """

    def __init__(self, path: Path, file: NpyFolder | None = None) -> None:
        self._file = NpzFile(path) if file is None else file
        names = self._file.names
        found = (
            (split, prefix)
            for split in _PREFIXES
            for prefix in _PREFIXES[split]
            if f"{prefix}labels" in names
        )
        self._prefixes = dict(reversed(list(found)))  # of the training split the plain names come first
        if not self.splits:
            raise InputError(
                f"{path}: holds {', '.join(names) or 'nothing'}; save arrays 'inputs' and 'labels' (and test_inputs, "
                "test_labels)"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in _PREFIXES if split in self._prefixes)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        name = f"{self._prefixes[split]}labels"
        shape, where = self._file.shape(name), f"{self._file.path}, {name}"
        dtype = np.asarray(self._file.empty(name)).dtype
        if dtype.kind in "US" or len(shape) == 2:
            return checked_labels(self._encoded[0][split], where, self._encoded[1])
        # Before gigabytes are read; the inputs are checked by `content`.
        check_label_shape(shape, dtype, math.prod(shape), where)
        return checked_labels(np.asarray(self._file.read(name)), where)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        kinds = {
            np.asarray(self._file.empty(f"{prefix}labels")).dtype.kind for prefix in self._prefixes.values()
        }
        return self._encoded[1] if kinds & {"U", "S"} else None

    @cached_property
    def _encoded(self) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...] | None]:
        """The labels of all splits as numbers, and the names of the classes if they are stored as names."""
        stored = {
            split: np.asarray(self._file.read(f"{prefix}labels")) for split, prefix in self._prefixes.items()
        }
        return encoded_splits(stored, str(self._file.path))

    def content(self, split: str) -> ImageSource | ValueSource:
        name = self._input_name(split)
        shape, dtype = self._file.shape(name), np.asarray(self._file.empty(name)).dtype
        if dtype.kind not in "fiub":
            raise InputError(f"{self._file.path}: {name} has dtype {dtype}; save real numbers")
        count = self._file.shape(f"{self._prefixes[split]}labels")[0]
        if len(shape) < 2 or 0 in shape or shape[0] != count:
            raise InputError(
                f"{self._file.path}: {name} has shape {shape} for {count} labels; save one non-empty row per label, in "
                "the same order"
            )
        is_images = dtype == np.uint8 and len(shape) > 2
        return _ArrayImages(self._file, name, shape) if is_images else _ArrayValues(self._file, name)

    def _input_name(self, split: str) -> str:
        wanted = [self._prefixes[split] + name for name in _INPUTS]
        present = [name for name in wanted if name in self._file.names]
        if len(present) != 1:
            raise InputError(
                f"{self._file.path}: holds {' and '.join(present) or 'none'} of {', '.join(wanted)}; save one of them "
                f"with {self._prefixes[split]}labels"
            )
        return present[0]


class _ArrayImages(ImageSource):
    """Images as bytes: (n, h, w), (n, h, w, channels) or (n, channels, h, w)."""

    def __init__(self, file: NpzFile | NpyFolder, name: str, shape: tuple[int, ...]) -> None:
        self._file, self._name = file, name
        if not (len(shape) == 3 or (len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)))):
            raise InputError(
                f"{file.path}: {name} has shape {shape}; save images as (n, height, width), "
                "(n, channels, height, width) or (n, height, width, channels), of 1 or 3 channels"
            )

    @cached_property
    def _array(self) -> npt.NDArray[np.uint8]:
        """Images (n, h, w) or (n, h, w, 3)."""
        array = np.asarray(self._file.read(self._name), dtype=np.uint8)
        if array.ndim == 4 and array.shape[1] in (1, 3):
            array = array.transpose(0, 2, 3, 1)
        return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("reading images needs pillow: pip install 'collapselab[data]'") from error
        for row in rows.tolist():
            image = Image.fromarray(np.ascontiguousarray(self._array[row]))
            yield f"{self._file.path}, {self._name}, row {row}", image

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.full(len(rows), math.prod(self._file.shape(self._name)[1:]))

    def stored_state(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return checksums(np.ascontiguousarray(self._array[row]).data for row in rows.tolist())


class _ArrayValues(ValueSource):
    def __init__(self, file: NpzFile | NpyFolder, name: str) -> None:
        self._file, self._name = file, name

    def values(self) -> Float[Tensor, "n ..."]:
        """Return the values as stored; bytes are scaled to [0, 1].

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
