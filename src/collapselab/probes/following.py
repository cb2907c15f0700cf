"""Follow every tensor of a forward pass: which axis of what a module reads holds channels, which weight multiplies it."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn

from collapselab.probes.channels import ChannelAxes, ChannelAxis
from collapselab.probes.journey import Journey
from collapselab.probes.layout import Layouts
from collapselab.probes.operation import DispatchMode, Operation, decomposed
from collapselab.probes.products import Products, Storages
from collapselab.probes.select import weight_layer_in

# A head reads at most so many: distilled networks have two.
_MAX_SPECIAL_TOKENS = 2


class Following(DispatchMode):
    """A context in which a forward pass is followed, operation by operation; the pass itself is never changed.

    Args:
        follower, journey: are told of every operation.
    """

    supports_higher_order_operators = True

    def __init__(self, follower: Follower, journey: Journey) -> None:
        super().__init__()
        self._follower, self._journey = follower, journey

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = decomposed(self, func, args, kwargs)
        if result is not NotImplemented:
            return result
        read = self._journey.before(func, args, kwargs)
        result = func(*args, **kwargs)
        self._journey.after(func, read, result)
        with contextlib.suppress(Exception):  # sparse tensors, operators of other libraries, …
            self._follower.follow(Operation(func, args, kwargs, result))
        return result


class Follower:
    """What is known of the tensors of a forward pass. An operation that cannot be followed leaves unknown what it returns.

    Args:
        channel_axis: the option of this name.

    Attributes:
        products: the calls of weight layers.
        axes: chooses the axis of channels.
        selected: index and number of the tokens of the sequence from which one token was last taken; None if none was.
    """

    def __init__(self, channel_axis: ChannelAxis = None) -> None:
        self.products, self.axes = Products(), ChannelAxes(channel_axis)
        self.selected: tuple[int, int] | None = None
        self._layouts = Layouts()
        self._sequence, self._num_selected = Storages(), 0

    def enter(self, name: str, module: nn.Module, features: Tensor) -> int:
        """Note that a call of a module reads `features`; return their axis of channels, counted from the last.

        Raises:
            InputError: the given axis is not one of channels.
        """
        axis = self.axes.choose(name, module, features.ndim, self._layouts.channel_axes(features))
        if weight_layer_in(module) is not None:
            self.products.enter(name, module, features)
        return axis

    def leave(self, name: str, output: Any) -> None:
        """Note what a call of a module returned."""
        self.products.leave(name, output)

    def follow(self, operation: Operation) -> None:
        """Note what an operation returned."""
        self._layouts.follow(operation, self.products.is_data)
        self.products.follow(operation)
        self._note_selection(operation)

    def _note_selection(self, operation: Operation) -> None:
        """Note the token that is taken from a sequence (n, tokens, channels): the first, where several are."""
        if operation.name != "select":
            return
        sequence, index = operation.inputs[0], operation.arguments["index"]
        if sequence.ndim != 3 or operation.dims("dim", 3) != [1] or not sequence.is_floating_point():
            return
        if self._layouts.channel_axes(sequence) != [-1]:
            return
        if sequence not in self._sequence:
            self.selected, self._sequence, self._num_selected = (
                (index, sequence.shape[1]),
                Storages(sequence),
                0,
            )
        self._num_selected += 1
        if self._num_selected > _MAX_SPECIAL_TOKENS:  # a loop over all tokens
            self.selected = None
