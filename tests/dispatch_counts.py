"""Counts of the operations that code performs, and of those for which the host waits for an accelerator.

Counting needs no accelerator: what a CPU performs, an accelerator is asked to perform.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nested import tensors_in

# These return a Python value, or a tensor whose size depends on values.
_READ_BACKS = frozenset(
    {
        "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose",
        "nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount", "repeat_interleave",
        "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    }
)  # fmt: skip
# With a mask among the indices, these look for its entries first.
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})
_COPIES = frozenset({"_to_copy", "copy_", "_copy_from"})


class DispatchCounts(TorchDispatchMode):
    """Counts of every operation performed while the context is open, views included.

    Args:
        device: count read-backs of tensors on this type of device only; None counts those of all tensors, as if all
            were on an accelerator.

    Attributes:
        operations: by name, such as `aten.add.Tensor`.
        read_backs: those for which the host must wait until an accelerator has a value: values that are read
            (`float(x)`, `bool(x)`, `tolist`, `equal`), results whose size depends on values (`nonzero`, `unique`,
            `bincount`, indexing with a mask), copies to another device that are not asynchronous.

    Example:
        >>> with DispatchCounts() as counts:
        ...     positive = bool((torch.ones(3) > 0).all())
        >>> counts.read_backs
        Counter({'aten._local_scalar_dense.default': 1})
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device
        self._lists = _ListReads(self)
        self.operations: Counter[str] = Counter()
        self.read_backs: Counter[str] = Counter()

    def __enter__(self) -> DispatchCounts:
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def concerns(self, *values: Any) -> bool:
        """Return whether a tensor among nested arguments is on the device."""
        return any(self._device in (None, tensor.device.type) for tensor in tensors_in(values))

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.operations[str(func)] += 1
        if self._waits(func, args, kwargs, out):
            self.read_backs[str(func)] += 1
        return out

    def _waits(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
        name = func.overloadpacket.__name__
        if name in _COPIES:
            return _is_synchronous(name, args, kwargs, out)
        if name == "repeat_interleave" and kwargs.get("output_size") is not None:
            return False
        masked = name in _INDEXING and any(
            index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1])
        )
        return (masked or name in _READ_BACKS) and self.concerns(args, kwargs)


class _ListReads(TorchFunctionMode):
    """Counts `tolist`, which reads the memory of a CPU tensor without any operation."""

    def __init__(self, counts: DispatchCounts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.tolist and self._counts.concerns(args):
            self._counts.read_backs["Tensor.tolist"] += 1
        return func(*args, **kwargs or {})


def _is_synchronous(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
    """Whether a copy goes from one device to another and the host waits for it."""
    source = args[1] if name == "copy_" else args[0]
    devices = {source.device.type, out.device.type}
    at_once = kwargs.get("non_blocking", len(args) > 2 and args[2]) and out.device.type != "cpu"
    return len(devices) > 1 and not at_once
