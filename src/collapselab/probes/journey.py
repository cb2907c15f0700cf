"""Follow the outputs of weight layers through a forward pass: which layers made a tensor, and what happened to it since.

Every operation passes on the origins of the tensors that it reads; a weight layer starts anew. So the origins of the
class scores are the layers that made them, and whether anything but a layer was multiplied with in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from collapselab.probes.operation import decomposed

# Operations that mix features: products, distances, attention, recurrent layers.
_MIXING = re.compile(
    r"mm_?$|mv_?$|dot$|^_*(mkldnn_)?linear|convolution|cdist|euclidean|attention|rnn|lstm|gru|addmm_activation"
)
_SQUASHING = re.compile(r"^(hard)?sigmoid_?$")


@dataclass(frozen=True)
class Origin:
    """A weight layer that a tensor comes from.

    Attributes:
        call: name of the call of the layer.
        is_mixed: whether its output was multiplied with something else since, other than in a weight layer.
        is_probability: whether a sigmoid followed.
    """

    call: str
    is_mixed: bool = False
    is_probability: bool = False


@dataclass
class Ancestry:
    """Everything upstream of one call.

    Attributes:
        calls: names of all calls that what it reads comes from.
        depth: number of weight layers in a row up to it.
    """

    calls: frozenset[str] = frozenset()
    depth: int = 1


@dataclass
class Journey(TorchDispatchMode):
    """A record of where tensors come from. Open it around a forward pass, and tell it of calls of weight layers."""

    supports_higher_order_operators: ClassVar[bool] = True
    _origins: dict[int, tuple[StorageWeakRef, frozenset[Origin]]] = field(default_factory=dict)
    _upstream: dict[str, Ancestry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def read(self, call: str, features: Tensor) -> None:
        """A weight layer is about to read a tensor."""
        parents = {origin.call for origin in self.origins(features)}
        above = [self.upstream(parent) for parent in parents]
        calls = frozenset(parents).union(*(one.calls for one in above))
        self._upstream[call] = Ancestry(calls, 1 + max((one.depth for one in above), default=0))

    def made(self, call: str, outputs: Any) -> None:
        """A weight layer has returned."""
        for tensor in _tensors(tree_leaves(outputs)):
            self._put(tensor, frozenset([Origin(call)]))

    def origins(self, tensor: Tensor) -> frozenset[Origin]:
        """Return the weight layers that a tensor comes from; empty where unknown."""
        key = _storage(tensor)
        return self._origins[key.cdata][1] if key is not None and key.cdata in self._origins else frozenset()

    def upstream(self, call: str) -> Ancestry:
        """Return what a call of a weight layer comes from."""
        return self._upstream.get(call, Ancestry())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = decomposed(self, func, args, kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        read = [self.origins(tensor) for tensor in _tensors(tree_leaves((args, kwargs)))]
        found = frozenset[Origin]().union(*read)
        if found:
            name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
            mixed, squashed = _MIXING.search(name) is not None, _SQUASHING.search(name) is not None
            if mixed or squashed:
                found = frozenset(
                    Origin(one.call, one.is_mixed or mixed, one.is_probability or squashed) for one in found
                )
            for tensor in _tensors(tree_leaves(out)):
                self._put(tensor, found)
        return out

    def _put(self, tensor: Tensor, found: frozenset[Origin]) -> None:
        key = _storage(tensor)
        if key is not None:
            self._origins[key.cdata] = key, found


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    return (value for value in values if isinstance(value, Tensor))


def _storage(tensor: Tensor) -> StorageWeakRef | None:
    """The weak reference keeps the number of the storage from being given to another one."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (RuntimeError, NotImplementedError):  # tensors without one storage, such as sparse ones
        return None
