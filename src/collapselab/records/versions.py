"""Numbered runs in one folder: `version_0`, `version_1`, …, one for each start of a training."""

from __future__ import annotations

from itertools import count
from pathlib import Path

_PREFIX = "version_"


def version_numbers(folder: Path | str) -> list[int]:
    """Return the numbers of the versions in a folder, in ascending order; empty if there is no such folder."""
    names = (path.name.removeprefix(_PREFIX) for path in Path(folder).glob(f"{_PREFIX}*") if path.is_dir())
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def version_folder(folder: Path | str, number: int) -> Path:
    """Return the path of a version."""
    return Path(folder) / f"{_PREFIX}{number}"


def create_version(folder: Path | str) -> int:
    """Create the folder of the next version and return its number; processes that do so at once get different ones.

    Raises:
        OSError: it cannot be created.
    """
    for number in count(max(version_numbers(folder), default=-1) + 1):
        try:
            version_folder(folder, number).mkdir(parents=True)
        except FileExistsError:
            if not version_folder(folder, number).exists():  # a parent is a file
                raise
        else:
            return number
    raise AssertionError("unreachable")


def newest_run(folder: Path | str) -> Path:
    """Return the folder of the newest run in a folder: itself if it holds a run or nothing, else its newest version."""
    numbers = [] if (Path(folder) / "run.json").exists() else version_numbers(folder)
    return version_folder(folder, numbers[-1]) if numbers else Path(folder)
