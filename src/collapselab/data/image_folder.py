"""Images in one folder per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from collapselab.data.images import open_image
from collapselab.data.stored import ImageSource, StoredSplit
from collapselab.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_SPLITS = ("train", "test", "val", "valid", "validation")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def folder_splits(folder: Path) -> tuple[str, ...]:
    """The splits that have a folder; `train` alone where classes lie directly in `folder`; else nothing."""
    found = tuple(split for split in _SPLITS if (folder / split).is_dir())
    if found:
        return found
    return ("train",) if _class_folders(folder) else ()


def read_folder(folder: Path, split: str) -> StoredSplit:
    """A split that `folder_splits` lists. A class is a folder; those of all splits make the label space.

    Raises:
        InputError: no class folders, a class folder without images, images beside class folders.
    """
    by_split = (folder / split).is_dir()
    classes = _class_folders(folder / split if by_split else folder)
    if not classes:
        raise InputError(
            f"{folder / split}: no class folders; put the images of each class in a folder of its name"
        )
    if by_split:
        roots = [folder / other for other in folder_splits(folder)]
        names = sorted({path.name for root in roots for path in _class_folders(root)})
    else:
        names = [path.name for path in classes]
    paths: list[Path] = []
    labels: list[int] = []
    for path in classes:
        found = sorted(file for file in path.rglob("*") if _is_image(file))
        if not found:
            raise InputError(f"{path}: no images ({', '.join(_SUFFIXES)}); fill the folder or remove it")
        paths += found
        labels += [names.index(path.name)] * len(found)
    return StoredSplit(
        np.array(labels, dtype=np.int64), tuple(names), np.arange(len(names)), _ImageFiles(tuple(paths))
    )


def _class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


class _ImageFiles(ImageSource):
    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        for row in rows.tolist():
            path = self._paths[row]
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
            yield str(path), open_image(data, f"{path} (row {row})")
