"""Check paths before torch is imported, which takes seconds: most errors are a path that is not there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from collapselab.errors import InputError


def check_exists(path: Path, what: str = "file or folder", remedy: str = "check the path") -> None:
    """Check that a path exists; one that cannot be looked up is left to its reader.

    Raises:
        InputError: it does not exist.
    """
    exists = True
    with suppress(OSError, ValueError):
        exists = path.exists()
    if not exists:
        raise InputError(f"{path}: no such {what}; {remedy}")
