"""One process at a time in a folder: by locks that the operating system drops with a process, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collapselab.errors import InputError


class FolderInUse(InputError):
    """Another process is at work in the folder."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file while open; the file itself stays behind, empty.

    Args:
        path: of the lock, in the folder that is held.

    Raises:
        FolderInUse: another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FolderInUse(
            f"{path.parent}: another process is at work there; let it finish, or choose another --out"
        ) from None
    except NotImplementedError:  # a file system without locks: two processes are not told of each other
        yield
        return
    try:
        yield
    finally:
        lock.release()
