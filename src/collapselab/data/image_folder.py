"""Images in one folder per class.

The `imagefolder` builder of `datasets` is deliberately not used. It needs 30 times as long to list a folder (175 against
5 microseconds per image: four minutes for ImageNet, at every start and in every process), and it labels an image by the
innermost folder: in `train/CLASS/images/*.jpg`, the layout of Tiny ImageNet, every image would be of class `images`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from collapselab.data.images import open_image, read_regular
from collapselab.data.names import VALIDATION
from collapselab.data.stored import ImageSource, Store, TextSource, ordered_splits
from collapselab.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Names of folders in any case, each with the split it holds.
_SPLITS = {"training": "train", "testing": "test"} | {name: name for name in ("train", "test", *VALIDATION)}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class ImageFolders(Store):
    """Images in `SPLIT/CLASS/`, or in `CLASS/` for a train split alone; folders inside a class folder belong to it.

    The class folders of all splits make the label space. Files and folders whose name begins with a dot are ignored. A
    test or validation folder without class folders, whose images have no labels, is ignored if there is another one.

    Attributes:
        has_named_splits: whether there is a folder of a split with class folders in it.
        suffixes: of the files that are read.
    """

    suffixes = _SUFFIXES

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        named = [path for path in _class_folders(folder) if path.name.lower() in _SPLITS]
        self._roots = {_SPLITS[path.name.lower()]: path for path in named}
        labelled = {split: root for split, root in self._roots.items() if _class_folders(root)}
        self._unlabelled = (
            sorted(set(self._roots.values()) - set(labelled.values())) if len(labelled) > 1 else []
        )
        if self._unlabelled:
            self._roots = labelled
        self.has_named_splits = bool(labelled)
        if not self._roots and _class_folders(folder):
            self._roots = {"train": folder}
        self._files: dict[str, dict[str, list[str]]] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have a folder; empty where there are no class folders either."""
        return ordered_splits(self._roots)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"{path.name} is not used: it has no class folders" for path in self._unlabelled)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        return tuple(sorted({path.name for root in self._roots.values() for path in _class_folders(root)}))

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        number = {name: label for label, name in enumerate(self.class_names)}
        files = self._files_by_class(split)
        return np.repeat([number[name] for name in files], [len(paths) for paths in files.values()])

    def content(self, split: str) -> ImageSource | TextSource:
        return _ImageFiles(self._paths(split))

    def _paths(self, split: str) -> list[str]:
        return [path for paths in self._files_by_class(split).values() for path in paths]

    def _files_by_class(self, split: str) -> dict[str, list[str]]:
        """Paths of the images of each class, sorted; listed once.

        Raises:
            InputError: no class folders, a class folder without images.
        """
        if split not in self._files:
            folders = _class_folders(self._roots[split])
            if not folders:
                raise InputError(
                    f"{self._roots[split]}: no class folders; put the images of each class in a folder of its name"
                )
            self._files[split] = {folder.name: _files_in(folder, self.suffixes) for folder in folders}
        return self._files[split]


def _class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    found = []
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = (name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        found += [os.path.join(inside, name) for name in images]
    if not found:
        what = "texts" if suffixes == TextFolders.suffixes else "images"
        raise InputError(f"{folder}: no {what} ({', '.join(suffixes)}); add some or remove the folder")
    return sorted(found, key=lambda path: path.split(os.sep))


class TextFolders(ImageFolders):
    """Texts in `SPLIT/CLASS/*.txt`, one per file."""

    suffixes = (".txt",)

    def content(self, split: str) -> TextSource:
        return _TextFiles(self._paths(split))

    @property
    def has_texts(self) -> bool:
        """Whether the first class folder has texts and no images."""
        if not self._roots:
            return False
        first = next(iter(_class_folders(next(iter(self._roots.values())))), None)
        names = [] if first is None else [path.name.lower() for path in first.iterdir()]
        return any(name.endswith(self.suffixes) for name in names) and not any(
            name.endswith(_SUFFIXES) for name in names
        )


class _TextFiles(TextSource):
    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def texts(self, rows: npt.NDArray[np.int64]) -> list[str]:
        paths = [self._paths[row] for row in rows.tolist()]
        return [read_regular(Path(path), path).decode("utf-8", "replace") for path in paths]


class _ImageFiles(ImageSource):
    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        for row in rows.tolist():
            path = self._paths[row]
            yield path, open_image(read_regular(Path(path), path), path)

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.array([_file_state(self._paths[row]).st_size for row in rows.tolist()], dtype=np.int64)

    def stored_state(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        states = [_file_state(self._paths[row]) for row in rows.tolist()]
        return np.array([(state.st_size, state.st_mtime_ns) for state in states], dtype=np.int64)


def _file_state(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
