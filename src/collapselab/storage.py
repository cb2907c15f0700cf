"""Reading, atomic writes, locks and provenance: all modules write files through this module."""

from __future__ import annotations

import errno
import os
import platform
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from typing_extensions import TypedDict

from collapselab.digests import Damaged, check_tensors, seal_tensors
from collapselab.errors import InputError, one_line, shortened

if TYPE_CHECKING:
    from filelock import FileLock
    from torch import Tensor

# Error numbers of file systems that have no locks, some network file systems among them.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_TEMPORARY = ".tmp"
# Flags that not every system has. Opening a named pipe must not wait for somebody at its other end.
_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LOOK_AGAIN_SECONDS = 1.0


# ---------------------------------------------------------------- errors


class WriteError(OSError, InputError):
    """A file cannot be written. What was there before is still there."""

    def __init__(self, number: int | None, reason: str, path: str) -> None:
        OSError.__init__(self, number, reason, path)

    def __str__(self) -> str:
        return shortened(
            f"{self.filename}: cannot be written ({one_line(self.strerror)}); {_remedy(self.errno)}"
        )


def _remedy(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room, then run it again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check its permissions, or choose another folder"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return "its folder is gone: bring it back, then run it again"
    if number in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP):
        return "something else has this name: remove it, then run it again"
    return "check the disk, then run it again"


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error


# ---------------------------------------------------------------- reading


def _regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | _NO_WAITING)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` refuses folders
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "a pipe or a device, not a file", path)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, which must be a regular one: a named pipe would be waited for without end.

    Raises:
        OSError: there is no such file, or it is of another kind.
    """
    with open(path, "rb", opener=_regular) as file:
        yield file


def read_bytes(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        OSError: there is no such file, or it is of another kind.
    """
    with open_regular(path) as file:
        return file.read()


def check_regular(path: Path) -> None:
    """Check that a path that a user gave is a regular file or a folder, or does not exist.

    Raises:
        InputError: it is a named pipe, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path}: a pipe or a device, not a file; save its content to a file, and give that")


# ---------------------------------------------------------------- atomic writes


def is_temporary(path: Path) -> bool:
    """Whether `path` is what a killed process left of `replace_bytes`."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; it is on disk when this returns.

    Raises:
        WriteError: it cannot be written.
    """
    replace_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def replace_bytes(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file atomically; it is on disk when this returns.

    Readers, and a process killed at any moment, leave the old file or the new one, never half of it. The permissions
    of an existing file are kept, and a symbolic link stays a link.

    Args:
        path: of the file.
        pieces: its content, one after the other.

    Raises:
        WriteError: it cannot be written. The old file is still there.
    """
    with _write_errors(path):
        target = Path(os.path.realpath(path))
        # Nobody else has this name, and nothing that is there is followed or written to.
        temporary = target.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
        try:
            with open(os.open(temporary, _NEW, 0o666), "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def append_bytes(path: Path, content: bytes, start: int) -> None:
    """Write the end of a file; it is on disk when this returns.

    Args:
        path: of the file, which need not exist.
        content: what is written.
        start: where; what the file has behind it is removed.

    Raises:
        WriteError: it cannot be written. The file ends at `start`.
    """
    with _write_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | _NO_WAITING, 0o666)
        try:
            os.ftruncate(descriptor, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, start)
            raise
        finally:
            os.close(descriptor)


def write_to_device(path: Path, content: bytes) -> None:
    """Write to a device, or to a named pipe that somebody reads.

    Raises:
        WriteError: it cannot be written, or nobody reads the pipe.
    """
    with _write_errors(path):
        descriptor = os.open(path, os.O_WRONLY | _NO_WAITING)  # this fails where nobody reads
        os.set_blocking(descriptor, True)
        with open(descriptor, "wb") as file:
            file.write(content)


def make_folder(path: Path) -> None:
    """Create a folder and those above it, where they do not exist.

    Raises:
        WriteError: it cannot be created.
    """
    with _write_errors(path):
        path.mkdir(parents=True, exist_ok=True)


# ---------------------------------------------------------------- tensors


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write a `.safetensors` file with its digest, atomically.

    Args:
        path: of the file.
        tensors: by name.
        facts: metadata that tell the file from others.

    Raises:
        WriteError: it cannot be written.
    """
    replace_bytes(path, *seal_tensors(tensors, facts or {}))


def load_tensors(path: Path, facts: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Read a `.safetensors` file, on the CPU.

    Args:
        path: of the file.
        facts: metadata that a file with a digest must have.

    Raises:
        OSError: it cannot be read.
        Damaged: it is not as it was written, or is another file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open_regular(path) as file:
        held = check_tensors(file)
    for name, text in (facts or {}).items():
        if held and held.get(name) != text:
            raise Damaged(f"it belongs elsewhere: {name} is {held.get(name)}, not {text}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Damaged(one_line(error)) from error


# ---------------------------------------------------------------- locks


class FolderInUse(InputError):
    """Another process is working in the folder."""


@contextmanager
def exclusive(path: Path, while_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file while open; the file itself stays behind, empty.

    The operating system releases the lock when the process exits or crashes.

    Args:
        path: the lock file, in the folder that it protects.
        while_waiting: called every second while another process holds the lock; it may raise. Without it this process
            does not wait.

    Raises:
        FolderInUse: another process holds the lock.
        WriteError: the file cannot be created.
    """
    from filelock import FileLock

    lock = FileLock(path)
    while not _acquired(lock):
        if while_waiting is None:
            raise FolderInUse(
                f"{path.parent}: another process is working there; wait for it to finish, or choose another out="
            )
        while_waiting()
        time.sleep(_LOOK_AGAIN_SECONDS)
    try:
        yield
    finally:
        lock.release()  # does nothing where there are no locks


def _acquired(lock: FileLock) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except (NotImplementedError, OSError) as error:  # `filelock` turns ENOSYS into the former
        # Without file-system locks work continues unprotected; any other failure is an error.
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            with _write_errors(Path(lock.lock_file)):
                raise
    return True


# ---------------------------------------------------------------- provenance


class Hardware(TypedDict, total=False):
    """A machine, and how much of it torch uses; None where unknown or absent. Old files lack some entries."""

    machine: str
    system: str
    processor: str | None
    cpu_count: int | None
    torch_threads: int
    accelerator: str | None


class Provenance(TypedDict):
    """Where and when something was computed."""

    started: str
    versions: dict[str, str]
    commit: str | None
    hardware: Hardware


def provenance() -> Provenance:
    """Return versions, commit (None outside a checkout), hardware and the current time."""
    import numpy
    import sklearn
    import torch

    from collapselab import __version__

    return {
        "started": now(),
        "versions": {
            "collapselab": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "commit": _commit(),
        "hardware": hardware(),
    }


def now() -> str:
    """Return the current time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def hardware() -> Hardware:
    """Return the machine, and how much of it torch uses."""
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str | None:
    """Name of the processor; on Linux the standard library knows only the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _commit() -> str | None:
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
