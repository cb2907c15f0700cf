"""Parquet folders in the layout of the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collapselab.data.images import open_image
from collapselab.data.stored import ImageSource, StoredSplit, checked_labels
from collapselab.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SHARD = re.compile(r"(?P<split>\w+?)(-.*)?")
_NUMBERED = re.compile(r"-\d+-of-(\d+)$")
_LABEL_ROWS = 2**16
_IMAGE_ROWS = 2**8

_Table = Any  # of pyarrow, which has no stubs
_Features = Any  # of datasets: a dictionary of types


def parquet_splits(folder: Path) -> tuple[str, ...]:
    """Splits with `SPLIT-*.parquet` files in `folder` or `folder/data`, train and test first."""
    splits = {match["split"] for path in _files(folder) if (match := _SHARD.fullmatch(path.stem))}
    return ordered_splits(splits)


def ordered_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """Train and test first."""
    return tuple(sorted(splits, key=lambda split: (split != "train", split != "test", split)))


def read_parquet(folder: Path, split: str) -> StoredSplit:
    """A split that `parquet_splits` lists. Columns are found by their types; no image is read yet.

    Raises:
        InputError: missing or damaged files, columns that are missing or ambiguous, wrong labels.
    """
    first = _shards(folder, split)[0]
    image, label, names = find_columns(_features(first), first)
    labels = {}
    for other in parquet_splits(folder) if names is None else (split,):
        labels[other] = [_read_labels(path, label, names) for path in _shards(folder, other)]
    content = _ParquetImages(_shards(folder, split), image, [len(part) for part in labels[split]])
    values = np.unique(np.concatenate([part for parts in labels.values() for part in parts]))
    return StoredSplit(np.concatenate(labels[split]), names, values, content)


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.parquet"))
    return [path for path in found or sorted((folder / "data").glob("*.parquet")) if path.is_file()]


def _shards(folder: Path, split: str) -> list[Path]:
    paths = [
        path for path in _files(folder) if (match := _SHARD.fullmatch(path.stem)) and match["split"] == split
    ]
    numbered = _NUMBERED.search(paths[0].stem)
    if numbered and int(numbered[1]) != len(paths):
        raise InputError(
            f"{paths[0].parent}: {len(paths)} of the {int(numbered[1])} files of split {split!r} are there; "
            "copy the others too"
        )
    return paths


def find_columns(features: _Features, where: str | Path) -> tuple[str, str, tuple[str, ...] | None]:
    """The columns of images and of labels, and the names of the classes.

    Raises:
        InputError: no or several columns of images, none of labels.
    """
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    numbers = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and re.fullmatch(r"u?int\d+", kind.dtype)
    ]
    # fine_label comes after label: where both are there, label is what the set is known by.
    labels = [name for name in _LABEL_COLUMNS if name in classes + numbers] or classes
    images = [name for name in images if name in ("image", "img")] or images
    held = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    if len(images) != 1:
        raise InputError(f"{where}: {len(images)} columns of images among {held}; give one of type Image")
    if not labels:
        raise InputError(
            f"{where}: no column of labels among {held}; give a ClassLabel, or whole numbers named label"
        )
    kind = features[labels[0]]
    return images[0], labels[0], tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None


def _read_labels(path: Path, column: str, names: tuple[str, ...] | None) -> npt.NDArray[np.int64]:
    parts = [table.column(column).to_numpy() for table in _tables(path, [column], _LABEL_ROWS)]
    return checked_labels(
        np.concatenate(parts) if parts else np.empty(0, np.int64), f"{path}, {column}", names
    )


def cell_image(cell: Mapping[str, Any] | None, where: str) -> Image:
    """What a column of images holds in one row.

    Raises:
        InputError: nothing, or no image.
    """
    if cell is None or cell["bytes"] is None:
        raise InputError(f"{where}: no image; remove the row, or store its bytes")
    return open_image(cell["bytes"], where)


class _ParquetImages(ImageSource):
    def __init__(self, paths: list[Path], column: str, counts: list[int]) -> None:
        self._paths, self._column, self._counts = paths, column, counts

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        first = 0
        for path, count in zip(self._paths, self._counts, strict=True):
            wanted = rows[(rows >= first) & (rows < first + count)] - first
            first += count
            if len(wanted):  # files that hold none of the rows are not opened
                yield from self._of_file(path, wanted)

    def _of_file(self, path: Path, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        first = 0
        for table in _tables(path, [self._column], _IMAGE_ROWS):
            wanted = rows[(rows >= first) & (rows < first + len(table))]
            for row in wanted.tolist():
                where = f"{path}, row {row}"
                cell = table.column(self._column)[row - first].as_py()
                yield where, cell_image(cell, where)
            first += len(table)
            if first > rows[-1]:
                return


def _features(path: Path) -> _Features:
    with _stream(path, None, _LABEL_ROWS) as stream:
        return stream.features


def _tables(path: Path, columns: list[str], step: int) -> Iterator[_Table]:
    """Rows of a file, `step` at a time, still packed."""
    with _stream(path, columns, step) as stream:
        tables = iter(stream.with_format("arrow").iter(step))
        while True:
            with _refusing_damage(path):
                table = next(tables, None)
            if table is None:
                return
            yield table


@contextmanager
def _stream(path: Path, columns: list[str] | None, step: int) -> Iterator[Any]:
    """The file as an iterable dataset: no copy on disk, nothing asked of the network, no progress bar."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("reading Parquet needs datasets: pip install 'collapselab[papers]'") from error
    # The reader locks its cache folder even when it caches nothing: not in the user's home.
    with tempfile.TemporaryDirectory(prefix="collapselab-") as cache:
        with _refusing_damage(path):
            stream = datasets.Dataset.from_parquet(
                str(path), columns=columns, cache_dir=cache, streaming=True, batch_size=step
            )
        yield stream


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Any failure in here is the file's fault, and is said once: datasets would log it too."""
    import datasets

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(error)[:200] or type(error).__name__
        raise InputError(f"{path}: no Parquet file, damaged or cut off ({reason}); copy it again") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
