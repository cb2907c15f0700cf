"""Which weight multiplies the input of a layer, as seen in a forward pass: whatever the layer makes of its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.probes.operation import Operation

# By how much the cosine of two directions that are the same may differ from one, in float64.
_ROUNDING = 1e-9
# Operations that copy values, in another dtype, memory format or padded with zeros.
_COPIES = ("_to_copy", "clone", "constant_pad_nd")


class Storages:
    """A set of tensors, recognised by their memory. The memory is not kept alive, and its address is not reused."""

    def __init__(self, *tensors: Tensor) -> None:
        self._found: dict[int, StorageWeakRef] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._found[reference.cdata] = reference

    def discard(self, tensor: Tensor) -> None:
        self._found.pop(tensor.untyped_storage()._cdata, None)

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._found


@dataclass
class LayerCall:
    """What happened inside one call of a layer.

    Attributes:
        module: the layer.
        features: what it read.
        weights: every weight that multiplied data, as (name of the operator, weight, whether it is the left factor).
        is_random: whether one of them was drawn at random.
        is_exact: whether the layer is one product of its unchanged input with a weight, plus a bias.
        reads_input: whether the last product is of its input, unchanged but for a positive factor of each sample.
    """

    module: nn.Module
    features: Tensor | None
    weights: list[tuple[str, Tensor, bool]] = field(default_factory=list)
    is_random: bool = False
    is_exact: bool = False
    unchanged: Storages = field(default_factory=Storages, repr=False)
    products: Storages = field(default_factory=Storages, repr=False)
    reads_input: bool = False
    is_unchanged: bool = False


class Products:
    """The calls of weight layers in a forward pass."""

    def __init__(self) -> None:
        self._data, self._random = Storages(), Storages()
        self._open: dict[str, LayerCall] = {}
        self.calls: dict[str, LayerCall] = {}

    def is_data(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on the data, rather than on weights alone."""
        return tensor in self._data

    def enter(self, name: str, module: nn.Module, features: Tensor) -> None:
        """Begin a call of a layer."""
        self._data.add(features)
        self._open[name] = LayerCall(module, features, unchanged=Storages(features))

    def leave(self, name: str, output: Any) -> None:
        """End a call of a layer."""
        call = self._open.pop(name, None)
        if call is None or not isinstance(output, Tensor):
            return
        call.is_exact = len(call.weights) == 1 and call.is_unchanged and output in call.products
        if call.is_exact:  # nothing is left to find out: features must not outlive their batch
            call.features = None
        self.calls[name] = call

    def follow(self, operation: Operation) -> None:
        """Note whether an operation depends on the data, and which weight it multiplies them with."""
        if operation.is_random or (self._random and any(t in self._random for t in operation.inputs)):
            for output in operation.outputs:
                self._random.add(output)
        if not any(tensor in self._data for tensor in operation.inputs):
            return
        for call in self._open.values():
            self._follow_inside(call, operation)
        for output in operation.outputs:
            self._data.add(output)

    def _follow_inside(self, call: LayerCall, operation: Operation) -> None:
        first = operation.inputs[0]
        is_bias = operation.name in ("add", "add_") and not any(t in self._data for t in operation.inputs[1:])
        if operation.factors is not None:
            self._note_product(call, operation, *operation.factors)
        elif operation.name in _COPIES:
            for known in (call.unchanged, call.products):
                if first in known:
                    known.add(operation.outputs[0])
        elif is_bias and first in call.products:
            call.products.add(operation.outputs[0])
        elif operation.is_inplace:
            call.unchanged.discard(first)
            call.products.discard(first)

    def _note_product(self, call: LayerCall, operation: Operation, left: Tensor, right: Tensor) -> None:
        left_is_data, right_is_data = left in self._data, right in self._data
        if left_is_data == right_is_data:
            return
        weight, factor = (right, left) if left_is_data else (left, right)
        call.weights.append((operation.name, weight.detach(), right_is_data))
        call.is_random |= weight in self._random
        call.is_unchanged = factor in call.unchanged
        call.reads_input = call.is_unchanged or _is_scaled(call.features, factor)
        call.products.add(operation.outputs[0])


def _is_scaled(features: Tensor | None, factor: Tensor) -> bool:
    """Return whether a factor of a product is features, each sample times a positive number, as normalising them does."""
    if features is None or not (features.is_floating_point() and factor.is_floating_point()):
        return False
    if features.ndim == factor.ndim > 2 and features.shape != factor.shape:  # a map with a margin
        for axis in range(2, factor.ndim):
            margin = factor.shape[axis] - features.shape[axis]
            factor = factor.narrow(axis, margin // 2, features.shape[axis]) if margin > 0 else factor
    samples = features if features.shape == factor.shape else features.flatten(0, -2)
    for one in (factor, factor.mT):
        if one.numel() == samples.numel() and one.shape[-1] == samples.shape[-1]:
            a, b = samples.flatten(1).double(), one.reshape(samples.shape).flatten(1).double()
            eps = max(torch.finfo(features.dtype).eps, torch.finfo(factor.dtype).eps)
            allowed = _ROUNDING + 4 * eps**2
            return bool(((a * b).sum(1) >= (1 - allowed) * a.norm(dim=1) * b.norm(dim=1)).all())
    return False
