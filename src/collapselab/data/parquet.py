"""Parquet folders in the layout of the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collapselab.data.columns import Columns, Features, find_columns
from collapselab.data.stored import ImageSource, Store, checked_labels, ordered_splits
from collapselab.data.table import TableImages, cell_image, is_plain, plain_path, quiet_libraries
from collapselab.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

_SHARD = re.compile(r"(?P<split>\w+?)(-.*)?")
_NUMBERED = re.compile(r"-\d+-of-(\d+)$")
_LABEL_ROWS = 2**16
_IMAGE_ROWS = 2**8

_Table = Any  # pyarrow.Table; pyarrow has no stubs


class ParquetStore(Store):
    """Files `SPLIT-*.parquet` in a folder, or in `data` inside it. Columns are found by their types."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = {match["split"] for path in _files(folder) if (match := _shard(path))}
        self._splits = ordered_splits(found)
        self._counts: dict[str, list[int]] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have files; empty if the folder holds none."""
        return self._splits

    @cached_property
    def _columns(self) -> Columns:
        first = self._shards(self.splits[0])[0]
        return find_columns(_features(first), first)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self._columns.names

    @property
    def is_plain(self) -> bool:
        """Whether there are images with whole numbers as labels, which are read without a copy."""
        first = self._shards(self.splits[0])[0]
        kind = _features(first)[self._columns.label]
        return self._columns.kind == "image" and (
            self.class_names is not None
            or re.fullmatch(r"u?int\d+", str(getattr(kind, "dtype", ""))) is not None
        )

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        column, names = self._columns.label, self._columns.names
        parts = [_read_labels(path, column, names) for path in self._shards(split)]
        self._counts[split] = [len(part) for part in parts]
        return np.concatenate(parts)

    def content(self, split: str) -> ImageSource:
        if split not in self._counts:
            self.labels(split)
        return _ParquetImages(self._shards(split), self._columns.inputs[0], self._counts[split], self._folder)

    def _shards(self, split: str) -> list[Path]:
        """Files of a split, in order.

        Raises:
            InputError: some of the files are missing.
        """
        paths = [path for path in _files(self._folder) if (match := _shard(path)) and match["split"] == split]
        numbered = _NUMBERED.search(paths[0].stem)
        if numbered and int(numbered[1]) != len(paths):
            raise InputError(
                f"{paths[0].parent}: {len(paths)} of the {int(numbered[1])} files of split {split!r} are there; "
                "copy the others too"
            )
        return paths


def _shard(path: Path) -> re.Match[str] | None:
    return _SHARD.fullmatch(path.stem)


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.parquet"))
    return [path for path in found or sorted((folder / "data").glob("*.parquet")) if path.is_file()]


def _read_labels(path: Path, column: str, names: tuple[str, ...] | None) -> npt.NDArray[np.int64]:
    parts = [table.column(column).to_numpy() for table in _tables(path, [column], _LABEL_ROWS)]
    return checked_labels(
        np.concatenate(parts) if parts else np.empty(0, np.int64), f"{path}, {column}", names
    )


class _ParquetImages(ImageSource):
    def __init__(self, paths: list[Path], column: str, counts: list[int], folder: Path) -> None:
        self._paths, self._column, self._counts, self._folder = paths, column, counts, folder
        self._copied: ImageSource | None = None

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        first = 0
        for path, count in zip(self._paths, self._counts, strict=True):
            wanted = rows[(rows >= first) & (rows < first + count)] - first
            first += count
            if len(wanted):  # other files are not opened
                yield from self._of_file(path, wanted)

    def _of_file(self, path: Path, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        first = 0
        for table in _tables(path, [self._column], _IMAGE_ROWS):
            wanted = rows[(rows >= first) & (rows < first + len(table))]
            for row in wanted.tolist():
                where = f"{path}, row {row}"
                cell = table.column(self._column)[row - first].as_py()
                yield where, cell_image(cell, where, [self._folder])
            first += len(table)
            if first > rows[-1]:
                return

    def stored_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self.random_access().stored_bytes(rows)

    def stored_state(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self.random_access().stored_state(rows)

    def random_access(self) -> ImageSource:
        """Return the images in an Arrow file, which `datasets` writes into its cache once: Parquet is read in order.

        Raises:
            InputError: damaged files, no room, a path that `datasets` does not take literally.
        """
        if self._copied is None:
            self._copied = TableImages(self._copy(), self._column, str(self._folder), [self._folder])
        return self._copied

    def _copy(self) -> Any:
        if not is_plain(self._folder):
            raise InputError(
                f"{self._folder}: its path has characters that datasets expands, so its images cannot be cached; rename it"
            )
        import datasets

        with _refusing_damage(self._paths[0]), quiet_libraries():
            return datasets.Dataset.from_parquet([str(path) for path in self._paths], columns=[self._column])


def _features(path: Path) -> Features:
    with _stream(path, None, _LABEL_ROWS) as stream:
        return stream.features


def _tables(path: Path, columns: list[str], step: int) -> Iterator[_Table]:
    """Yield the rows of a file, `step` at a time; images are not decoded."""
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
    """Open the file as an iterable dataset: no copy on disk, no request to the network, no progress bar."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("reading Parquet needs datasets: pip install 'collapselab[data]'") from error
    # The reader locks its cache folder even when it caches nothing: not in the user's home.
    with tempfile.TemporaryDirectory(prefix="collapselab-") as cache:
        with _refusing_damage(path):
            stream = datasets.Dataset.from_parquet(
                plain_path(path, Path(cache)),
                columns=columns,
                cache_dir=cache,
                streaming=True,
                batch_size=step,
            )
        yield stream


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Report any failure inside as damage of the file, in one line; `datasets` would log it as well."""
    import datasets

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{path}: not a Parquet file, damaged or truncated ({reason}); copy it again"
        ) from error
    finally:
        datasets.logging.set_verbosity(verbosity)
