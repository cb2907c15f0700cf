"""Data sets as torchvision downloads them: CIFAR's batches, and the binary files of MNIST and its relatives."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collapselab.data.encoding import encoded_splits
from collapselab.data.plain_pickle import read_plain_pickle
from collapselab.data.stored import ImageSource, Store, checked_labels, checksums
from collapselab.errors import InputError, one_line
from collapselab.storage import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

# Folders, their files by split, the file of names, and the names of its entries.
_CIFAR = {
    "cifar-10-batches-py": (
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "batches.meta", "label_names", "labels",
    ),
    "cifar-100-python": ({"train": ("train",), "test": ("test",)}, "meta", "fine_label_names", "fine_labels"),
}  # fmt: skip
_CIFAR_SHAPE = (3, 32, 32)
_IDX = {split: (f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte") for split, start in (("train", "train"), ("test", "t10k"))}  # fmt: skip
_MAX_IDX_BYTES = 2**32


def open_download(folder: Path) -> Store | None:
    """Return what torchvision downloaded to a folder, or to one inside it; None if there is nothing of this kind.

    Raises:
        InputError: several data sets.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    places = [folder, *inner, *(path / "raw" for path in inner)]
    found: dict[Path, Store] = {}
    for place in places:
        for name, (files, names, *_) in _CIFAR.items():
            if all((place / file).is_file() for file in (*files["test"], names)):
                found[place] = CifarStore(place, name)
        if any(_idx_file(place, images) for images, _ in _IDX.values()):
            found[place] = IdxStore(place)
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds several data sets, such as {next(iter(found))}; give one of these folders"
        )
    return next(iter(found.values()), None)


class CifarStore(Store):
    """CIFAR-10 or CIFAR-100 in the pickles of its authors, read by a reader that runs nothing.

    Args:
        folder: where the batches are.
        kind: `cifar-10-batches-py` or `cifar-100-python`.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._files, self._names, self._names_entry, self._labels_entry = _CIFAR[kind]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._files)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        names = read_plain_pickle(self._folder / self._names).get(self._names_entry, ())
        return tuple(
            name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
            for name in names
        )

    def _entries(self, split: str, name: str) -> Iterator[tuple[str, Any]]:
        for file in self._files[split]:
            path = self._folder / file
            batch = read_plain_pickle(path)
            if name not in batch:
                raise InputError(f"{path}: has no entry {name!r}; download it again")
            yield str(path), batch[name]

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        parts = [
            checked_labels(np.asarray(part), where, self.class_names)
            for where, part in self._entries(split, self._labels_entry)
        ]
        return np.concatenate(parts)

    def content(self, split: str) -> ImageSource:
        parts = []
        for where, part in self._entries(split, "data"):
            if (
                not isinstance(part, np.ndarray)
                or part.shape[1:] != (math.prod(_CIFAR_SHAPE),)
                or part.dtype != np.uint8
            ):
                raise InputError(f"{where}: its data are no images of 3 x 32 x 32 bytes; download it again")
            parts.append(part.reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1))
        return ArrayImages(np.concatenate(parts), f"{self._folder}, {split}")


class IdxStore(Store):
    """MNIST and data sets of its form: `train-images-idx3-ubyte` and so on, with or without `.gz`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, (images, _) in _IDX.items() if _idx_file(self._folder, images))

    @cached_property
    def _labels(self) -> dict[str, npt.NDArray[Any]]:
        return encoded_splits(
            {split: self._read(_IDX[split][1], 1) for split in self.splits}, str(self._folder)
        )[0]

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        return checked_labels(self._labels[split], f"{self._folder}, {_IDX[split][1]}")

    def content(self, split: str) -> ImageSource:
        return ArrayImages(self._read(_IDX[split][0], 3), f"{self._folder}, {_IDX[split][0]}")

    def _read(self, name: str, ndim: int) -> npt.NDArray[np.uint8]:
        path = _idx_file(self._folder, name)
        if path is None:
            raise InputError(f"{self._folder}: no file {name}; download the data set again")
        try:
            with open_regular(path) as file:
                data = file.read(_MAX_IDX_BYTES)
            data = zlib.decompress(data, wbits=31) if path.suffix == ".gz" else data  # 31: as gzip writes it
            shape = np.frombuffer(data[4 : 4 + 4 * ndim], ">u4").tolist()
            if data[:4] != bytes((0, 0, 8, ndim)) or math.prod(shape) != len(data) - 4 - 4 * ndim:
                raise ValueError("its header does not fit its size")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(f"{path}: damaged or cut off ({one_line(error)}); download it again") from error
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _idx_file(folder: Path, name: str) -> Path | None:
    """Return the file of this name, packed or not; torchvision's older mirrors had a dot before `idx`."""
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((folder / one for one in names if (folder / one).is_file()), None)


class ArrayImages(ImageSource):
    """Images in memory, (n, h, w) or (n, h, w, 3), uint8."""

    def __init__(self, array: npt.NDArray[np.uint8], where: str) -> None:
        self._array, self._where = array, where

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        from PIL import Image

        for row in rows.tolist():
            yield f"{self._where}, row {row}", Image.fromarray(np.ascontiguousarray(self._array[row]))

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.full(len(rows), math.prod(self._array.shape[1:]))

    def stored_state(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return checksums(np.ascontiguousarray(self._array[row]).data for row in rows.tolist())
