"""Atomic writes, locks and provenance: all modules write files through this module."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from collapselab.errors import InputError

if TYPE_CHECKING:
    from filelock import FileLock
    from torch import Tensor

# Error numbers of file systems that have no locks, some network file systems among them.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_TEMPORARY = ".tmp"
_LOOK_AGAIN_SECONDS = 1.0


# ---------------------------------------------------------------- atomic writes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an error, the file there replaces `path` in one step.

    Readers, and a process killed at any moment, leave the old file or the new one, never half of it. The permissions
    of an existing file are kept, and a symbolic link stays a link.

    Raises:
        OSError: the folder cannot be written to.
    """
    target = Path(os.path.realpath(path))
    # The process number keeps two processes that write the same file apart: the last one wins.
    temporary = target.with_name(f".{target.name}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether `path` is what a killed process left of `replacing`."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; it is on disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    replace_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; it is on disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a `.safetensors` file atomically.

    Raises:
        OSError: it cannot be written.
        SafetensorError: likewise, found by the library.
    """
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


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
