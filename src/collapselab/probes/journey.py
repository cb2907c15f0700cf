"""Follow the outputs of weight layers through a forward pass: which layers made a tensor, and what happened to it since.

Every operation passes on the origins of the tensors that it reads; a weight layer starts anew. So the origins of the
class scores are the layers that made them, and whether anything but a layer was multiplied with in between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from collapselab.probes.operation import tensors_among

# Operations that mix features: products, distances, attention, recurrent layers.
_MIXING = re.compile(
    r"mm_?$|mv_?$|dot$|matmul$|einsum$|^_*(mkldnn_)?linear|convolution|cdist|euclidean|cosine_similarity|"
    "pairwise_distance|attention|rnn|lstm|gru|addmm_activation"
)
_SQUASHING = re.compile(r"^(hard)?sigmoid_?$")
_SUMMING = re.compile(r"^(nan)?sum$|^mean$|^(linalg_)?(vector_)?norm$|^logsumexp$|^prod$|^a(max|min)$")
_ELEMENTWISE = re.compile(r"^(add|r?sub|mul|div|true_divide|pow|minimum|maximum|addcmul|addcdiv)_?$")
_RESCALING = re.compile(
    r"^(mul|div|true_divide|addcmul|addcdiv)_?$|(batch|layer|group|rms|instance)_norm|^prelu$"
)


@dataclass(frozen=True)
class Origin:
    """A weight layer that a tensor comes from.

    Attributes:
        call: name of the call of the layer.
        is_mixed: whether its output was multiplied with something else since, other than in a weight layer.
        is_probability: whether a sigmoid followed.
        is_spread: whether it was repeated along an axis to meet another tensor; a sum of that is a product.
        is_rescaled: whether its channels were multiplied with one factor each.
    """

    call: str
    is_mixed: bool = False
    is_probability: bool = False
    is_spread: bool = False
    is_rescaled: bool = False


@dataclass
class Ancestry:
    """Everything upstream of one call.

    Attributes:
        calls: names of all calls that what it reads comes from.
        depth: number of weight layers in a row up to it.
    """

    calls: frozenset[str] = frozenset()
    depth: int = 1


@dataclass(frozen=True)
class Read:
    """The tensors that an operation reads, as they are before it, which may work in place: with origins, and shapes."""

    tensors: list[tuple[Tensor, frozenset[Origin]]]
    shapes: list[torch.Size]


@dataclass
class Journey:
    """A record of where the tensors of a forward pass come from, told of every operation and calls of weight layers."""

    _origins: dict[int, tuple[StorageWeakRef, frozenset[Origin]]] = field(default_factory=dict)
    _upstream: dict[str, Ancestry] = field(default_factory=dict)

    def read(self, call: str, features: Tensor) -> None:
        """A weight layer is about to read a tensor."""
        parents = {origin.call for origin in self.origins(features)}
        above = [self.upstream(parent) for parent in parents]
        calls = frozenset(parents).union(*(one.calls for one in above))
        self._upstream[call] = Ancestry(calls, 1 + max((one.depth for one in above), default=0))

    def made(self, call: str, outputs: Any) -> None:
        """A weight layer has returned."""
        for tensor in tensors_among(tree_leaves(outputs)):
            self._put(tensor, frozenset([Origin(call)]))

    def origins(self, tensor: Tensor) -> frozenset[Origin]:
        """Return the weight layers that a tensor comes from; empty where unknown."""
        try:
            known = self._origins.get(tensor.untyped_storage()._cdata)
        except (RuntimeError, NotImplementedError):  # see `_storage`
            known = None
        return frozenset() if known is None else known[1]

    def upstream(self, call: str) -> Ancestry:
        """Return what a call of a weight layer comes from."""
        return self._upstream.get(call, Ancestry())

    def off_chain(self, calls: Sequence[str]) -> frozenset[str]:
        """Return the calls that are on other branches than the longest chain of calls that leads to the last one.

        Args:
            calls: of weight layers, each after those that it comes from.

        Returns:
            Shortcuts, parallel branches, of equally long ones all but the first, and other heads; nothing where a call is
            not known, or where the chain begins after calls that do not lead to the last one: there, it cannot be followed.
        """
        length: dict[str, int] = {}
        parent: dict[str, str | None] = {}
        for call in calls:
            if call not in self._upstream:
                return frozenset()
            above = [other for other in length if other in self._upstream[call].calls]
            parent[call] = max(above, key=length.__getitem__, default=None)
            length[call] = 1 + max((length[other] for other in above), default=0)
        chain, call = [], calls[-1]
        while call is not None:
            chain.append(call)
            call = parent[call]
        earlier = set(calls[: calls.index(chain[-1])])
        return (
            frozenset(calls).difference(chain) if earlier <= self._upstream[calls[-1]].calls else frozenset()
        )

    def before(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Read | None:
        """Return what an operation is about to read; None where no origin of it is known."""
        given = [*args, *kwargs.values()] if _is_operator(function) else tree_leaves((args, kwargs))
        tensors = [(tensor, self.origins(tensor)) for tensor in tensors_among(given)]
        if not any(found for _, found in tensors):
            return None
        return Read(tensors, [_shape(tensor) for tensor, _ in tensors])

    def after(self, function: Any, read: Read | None, out: Any) -> None:
        """Pass the origins of what an operation read on to what it returned."""
        if read is None:
            return
        name = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else str(function)
        returned = tensors_among(out if _is_operator(function) else tree_leaves(out))
        after = _shape(returned[0]) if returned else torch.Size()
        all_found = frozenset[Origin]().union(
            *(
                _passed_on(name, number, read.tensors, read.shapes, after)
                for number in range(len(read.shapes))
            )
        )
        for tensor in returned:
            self._put(tensor, all_found)

    def _put(self, tensor: Tensor, found: frozenset[Origin]) -> None:
        key = _storage(tensor)
        if key is not None:
            self._origins[key.cdata] = key, found


def _is_operator(function: Any) -> bool:
    """Whether tensors can only be in lists among its arguments."""
    return isinstance(function, torch._ops.OpOverload)


def _passed_on(
    name: str,
    number: int,
    read: list[tuple[Tensor, frozenset[Origin]]],
    shapes: list[torch.Size],
    after: torch.Size,
) -> frozenset[Origin]:
    """Return the origins that an operation passes on from one of the tensors that it reads.

    Args:
        name: of the operation.
        number: which of the tensors.
        read: what the operation reads, with origins.
        shapes: of these.
        after: shape of what it returns.
    """
    tensor, found = read[number]
    kind = _kind(name)
    if not found or not any(kind):
        return found
    calls = {origin.call for origin in found}
    others = [
        shape
        for (other, origins), shape in zip(read, shapes, strict=True)
        if other is not tensor and {origin.call for origin in origins} != calls
    ]
    mixed, squashed, summed, elementwise, rescaling = kind
    spread = bool(others) and elementwise and _is_repeated(tensor, shapes[number], after)
    rescaled = rescaling and any(_is_per_channel(shape, after) for shape in others)
    return frozenset(
        Origin(
            one.call,
            one.is_mixed or mixed or (summed and one.is_spread),
            one.is_probability or squashed,
            one.is_spread or spread,
            one.is_rescaled or rescaled,
        )
        for one in found
    )


@lru_cache(maxsize=512)
def _kind(name: str) -> tuple[bool, ...]:
    """Return whether an operation of this name mixes, squashes, sums, is elementwise, rescales."""
    patterns = (_MIXING, _SQUASHING, _SUMMING, _ELEMENTWISE, _RESCALING)
    return tuple(pattern.search(name) is not None for pattern in patterns)


def _is_repeated(tensor: Tensor, shape: torch.Size, after: torch.Size) -> bool:
    """Return whether a tensor is repeated to get another shape, or was before: `expand` leaves steps of zero."""
    is_plain = tensor.layout == torch.strided and not tensor.is_nested
    steps = zip(tensor.shape, tensor.stride(), strict=True) if is_plain else ()
    return any(size > 1 and step == 0 for size, step in steps) or after.numel() > shape.numel()


def _is_per_channel(factor: torch.Size, after: torch.Size) -> bool:
    """Return whether a factor can differ between channels, which are on the last axis or, in maps, on axis 1."""
    full = (1,) * (len(after) - len(factor)) + tuple(factor)
    varying = [axis for axis, size in enumerate(full) if size > 1]
    return len(factor) > 0 and (full[-1] > 1 or varying == [1])


def _shape(tensor: Tensor) -> torch.Size:
    return torch.Size() if tensor.is_nested else tensor.shape


def _storage(tensor: Tensor) -> StorageWeakRef | None:
    """The weak reference keeps the number of the storage from being given to another one."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (RuntimeError, NotImplementedError):  # tensors without one storage, such as sparse ones
        return None
