"""Memory that the statistics of many layers share: scratch for centred rows, and the Gaussian matrices of sketches.

Letters: n samples, p features, k sketch columns.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor


class Scratch:
    """Memory that is overwritten by whoever takes it next. It is freed with the last object that holds it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, int], Tensor] = {}
        self._views: dict[tuple[torch.dtype, int], Tensor] = {}

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()  # copies and pickles begin with none

    def take(
        self, num_rows: int, dim: int, dtype: torch.dtype, device: torch.device, *, number: int = 0
    ) -> Float[Tensor, "n p"]:
        """Return uninitialised memory, valid until the next call with the same dtype and number.

        On the CPU it is reused, as fresh pages cost more than the arithmetic on them. The allocators of accelerators
        reuse memory themselves, in the order of each stream.
        """
        if device.type != "cpu":
            return torch.empty(num_rows, dim, dtype=dtype, device=device)
        view = self._views.get((dtype, number))
        if view is not None and view.shape == (num_rows, dim):  # batches of one size
            return view
        size, buffer = num_rows * dim, self._buffers.get((dtype, number))
        if buffer is None or len(buffer) < size:
            self._buffers[dtype, number] = buffer = torch.empty(size, dtype=dtype)
        self._views[dtype, number] = view = buffer[:size].view(num_rows, dim)
        return view


@dataclass(frozen=True)
class Directions:
    """The Gaussian matrix Omega of sketches; it is only read.

    Attributes:
        exact: (p, k) float64.
        of_products: the same, rounded to the dtype of the products.
    """

    exact: Float[Tensor, "p k"]
    of_products: Float[Tensor, "p k"]


_scratch: WeakValueDictionary[int, Scratch] = WeakValueDictionary()
_directions: WeakValueDictionary[tuple[object, ...], Directions] = WeakValueDictionary()


def shared_scratch() -> Scratch:
    """Return the scratch memory of this thread."""
    thread = threading.get_ident()
    found = _scratch.get(thread)
    if found is None:
        found = _scratch[thread] = Scratch()
    return found


def shared_directions(
    dim: int, num_columns: int, seed: int, dtype: torch.dtype, device: torch.device
) -> Directions:
    """Return the Gaussian matrix of this seed, the same object for all that need it at the same time.

    Args:
        dim: p.
        num_columns: k.
        dtype: of the products.
        device: where it is used; the values do not depend on it.
    """
    key = dim, num_columns, seed, dtype, device
    found = _directions.get(key)
    if found is None:
        generator = torch.Generator().manual_seed(seed)
        exact = torch.randn(dim, num_columns, dtype=torch.float64, generator=generator).to(device)
        found = _directions[key] = Directions(exact, exact.to(dtype))
    return found
