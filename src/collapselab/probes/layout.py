"""Which axes of a tensor are channels: carried from the layer that made it through every operation of a forward pass.

An axis is a list of factors, in row-major order: a view that splits or merges axes regroups them. Each factor is
`channel` (a linear layer, a convolution or an embedding made it), `position`, or `unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from collapselab.probes.operation import FACTORS, Operation

Kind = Literal["channel", "position", "unknown"]
Axis = tuple[tuple[int, Kind], ...]
Layout = tuple[Axis, ...]

_RECURRENT = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "lstm", "gru")
_WHOLE_BLOCKS = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_embedding_bag")


class Layouts:
    """The layout of every tensor that has been seen. Tensors are not kept alive."""

    def __init__(self) -> None:
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Layout:
        """Return the layout of a tensor; every axis of one that no operation made is unknown."""
        found = self._known.get(tensor)
        return _unknown(tensor.shape) if found is None else found

    def channel_axes(self, tensor: Tensor) -> list[int]:
        """Return the axes that hold channels, counted from the last (-1): usually one, several if it is ambiguous.

        Axes that hold channels and positions (a map folded into depth) are returned where no axis holds channels alone.
        """
        kinds = [_kinds(axis) for axis in self.of(tensor)]
        pure = [dim for dim, kind in enumerate(kinds) if kind == {"channel"}]
        mixed = [dim for dim, kind in enumerate(kinds) if "channel" in kind]
        return [dim - tensor.ndim for dim in pure or mixed]

    def follow(self, operation: Operation, data: Callable[[Tensor], bool]) -> None:
        """Derive the layouts of what an operation returned.

        Args:
            operation: a call of an operator.
            data: whether a tensor depends on the data, rather than on weights alone.
        """
        for output in operation.outputs:
            if output.ndim and not (operation.factors and output is not operation.outputs[0]):
                layout = self._derive(operation, output, data)
                if layout is not None and len(layout) == output.ndim:
                    self._known[output] = layout

    def _derive(self, operation: Operation, output: Tensor, data: Callable[[Tensor], bool]) -> Layout | None:
        name, shape = operation.name, output.shape
        if name in FACTORS:
            return self._product(operation, output, data)
        if name == "embedding" or name in _RECURRENT or name in _WHOLE_BLOCKS:
            return (*(_axis(size, "position") for size in shape[:-1]), _axis(shape[-1], "channel"))
        if name in ("im2col", "col2im"):  # patches of maps, folded into channels, and back
            positions = (_axis(size, "position") for size in shape[2:])
            return (_axis(shape[0], "position"), _axis(shape[1], "channel"), *positions)
        if name in ("as_strided", "unfold"):
            return None
        if name.startswith("_scaled_dot_product"):
            query, value = self.of(operation.arguments["query"]), self.of(operation.arguments["value"])
            return (*_resized(query, output.shape)[:-1], value[-1])
        return self._moved(operation, output) or self._merged(operation.inputs, output)

    def _product(self, operation: Operation, output: Tensor, data: Callable[[Tensor], bool]) -> Layout:
        """Return the layout of a product: the weight makes channels of the axis that it returns."""
        factors = operation.factors
        assert factors is not None
        left, right = factors
        shape = output.shape
        if operation.name.endswith("convolution"):
            first = output.ndim - (right.ndim - 1)
            axes = list(_resized(self.of(left), shape))
            axes[first:] = [
                _axis(size, "position" if dim else "channel") for dim, size in enumerate(shape[first:])
            ]
            return tuple(axes)
        leading = _resized(self.of(left), shape)[:-1]
        if operation.name == "linear":
            return (*leading, _axis(shape[-1], "channel"))
        last = self.of(right)[-1]
        if not data(left) and data(right):  # the weight comes first, as in W @ x
            return (*_resized(self.of(right), shape)[:-2], _axis(shape[-2], "channel"), last)
        return (*leading, _axis(shape[-1], "channel") if _kinds(last) <= {"unknown"} else last)

    def _moved(self, operation: Operation, output: Tensor) -> Layout | None:
        """Return the layout after an operation that moves, adds or removes axes; None for any other."""
        name, first = operation.name, next(iter(operation.inputs), None)
        if first is None:
            return None
        before, ndim = self.of(first), first.ndim
        if name in ("view", "_unsafe_view", "_reshape_alias", "reshape", "view_copy"):
            return regroup(before, output.shape)
        if name in ("permute", "permute_copy"):
            return tuple(before[dim] for dim in operation.dims("dims", ndim))
        if name in ("transpose", "transpose_", "t", "t_"):
            axes = list(before)
            one, other = (*operation.dims("dim0", ndim), *operation.dims("dim1", ndim)) or (0, ndim - 1)
            axes[one], axes[other] = axes[other], axes[one]
            return tuple(axes)
        if name in ("unsqueeze", "stack"):
            (dim,) = operation.dims("dim", output.ndim) or [0]
            return (*before[:dim], _axis(output.shape[dim], "position"), *before[dim:])
        if output.ndim < ndim:  # squeeze, select, unbind, mean, sum, …
            dims = operation.dims("dim", ndim) or list(range(ndim))
            if name.startswith("squeeze"):
                dims = [dim for dim in dims if first.shape[dim] == 1]
            return tuple(axis for dim, axis in enumerate(before) if dim not in dims)
        return None

    def _merged(self, inputs: Sequence[Tensor], output: Tensor) -> Layout | None:
        """Return the layout of an elementwise, broadcasting or resizing operation (padding, pooling, concatenation).

        Where operands disagree, an axis holds channels if it does so in all of them: a residual block that mixes the
        positions of one operand leaves channels where they are.
        """
        candidates = [
            _resized(self.of(tensor), output.shape)
            for tensor in inputs
            if tensor.ndim == output.ndim or _is_broadcast(tensor.shape, output.shape)
        ]
        sets = [_channels(layout) for layout in candidates]
        telling = [number for number, found in enumerate(sets) if found]
        if not telling:
            return candidates[0] if candidates else None
        base = candidates[telling[0]]
        common = sets[telling[0]].intersection(*(sets[number] for number in telling)) or sets[telling[0]]
        return tuple(
            axis if dim in common or "channel" not in _kinds(axis) else _axis(output.shape[dim], "position")
            for dim, axis in enumerate(base)
        )


@lru_cache(maxsize=1024)
def _unknown(shape: torch.Size) -> Layout:
    return tuple(_axis(size, "unknown") for size in shape)


def _axis(size: int, kind: Kind) -> Axis:
    return ((size, kind),)


def _kinds(axis: Axis) -> set[str]:
    return {kind for _, kind in axis}


@lru_cache(maxsize=1024)
def _channels(layout: Layout) -> frozenset[int]:
    return frozenset(dim for dim, axis in enumerate(layout) if "channel" in _kinds(axis))


def _is_broadcast(shape: Sequence[int], wide: Sequence[int]) -> bool:
    return 0 < len(shape) < len(wide) and all(
        size in (1, other) for size, other in zip(reversed(shape), reversed(wide), strict=False)
    )


@lru_cache(maxsize=1024)
def _resized(layout: Layout, shape: torch.Size) -> Layout:
    """Return a layout for a tensor whose axes are those of `layout`, aligned at the last, with other sizes."""
    missing = len(shape) - len(layout)
    axes: list[Axis] = [_axis(size, "position") for size in shape[: max(missing, 0)]]
    for axis, size in zip(layout[max(-missing, 0) :], shape[max(missing, 0) :], strict=True):
        kinds = _kinds(axis)
        if math.prod(length for length, _ in axis) == size:
            axes.append(axis)
        else:
            kind = axis[0][1] if len(kinds) == 1 else "unknown"
            axes.append(_axis(size, kind))
    return tuple(axes)


def regroup(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """Return the layout of a view with this shape; None where it cuts across factors."""
    left = [factor for axis in reversed(layout) for factor in reversed(axis) if factor[0] != 1]
    axes: list[Axis] = []
    for size in shape:
        axis: list[tuple[int, Kind]] = []
        while size > 1:
            if not left:
                return None
            length, kind = left.pop()
            taken = min(length, size)
            if length % taken or size % taken:
                return None
            if length > taken:
                left.append((length // taken, kind))
            axis.append((taken, kind))
            size //= taken
        axes.append(tuple(axis) or _axis(1, "position"))
    return tuple(axes)
