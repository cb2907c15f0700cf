"""One process at a time in a folder: by locks that the operating system drops with a process, however it ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collapselab.errors import InputError

# What file systems without locks answer, some network ones among them.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


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
    except (NotImplementedError, OSError) as error:  # the former is what `filelock` makes of ENOSYS
        # A file system without locks is gone on with, anything else is not.
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()  # of nothing where there are no locks: two processes are not told of each other there
