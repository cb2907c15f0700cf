"""Features on disk, found again by what made them: the network, its weights, the samples, the layer.

A cache folder holds `.safetensors` files with digests, named after a digest of all that decides their content. Files that
were not used for longest are removed where the folder grows beyond its limit. Nothing depends on the cache: a file that is
damaged or missing is computed again, and a folder that cannot be written is reported once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from collapselab.digests import Damaged, digest
from collapselab.storage import WriteError, is_temporary, load_tensors, make_folder, save_tensors

DEFAULT_LIMIT = 10 * 2**30
_VARIABLE = "COLLAPSELAB_CACHE"
_SUFFIX = ".safetensors"


def default_folder() -> Path:
    """Return the folder in COLLAPSELAB_CACHE, else `collapselab` in the user's folder of caches."""
    if chosen := os.environ.get(_VARIABLE):
        return Path(chosen) / "features"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapselab" / "features"


class FeatureCache:
    """Tensors by what made them.

    Args:
        folder: where the files are; it is created when the first one is written.
        limit: largest total size in bytes.

    Attributes:
        problem: why a file could not be written; None if all could.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self._folder, self._limit = folder, limit
        self.problem: str | None = None

    def read(self, made_by: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the tensors that were stored under the same description, or None."""
        path, facts = self._place(made_by)
        try:
            tensors = load_tensors(path, facts)
        except (OSError, Damaged):
            return None
        with suppress(OSError):
            os.utime(path)  # used now: the last to be removed
        return tensors

    def write(self, made_by: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Store tensors, and remove others where the folder is too large; failures are only noted."""
        if sum(tensor.nbytes for tensor in tensors.values()) > self._limit:
            self.problem = (
                f"features of {made_by.get('model')} are larger than the cache, and were not stored"
            )
            return
        path, facts = self._place(made_by)
        try:
            make_folder(self._folder)
            save_tensors(path, tensors, facts)
        except WriteError as error:
            self.problem = f"features were not stored: {error}"
        self._shrink(keep=path)

    def _place(self, made_by: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
        text = json.dumps(made_by, sort_keys=True)
        return self._folder / f"{digest(text)}{_SUFFIX}", {"made_by": text}

    def _shrink(self, keep: Path) -> None:
        found: list[tuple[float, int, Path]] = []
        with suppress(OSError):
            for path in self._folder.iterdir():
                with suppress(OSError):  # another process may remove it at the same time
                    if path.suffix == _SUFFIX and not is_temporary(path):
                        state = path.stat()
                        found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit:
                return
            if path != keep:
                with suppress(OSError):
                    path.unlink()
                total -= size
