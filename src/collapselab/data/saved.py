"""Data sets that the `datasets` library saved to disk, with `save_to_disk`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from collapselab.data.table import DatasetDict, TableStore, file_inside, plain_path
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


def _check_files(folder: Path) -> None:
    """Refuse tables outside the folder: a data set from elsewhere may name any file of this machine."""
    for state in (folder / "state.json", *folder.glob("*/state.json")):
        if state.is_file():
            for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]:
                path = file_inside(str(state.parent / file["filename"]), [folder])
                if path is None or not path.is_file():
                    raise ValueError(f"{state} names {file['filename']}, which is no file of this data set")


def _tables(folder: Path) -> DatasetDict:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "reading a saved data set needs datasets: pip install 'collapselab[data]'"
        ) from error
    try:
        _check_files(folder)
        with tempfile.TemporaryDirectory(prefix="collapselab-") as links:
            data = datasets.load_from_disk(plain_path(folder, Path(links)))
    except MemoryError:
        raise
    except Exception as error:  # Arrow, JSON and the library each have their own kinds
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{folder}: saved by datasets, but cannot be read ({reason}); save it again"
        ) from error
    return data if isinstance(data, dict) else {str(data.split or "train"): data}
