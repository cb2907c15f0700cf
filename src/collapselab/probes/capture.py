"""Forward hooks that capture the inputs of a layer and are always removed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from collapselab.probes.containers import tensors_in
from collapselab.probes.tensors import UnreadableError, ordinary


class Taps:
    """Hooks at chosen modules. The first call of a module in a forward pass is named after it, the second is named
    `name#2`, and so on. A module reads the first tensor among its arguments, also within tuples, lists, mappings and
    dataclasses, after all hooks of the user have changed it.

    Args:
        modules: by name.
        receive: called with the name of the call, the module and the tensor it reads, as an ordinary one: gathered,
            dense, otherwise unchanged.
        outputs: called with the name of the call, the module and what it returns.
        defers_failures: whether the forward pass goes on after a failure, because other processes wait for it.

    Attributes:
        failure: the first exception that `receive` or `outputs` raised, if any: it is not the model's.
        unreadable: what calls of this forward pass read, by name, where it is nothing that can be measured.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        receive: Callable[[str, nn.Module, Tensor], None],
        outputs: Callable[[str, nn.Module, Any], None] | None = None,
        *,
        defers_failures: bool = False,
    ) -> None:
        self._defers_failures = defers_failures
        self._modules, self._receive, self._outputs = modules, receive, outputs
        self._calls: dict[str, int] = {}
        self._handles: list[Any] = []
        self._labels_shape: tuple[int, ...] | None = None
        self._lock = threading.RLock()  # a model may call its modules in threads
        self.failure: Exception | None = None
        self.unreadable: dict[str, str] = {}

    def begin(self, labels_shape: tuple[int, ...] | None = None) -> None:
        """Start counting the calls of a new forward pass.

        Args:
            labels_shape: shape of the labels of its batch.
        """
        self._labels_shape = labels_shape
        self._calls.clear()
        self.unreadable.clear()

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
        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            count = self._calls[name] = self._calls.get(name, 0) + 1
            try:
                features = self._features(args, kwargs)
            except UnreadableError as error:
                self.unreadable[call_name(name, count)] = str(error)
            else:
                self._receive(call_name(name, count), module, features)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._noting_failures(read, module, args, kwargs)

        return hook

    def _features(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return what a call reads.

        Raises:
            UnreadableError: no tensor, or one that has no rows of numbers.
        """
        plain = args and type(args[0]) is Tensor
        first = args[0] if plain else next(tensors_in((args, kwargs)), None)
        if first is None:
            raise UnreadableError("no tensor")
        if isinstance(first, PackedSequence) and not self._has_row_per_label(first):
            raise UnreadableError("a packed sequence, which has no row per label")
        return ordinary(first)

    def _has_row_per_label(self, packed: PackedSequence) -> bool:
        """Return whether labels were packed as the sequence is; those of whole sequences are in another order."""
        sequences = len(packed.batch_sizes) == 1
        return not sequences and tuple(packed.data.shape[:1]) == self._labels_shape

    def _after(self, name: str, receive: Callable[[str, nn.Module, Any], None]) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            call = call_name(name, self._calls.get(name, 1))
            self._noting_failures(receive, call, module, output)

        return hook

    def _noting_failures(self, work: Callable[..., None], *args: Any) -> None:
        with self._lock:
            try:
                if _is_own_precision():
                    work(*args)
                else:
                    with _own_precision():
                        work(*args)
            except Exception as error:
                self.failure = self.failure or error
                if not self._defers_failures:
                    raise


def _is_own_precision() -> bool:
    """Return whether the model runs in none of the modes that `_own_precision` leaves, as most do."""
    return not (
        torch.is_grad_enabled()
        or torch.is_inference_mode_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch.get_default_dtype() != torch.float32
    )


@contextmanager
def _own_precision() -> Iterator[None]:
    """Leave the modes in which the model runs: autocast, the default dtype, and inference mode, whose tensors no later
    forward pass could update.
    """
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if default != torch.float32:
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
