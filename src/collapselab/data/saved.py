"""Data sets that the `datasets` library saved to disk, with `save_to_disk`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapselab.data.hub import split_of
from collapselab.data.parquet import ordered_splits
from collapselab.data.stored import StoredSplit
from collapselab.errors import InputError, one_line

_OF_SEVERAL, _OF_ONE = ("dataset_dict.json",), ("dataset_info.json", "state.json")


def saved_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a saved data set, train and test first; none where the folder holds no such thing.

    Raises:
        InputError: damaged files.
        ImportError: an extra that is not installed.
    """
    if not any(all((folder / name).is_file() for name in names) for names in (_OF_SEVERAL, _OF_ONE)):
        return ()
    return ordered_splits(_opened(folder))


def read_saved(folder: Path, split: str) -> StoredSplit:
    """A split that `saved_splits` lists. Columns are found by their types; no image is decoded yet.

    Raises:
        InputError: damaged files, columns that are missing or ambiguous, wrong labels.
    """
    return split_of(_opened(folder), split, str(folder))


def _opened(folder: Path) -> Any:
    """All splits, mapped from disk. A data set that was saved alone is `train` unless it says what it is."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "reading a saved data set needs datasets: pip install 'collapselab[papers]'"
        ) from error
    try:
        data = datasets.load_from_disk(str(folder))
    except MemoryError:
        raise
    except Exception as error:  # of Arrow, of JSON, of the library: all are the files' fault
        reason = one_line(error)[:200] or type(error).__name__
        raise InputError(
            f"{folder}: saved by datasets, but cannot be read ({reason}); save it again"
        ) from error
    return data if isinstance(data, dict) else {str(data.split or "train"): data}
