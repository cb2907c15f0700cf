"""Memory that tensors take while code runs, counted without an allocator: the same on every machine."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TrackedMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while the context is open.

    Work space inside of an operation (of LAPACK, for example) is not seen.

    Attributes:
        peak: most bytes at once, after any operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @property
    def live(self) -> int:
        """Bytes of the tensors that still exist."""
        gone = [key for key, (storage, _) in self._live.items() if storage.expired()]
        for key in gone:
            del self._live[key]
        return sum(size for _, size in self._live.values())

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        known = {_storage(value)._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        out = func(*args, **kwargs or {})
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and _storage(value)._cdata not in known:
                storage = _storage(value)
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, self.live)
        return out


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def reachable_bytes(root: object) -> int:
    """Return the bytes of all tensors that can be reached from an object, shared memory counted once."""
    seen, waiting, storages = {id(root)}, [root], dict[int, int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            storages[_storage(value)._cdata] = _storage(value).nbytes()
            continue
        for other in gc.get_referents(value):
            if id(other) not in seen and not isinstance(other, type) and not callable(other):
                seen.add(id(other))
                waiting.append(other)
    return sum(storages.values())
