"""Data sets that the `datasets` library saved to disk, with `save_to_disk`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from collapselab.data.table import DatasetDict, TableStore, plain_path
from collapselab.errors import InputError, one_line

_OF_SEVERAL, _OF_ONE = ("dataset_dict.json",), ("dataset_info.json", "state.json")


def is_saved(folder: Path) -> bool:
    """Whether the folder is what `save_to_disk` wrote."""
    return any(all((folder / name).is_file() for name in names) for names in (_OF_SEVERAL, _OF_ONE))


def open_saved(folder: Path) -> TableStore:
    """Open a saved data set, mapped from disk. A table that was saved alone is `train` unless it names its split.

    Raises:
        InputError: damaged files.
        ImportError: an extra that is not installed.
    """
    return TableStore(_tables(folder), str(folder), [folder])


def _tables(folder: Path) -> DatasetDict:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "reading a saved data set needs datasets: pip install 'collapselab[papers]'"
        ) from error
    try:
        with tempfile.TemporaryDirectory(prefix="collapselab-") as links:
            data = datasets.load_from_disk(plain_path(folder, Path(links)))
    except MemoryError:
        raise
    except Exception as error:  # Arrow, JSON and the library each have their own kinds
        reason = one_line(error)[:200] or type(error).__name__
        raise InputError(
            f"{folder}: saved by datasets, but cannot be read ({reason}); save it again"
        ) from error
    return data if isinstance(data, dict) else {str(data.split or "train"): data}
