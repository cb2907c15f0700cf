"""Files that the `datasets` library reads by its builders: CSV, JSON lines, Parquet, WebDataset, image folders with metadata.

The builders write what they read as tables to a temporary folder, which is removed with the data set.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collapselab.data.names import VALIDATION
from collapselab.data.stored import Store
from collapselab.data.table import TableStore, plain_path, quiet_libraries
from collapselab.errors import InputError, one_line

BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SPLITS = {"training": "train", "testing": "test"} | {name: name for name in ("train", "test", *VALIDATION)}
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})(?![a-z])", re.IGNORECASE)


class BuiltStore(TableStore):
    """Tables in a temporary folder, which lives as long as the data set does."""

    def __init__(self, tables: Any, where: str, roots: Sequence[Path], folder: Path) -> None:
        super().__init__(tables, where, roots)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


def open_file(path: Path) -> Store | None:
    """Return a file as a data set with a train split; None if no builder reads files of this suffix."""
    builder = BUILDERS.get(path.suffix.lower())
    return None if builder is None else _built(builder, {"train": [path]}, path)


def open_folder(folder: Path) -> Store | None:
    """Return a folder of images with metadata, or of files that a builder reads; None for others.

    Files belong to the split that their names begin with (`train-000.tar`, `test.csv`); if none does, to `train`.

    Raises:
        InputError: files of several kinds, or that cannot be read.
    """
    if any((place / name).is_file() for place in (folder, *_folders(folder)) for name in _METADATA):
        return _built("imagefolder", {}, folder)
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in BUILDERS]
    kinds = sorted({BUILDERS[path.suffix.lower()] for path in files})
    if not kinds:
        return None
    if len(kinds) > 1:
        raise InputError(
            f"{folder}: holds files of several kinds ({', '.join(kinds)}); give one file, or move the others"
        )
    splits: dict[str, list[Path]] = {}
    for path in files:
        match = _SPLIT.match(path.name)
        splits.setdefault(_SPLITS[match[1].lower()] if match else "", []).append(path)
    unnamed = splits.pop("", [])
    if unnamed and splits:
        raise InputError(
            f"{folder}: {unnamed[0].name} belongs to no split; begin its name with train or test, or move it"
        )
    return _built(kinds[0], splits or {"train": unnamed}, folder)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _built(builder: str, files: Mapping[str, Sequence[Path]], where: Path) -> BuiltStore:
    """Return what a builder makes of files.

    Raises:
        InputError: it fails.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"reading {where} needs datasets: pip install 'collapselab[data]'") from error
    root = Path(tempfile.mkdtemp(prefix="collapselab-"))
    options: dict[str, Any] = {"delimiter": "\t"} if where.suffix.lower() == ".tsv" else {}
    try:
        if builder == "imagefolder":
            options["data_dir"] = plain_path(where, root)
        else:
            options["data_files"] = {split: _linked(paths, root / split) for split, paths in files.items()}
        with quiet_libraries():
            tables = datasets.load_dataset(builder, cache_dir=str(root / "cache"), **options)
    except BaseException as error:
        shutil.rmtree(root, ignore_errors=True)
        if isinstance(error, MemoryError) or not isinstance(error, Exception):
            raise
        # Of many kinds, by format.
        reason = one_line(error.__cause__ or error) or type(error).__name__
        raise InputError(f"{where}: cannot be read as {builder} ({reason}); correct the files") from error
    return BuiltStore(tables, str(where), [where if where.is_dir() else where.parent, root], root)


def _linked(paths: Sequence[Path], folder: Path) -> list[str]:
    """Return links to files under names that `datasets` takes literally: it expands `[1]` and `*` in others."""
    folder.mkdir()
    links = []
    for number, path in enumerate(paths):
        links.append(folder / f"{number:06d}{path.suffix.lower()}")
        links[-1].symlink_to(path.absolute())
    return list(map(str, links))
