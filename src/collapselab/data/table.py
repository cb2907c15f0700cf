"""Data sets that the `datasets` library loads as tables: from the hub, or saved to disk."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.checks import check_finite
from collapselab.data.columns import Columns, find_columns
from collapselab.data.encoding import encoded_splits
from collapselab.data.images import open_image, read_regular
from collapselab.data.stored import (
    ImageSource,
    Store,
    TextSource,
    ValueSource,
    checked_labels,
    checksums,
    ordered_splits,
)
from collapselab.errors import InputError
from collapselab.text import listed

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS_AT_ONCE = 2**8
_CELLS_AT_ONCE = 2**12  # whose bytes are not read

DatasetDict = Any  # datasets.DatasetDict: a table with typed columns per split


class TableStore(Store):
    """A `datasets.DatasetDict`. Columns of images and labels are found by their types.

    Args:
        tables: the tables by split.
        where: path or hub id, for messages.
        roots: folders that hold the files named in cells.
    """

    def __init__(self, tables: DatasetDict, where: str, roots: Sequence[Path]) -> None:
        self._tables, self._where, self._roots = tables, where, tuple(roots)

    @property
    def splits(self) -> tuple[str, ...]:
        return ordered_splits(self._tables)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self._columns(self.splits[0]).names or self._encoded[1]

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        columns = self._columns(split)
        where = f"{self._where} ({split}), {columns.label}"
        return checked_labels(self._encoded[0][split], where, self.class_names)

    @cached_property
    def _encoded(self) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...] | None]:
        """The labels of all splits as numbers, and the names of the classes if they are stored as names."""
        stored = {}
        for split in self.splits:
            column = self._columns(split).label
            table = self._tables[split].select_columns([column]).with_format("arrow")[:]
            stored[split] = table.column(column).to_numpy()
        return encoded_splits(stored, self._where)

    def content(self, split: str) -> ImageSource | TextSource | ValueSource:
        where, columns = f"{self._where} ({split})", self._columns(split)
        if columns.kind == "image":
            return TableImages(self._tables[split], columns.inputs[0], where, self._roots)
        if columns.kind == "text":
            return _TableTexts(self._tables[split], columns.inputs[0], where)
        return _TableValues(self._tables[split], columns.inputs, where)

    def _columns(self, split: str) -> Columns:
        if split not in self._tables:
            raise InputError(f"{self._where}: no split {split!r}; it has {', '.join(self.splits)}")
        return find_columns(self._tables[split].features, self._where)


class _TableTexts(TextSource):
    def __init__(self, table: Any, column: str, where: str) -> None:
        self._table, self._column, self._where = table.select_columns([column]), column, where

    def texts(self, rows: npt.NDArray[np.int64]) -> list[str]:
        texts = list(self._table[rows.tolist()][self._column])
        missing = next((row for row, text in zip(rows.tolist(), texts, strict=True) if text is None), None)
        if missing is not None:
            raise InputError(f"{self._where}, row {missing}: no text; remove the row")
        return texts


class _TableValues(ValueSource):
    def __init__(self, table: Any, columns: tuple[str, ...], where: str) -> None:
        self._table, self._columns, self._where = table.select_columns(list(columns)), columns, where

    def values(self) -> Float[Tensor, "n ..."]:
        """Return the columns of numbers (n, p) in their order, float32.

        Raises:
            InputError: NaN or infinity, which empty cells are too.
        """
        table = self._table.with_format("arrow")[:]
        arrays = [table.column(name).to_numpy().astype(np.float32) for name in self._columns]
        values = torch.from_numpy(np.stack(arrays, axis=1))
        check_finite(values, f"{self._where}, columns {listed(self._columns)}")
        return values


class TableImages(ImageSource):
    """Images in a column of a `datasets.Dataset`, which is mapped from disk.

    Args:
        table: the data set.
        column: of images.
        where: path or hub id and split, for messages.
        roots: folders that hold the files named in cells.
    """

    def __init__(self, table: Any, column: str, where: str, roots: Sequence[Path]) -> None:
        import datasets

        self._table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column, self._where, self._roots = column, where, roots

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            wanted = rows[first : first + _ROWS_AT_ONCE].tolist()
            for row, cell in zip(wanted, self._table[wanted][self._column], strict=True):
                where = f"{self._where}, row {row}"
                yield where, cell_image(cell, where, self._roots)

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See `ImageSource`; an image that is a file of its own counts as 0 bytes."""
        import pyarrow.compute as pc

        sizes: list[npt.NDArray[np.int64]] = []
        for table in self._table.with_format("arrow").iter(_CELLS_AT_ONCE):
            for cells in table.column(self._column).chunks:
                lengths: Any = pc.binary_length(cells.field("bytes"))  # type: ignore[attr-defined]
                sizes.append(lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        return np.concatenate(sizes)[rows]

    def stored_state(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See `ImageSource`; of an image that is a file of its own, its path counts."""
        chosen = (rows[first : first + _ROWS_AT_ONCE] for first in range(0, len(rows), _ROWS_AT_ONCE))
        cells = (cell or {} for some in chosen for cell in self._table[some.tolist()][self._column])
        return checksums(cell.get("bytes") or str(cell.get("path")).encode() for cell in cells)


def cell_image(cell: Mapping[str, Any] | None, where: str, roots: Sequence[Path]) -> Image:
    """Open the image in one cell of a column of images: its bytes, or the file it names.

    Args:
        cell: `bytes` and `path`.
        where: name of the cell in the message.
        roots: folders of the data set, the first of which relative paths start from. Other files are not opened: a
            data set from elsewhere may name any file of this machine.

    Raises:
        InputError: an empty cell, a file outside the data set or one that cannot be read, no image.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise InputError(f"{where}: no image; remove the row, or store its bytes")
    if cell["bytes"] is not None:
        return open_image(cell["bytes"], where)
    path = file_inside(cell["path"], roots)
    if path is None:
        raise InputError(f"{where}: {cell['path']!r} is outside {roots[0]}; store the bytes of the image")
    where = f"{where}, {path}"
    return open_image(read_regular(path, where), where)


def file_inside(named: str, roots: Sequence[Path]) -> Path | None:
    """Return the path of a named file, with all links resolved, if it is inside one of the folders."""
    try:
        path = (roots[0] / named).resolve()
        return path if any(path.is_relative_to(root.resolve()) for root in roots) else None
    except (OSError, ValueError, RuntimeError):  # a null character, a circle of links
        return None


def is_plain(path: Path) -> bool:
    """Whether `datasets` takes a path literally."""
    return not re.search(r"[*?\[\]{}!]|::|://", str(path.absolute()))


def plain_path(path: Path, folder: Path) -> str:
    """Return a path that `datasets` takes literally: in a name, it would expand `[1]` and `*` and split at `::`.

    Args:
        path: a file or folder.
        folder: temporary folder; a link is made there if the path needs one.
    """
    if is_plain(path):
        return str(path)
    link = folder / ("link.parquet" if path.is_file() else "link")
    link.symlink_to(path.absolute())
    return str(link)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries; their progress bars are shown only on a terminal."""
    import datasets
    import huggingface_hub.utils as hub

    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for log in (datasets.logging, hub.logging):
            undo.callback(log.set_verbosity, log.get_verbosity())
            log.set_verbosity(logging.CRITICAL)
        if not sys.stderr.isatty():
            for bars in (datasets.utils, hub):
                if not bars.are_progress_bars_disabled():
                    undo.callback(bars.enable_progress_bars)
                    bars.disable_progress_bars()
        yield
