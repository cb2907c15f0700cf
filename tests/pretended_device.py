"""A second device for machines that have none: CPU tensors that claim to be on an accelerator and refuse to be mixed.

    with PretendedDevice():
        x = torch.ones(3, device=DEVICE)     # or `on_device(tensor)`
        x + torch.ones(3)                    # RuntimeError, as on a machine with that device

Values are those of the CPU. What a real device does in another way (rounding, asynchronous copies) is not pretended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nested import tensors_in

DEVICE = torch.device("cuda", 0)
_CPU = torch.device("cpu")
# These take tensors of two devices.
_MOVES = frozenset({"to", "copy_", "type_as", "new_tensor", "as_tensor", "tensor", "set_data"})
_TO_HOST = frozenset({"numpy", "__array__", "data_ptr"})


class OnDevice(Tensor):
    """A tensor of the pretended device."""

    device = property(lambda _self: DEVICE)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda _self: True)  # pyright: ignore[reportAssignmentType]
    is_cpu = property(lambda _self: False)  # pyright: ignore[reportAssignmentType]

    def as_subclass(self, cls: Any) -> Any:
        """Stay on the device: code that wants a plain tensor gets this one."""
        return self if cls is Tensor else super().as_subclass(cls)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class PretendedDevice(TorchFunctionMode):
    """Makes functions understand `device=DEVICE` while the context is open.

    Attributes:
        to_host: copies from the pretended device to the CPU, by function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.to_host: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = _run(func, args, dict(kwargs or {}))
        source = args[1] if len(args) > 1 and func is Tensor.copy_ else args[0] if args else None
        if func in (Tensor.cpu, Tensor.to, Tensor.copy_) and isinstance(source, OnDevice):
            self.to_host[func.__name__] += not isinstance(out, OnDevice)
        return out


def on_device(tensor: Tensor) -> Tensor:
    """Return a tensor of the pretended device that shares memory with `tensor`."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(tensor, OnDevice)


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", "")
    wanted, args, kwargs = _without_device(name, args, kwargs)
    _refuse_mixed(name, args, kwargs)
    if name in ("cuda", "cpu"):
        func, args, kwargs = Tensor.clone, args[:1], {}
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
    if args and out is args[0] and wanted is None:
        return out  # changed in place
    if wanted is None:
        wanted = DEVICE if any(isinstance(part, OnDevice) for part in tensors_in((args, kwargs))) else _CPU
    return _placed(out, wanted)


def _without_device(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.device | None, tuple[Any, ...], dict[str, Any]]:
    """Return the device that a call asks for, None if it names none, and arguments that ask for the CPU instead."""
    if name in ("cuda", "cpu"):
        return (DEVICE if name == "cuda" else _CPU), args, kwargs
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]), args, kwargs | {"device": _CPU}
    if name == "to" and len(args) > 1:
        if isinstance(args[1], Tensor):
            return args[1].device, args, kwargs
        if isinstance(args[1], str | torch.device):
            return torch.device(args[1]), (args[0], _CPU, *args[2:]), kwargs
    return None, args, kwargs


def _refuse_mixed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    tensors = tensors_in((args, kwargs))
    there = [part for part in tensors if isinstance(part, OnDevice)]
    if there and name in _TO_HOST:
        raise TypeError(f"cannot convert a tensor of {DEVICE} to numpy; use Tensor.cpu() first")
    if not there or name in _MOVES or name.startswith("__get__"):
        return
    if name == "__setitem__" and not tensors_in(args[1]):
        return  # slices are filled from any device
    if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnDevice):
        tensors = tensors_in(args[2:])  # a tensor is indexed by CPU tensors too
    here = [part for part in tensors if not isinstance(part, OnDevice) and part.ndim]
    if here:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {DEVICE} and cpu")


def _placed(out: Any, device: torch.device) -> Any:
    if isinstance(out, Tensor):
        return on_device(out) if device.type == DEVICE.type else Tensor.as_subclass(out, Tensor)
    if type(out) in (list, tuple):
        return type(out)(_placed(part, device) for part in out)
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return type(out)(*(_placed(part, device) for part in out))
    if isinstance(out, tuple):  # a torch.return_types object
        return type(out)(tuple(_placed(part, device) for part in out))
    return out
