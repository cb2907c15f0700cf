"""The axis of channels in what a module reads: known from its class, followed through the network, given, or assumed."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from collapselab.errors import InputError
from collapselab.names import near_matches
from collapselab.probes.select import is_weight_layer, weight_layer_in
from collapselab.text import listed

# One axis for every layer, or an axis by name or glob; counted as in the tensor that the layer reads.
ChannelAxis = int | Mapping[str, int] | None

_SECOND = (_BatchNorm, _InstanceNorm, nn.SyncBatchNorm, nn.GroupNorm)


def own_channel_axis(module: nn.Module, ndim: int) -> int | None:
    """Return the axis of channels that a module's class implies, counted from the last; None if it implies none.

    Args:
        module: a weight layer sums over its channels; a normalisation has parameters along them. A subclass with a
            `forward` of its own, such as a layer norm that reads maps, implies nothing.
        ndim: number of axes of what the module reads.
    """
    layer = weight_layer_in(module)
    if layer is not None:
        return -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else -1
    forward = type(module).forward
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        is_plain = forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)
        return -1 if is_plain and len(module.normalized_shape) == 1 else None
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return -1
    if any(forward is kind.forward for kind in _SECOND) and ndim > 1:
        return 1 - ndim
    return None


class ChannelAxes:
    """Choose the axis of channels of every call of a module in a forward pass.

    Args:
        given: the option `channel_axis`. One axis for all holds for layers without weight; the others know theirs.

    Attributes:
        assumed: axis by name of the call, where nothing tells it.
    """

    def __init__(self, given: ChannelAxis = None) -> None:
        self._given = given
        self._used: set[str] = set()
        self.assumed: dict[str, int] = {}

    def choose(self, name: str, module: nn.Module, ndim: int, followed: list[int]) -> int:
        """Return the axis of channels, counted from the last.

        Args:
            name: of the call.
            module: what is called.
            ndim: number of axes of what it reads.
            followed: axes that hold channels by the way the features were made.

        Raises:
            InputError: the given axis is not one of channels.
        """
        own, given = own_channel_axis(module, ndim), self._given_axis(name.partition("#")[0], ndim)
        is_weight = weight_layer_in(module) is not None
        if given is not None and not (is_weight and isinstance(self._given, int)):
            if is_weight and given != own:
                raise InputError(
                    f"channel_axis: {name} is a weight layer that reads channels along axis {own}"
                )
            return given
        if own is not None:
            return own
        if len(followed) == 1:
            return followed[0]
        axis = self.assumed[name] = -1 if -1 in followed else _guess(module, ndim)
        return axis

    def _given_axis(self, name: str, ndim: int) -> int | None:
        if self._given is None or isinstance(self._given, int):
            axis = self._given
        else:
            pattern = next((text for text in self._given if fnmatch.fnmatchcase(name, text)), None)
            if pattern is None:
                return None
            self._used.add(pattern)
            axis = self._given[pattern]
            if not -ndim < axis < ndim or axis == 0:
                raise InputError(
                    f"channel_axis: {name} reads {ndim} axes; axis {axis} is none of them after the samples"
                )
        if axis is None or not -ndim < axis < ndim or axis == 0:
            return None
        return axis - ndim if axis > 0 else axis

    def check_used(self, names: Iterable[str]) -> None:
        """Check that every name and glob of the option matched a call.

        Raises:
            InputError: one matched none, with near matches.
        """
        if isinstance(self._given, Mapping):
            unused = next((pattern for pattern in self._given if pattern not in self._used), None)
            if unused is not None:
                raise InputError(
                    f"channel_axis: no measured layer matches {unused!r}; {near_matches(unused, names)}"
                )

    def warnings(self, names: Iterable[str], kind: str) -> list[str]:
        """Return what was assumed about the given layers, if they are reduced along channels (`kind` of a reduction)."""
        by_axis: dict[int, list[str]] = {}
        for name in names:
            if name in self.assumed and kind != "flatten":
                by_axis.setdefault(self.assumed[name], []).append(name)
        return [
            f"{listed(found)}: channels are assumed on axis {axis}, as the layout is not certain; give channel_axis="
            for axis, found in by_axis.items()
        ]


def _guess(module: nn.Module, ndim: int) -> int:
    """Return the axis of the first weight layer inside if it can read such features; otherwise the second axis of maps
    and the last axis of sequences.
    """
    first = next((part for part in module.modules() if is_weight_layer(part)), None)
    if isinstance(first, _ConvNd) and ndim == len(first.kernel_size) + 2:
        return 1 - ndim
    if first is not None and not isinstance(first, _ConvNd) and ndim == 3:
        return -1
    return 1 - ndim if ndim > 3 else -1


def parse_channel_axis(value: Any) -> ChannelAxis:
    """Return the option `channel_axis`, from a number, a mapping, or text: `1`, `norm*=1,features.2=-1`.

    Raises:
        InputError: anything else, or axis 0, which holds the samples.
    """
    axes = _axes_in(value) if isinstance(value, str) else value
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool) and axes != 0):
        return axes
    if isinstance(axes, Mapping) and axes and all(_is_axis(name, axis) for name, axis in axes.items()):
        return dict(axes)
    raise InputError(
        f"channel_axis={value!r}: give an axis other than 0 (the samples), such as 1 or -1, or axes by layer: "
        "{'norm*': 1}"
    )


def _axes_in(text: str) -> Any:
    parts = [part.rpartition("=") for part in text.split(",")]
    if len(parts) == 1 and not parts[0][1]:
        return _whole_number(text)
    return {name.strip(): _whole_number(axis) for name, _, axis in parts}


def _is_axis(name: Any, axis: Any) -> bool:
    return (
        isinstance(name, str)
        and name != ""
        and isinstance(axis, int)
        and not isinstance(axis, bool)
        and axis != 0
    )


def _whole_number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text.strip()
