"""Data sets that the `datasets` library loads as tables: from the hub, or saved to disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collapselab.data.images import open_image
from collapselab.data.stored import ImageSource, Store, checked_labels, ordered_splits
from collapselab.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_LABEL_COLUMNS = ("label", "labels", "fine_label")
_IMAGE_COLUMNS = ("image", "img")
_ROWS_AT_ONCE = 2**8

Features = Any  # datasets.Features: a dictionary of types
DatasetDict = Any  # datasets.DatasetDict: a table with typed columns per split


class TableStore(Store):
    """A `datasets.DatasetDict`. Columns of images and labels are found by their types.

    Args:
        tables: the tables by split.
        where: path or hub id, for messages.
    """

    def __init__(self, tables: DatasetDict, where: str) -> None:
        self._tables, self._where = tables, where

    @property
    def splits(self) -> tuple[str, ...]:
        return ordered_splits(self._tables)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self._columns(self.splits[0])[2]

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        _, column, names = self._columns(split)
        stored = self._tables[split].select_columns([column]).with_format("arrow")[:].column(column)
        return checked_labels(stored.to_numpy(), f"{self._where} ({split}), {column}", names)

    def content(self, split: str) -> ImageSource:
        return _TableImages(self._tables[split], self._columns(split)[0], f"{self._where} ({split})")

    def _columns(self, split: str) -> tuple[str, str, tuple[str, ...] | None]:
        if split not in self._tables:
            raise InputError(f"{self._where}: no split {split!r}; it has {', '.join(self.splits)}")
        return find_columns(self._tables[split].features, self._where)


class _TableImages(ImageSource):
    def __init__(self, table: Any, column: str, where: str) -> None:
        import datasets

        self._table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column, self._where = column, where

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            wanted = rows[first : first + _ROWS_AT_ONCE].tolist()
            for row, cell in zip(wanted, self._table[wanted][self._column], strict=True):
                where = f"{self._where}, row {row}"
                yield where, cell_image(cell, where)


def cell_image(cell: Mapping[str, Any] | None, where: str) -> Image:
    """Open the image in one cell of a column of images: its bytes, or the file it names.

    Raises:
        InputError: an empty cell, a file that cannot be read, no image.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise InputError(f"{where}: no image; remove the row, or store its bytes")
    if cell["bytes"] is not None:
        return open_image(cell["bytes"], where)
    try:
        content = Path(cell["path"]).read_bytes()
    except OSError as error:
        raise InputError(
            f"{where}: {cell['path']} cannot be read ({error.strerror}); check the file"
        ) from error
    return open_image(content, f"{where}, {cell['path']}")


def find_columns(features: Features, where: str | Path) -> tuple[str, str, tuple[str, ...] | None]:
    """Find the columns of images and of labels, and the names of the classes.

    Raises:
        InputError: no column of images or several, no column of labels.
    """
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    numbers = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and re.fullmatch(r"u?int\d+", kind.dtype)
    ]
    # `label` comes before `fine_label`: a data set with both is known by the former.
    labels = [name for name in _LABEL_COLUMNS if name in classes + numbers] or classes
    images = [name for name in images if name in _IMAGE_COLUMNS] or images
    held = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    if len(images) != 1:
        raise InputError(f"{where}: {len(images)} columns of images among {held}; keep one of type Image")
    if not labels:
        raise InputError(
            f"{where}: no column of labels among {held}; add a ClassLabel, or whole numbers named label"
        )
    kind = features[labels[0]]
    return images[0], labels[0], tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
