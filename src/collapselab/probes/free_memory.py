"""Free memory of a device or of the host, where the system tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

# What a process without a limit is told.
_NO_LIMIT = 2**60
_ROOT = Path("/")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a device; None where unknown.

    On CUDA this includes what torch holds and does not use; on the host, caches of files that can be dropped, within
    the limits of the control groups that the process is in (containers have one).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    return min(
        (room for room in (_available(_ROOT), *_within_groups(_ROOT)) if room is not None), default=None
    )


def _available(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None  # not Linux


def _within_groups(root: Path) -> Iterator[int]:
    """Yield what is left of the memory limit of each control group of this process, of both versions."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Within a container the path can be one of the host, which is not visible: its own group is the root.
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            room = _room(folder, *names)
            if room is not None:
                yield room
            if folder == base:
                break


def _room(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    """Return limit minus use of a control group, where caches of files do not count; None without a limit."""
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max" or int(limit) >= _NO_LIMIT:
            return None
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(int(limit) - int((folder / usage_name).read_text()) + int(entries.get(cache_name, 0)), 0)
    except (OSError, ValueError):
        return None
