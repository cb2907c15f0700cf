"""Forward hooks that capture the inputs of a layer and are always removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Taps:
    """Hooks at chosen modules. The first call of a module in a forward pass is named after it, the second is named
    `name#2`, and so on.

    Args:
        modules: by name.
        receive: called with the name of the call, the module and the tensor it reads, unchanged.
        outputs: called with the name of the call, the module and what it returns.

    Attributes:
        failure: the exception that `receive` or `outputs` raised, if any: it is not the model's.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        receive: Callable[[str, nn.Module, Tensor], None],
        outputs: Callable[[str, nn.Module, Any], None] | None = None,
    ) -> None:
        self._modules, self._receive, self._outputs = modules, receive, outputs
        self._calls: dict[str, int] = {}
        self._handles: list[Any] = []
        self.failure: Exception | None = None

    def begin(self) -> None:
        """Start counting the calls of a new forward pass."""
        self._calls.clear()

    def __enter__(self) -> Taps:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            if self._outputs is not None:
                self._handles.append(module.register_forward_hook(self._after(name, self._outputs)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            count = self._calls[name] = self._calls.get(name, 0) + 1
            features = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if features is not None:
                with self._noting_failures():
                    self._receive(call_name(name, count), module, features.detach())

        return hook

    def _after(self, name: str, receive: Callable[[str, nn.Module, Any], None]) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            with self._noting_failures():
                receive(call_name(name, self._calls.get(name, 1)), module, output)

        return hook

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            with _own_precision():
                yield
        except Exception as error:
            self.failure = error
            raise


@contextmanager
def _own_precision() -> Iterator[None]:
    """Leave the precision in which the model runs: autocast, and the default dtype for new tensors."""
    default = torch.get_default_dtype()
    devices = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float32)
        yield


def call_name(name: str, count: int) -> str:
    """Return the name of the `count`-th call of a module in one forward pass."""
    return name if count == 1 else f"{name}#{count}"


@contextmanager
def capture_inputs(layers: Mapping[str, nn.Module], receive: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `receive(name, features)` with what each layer reads, flattened per sample, while the context is open."""
    with Taps(layers, lambda name, _module, features: receive(name, features.flatten(1))):
        yield
