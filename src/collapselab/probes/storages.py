"""Copies of the memory of tensors, compared and written back bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from collapselab.probes.free_memory import free_memory
from collapselab.statistics import is_deferred

# Of the free memory of a device, so much may hold copies; what does not fit is copied to the host.
_SHARE_OF_DEVICE, _SHARE_OF_HOST = 0.25, 0.5
_COPIES_PER_LIMIT = 8
# Where the host does not tell.
_ASSUMED_FREE = 2**34
# On an accelerator, memory up to so much is copied and compared at once: one read-back, not one for each tensor.
_GROUP_BYTES = 2**26
_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


class CopiedTensors:
    """Copies of tensors; tensors that share memory share a copy. They are made by `copy`, after tensors were added.

    Args:
        most_bytes: tensors whose memory takes more are left out, and all copies together take eight times as much; None
            copies every tensor for which there is room. For those without room a checksum is kept: they cannot be
            restored, but a change is noticed.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most_bytes, self._bytes_left = most_bytes, _COPIES_PER_LIMIT * (most_bytes or 0)
        self._storages: dict[int, _Storage] = {}
        self._groups: list[_Group] = []
        self._tensors: list[_View] = []
        self._room: dict[torch.device, int] = {}

    def add(self, tensor: Tensor, place: str) -> None:
        """Add a tensor. Tensors without memory of their own (sparse, on the meta device) are left out.

        Args:
            place: its name in `restore`.
        """
        for part, where in _parts(tensor, place):
            # Whatever has no plain storage is left out: subclasses without one, tensors of functorch.
            with suppress(RuntimeError, NotImplementedError, TypeError):
                self._add(part, where)

    def _add(self, tensor: Tensor, place: str) -> None:
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            size = storage.nbytes()
            if self._most_bytes is not None:
                if size > min(self._most_bytes, self._bytes_left):
                    return
                self._bytes_left -= size
            self._storages[key] = _Storage(storage, size, self._place_of_copy(storage.device, size))
        self._tensors.append(_View(tensor, tensor.detach(), place, key))

    def _place_of_copy(self, device: torch.device, size: int) -> torch.device | None:
        host = torch.device("cpu")
        for place, share in ((device, _SHARE_OF_DEVICE), (host, _SHARE_OF_HOST)):
            if place not in self._room:
                self._room[place] = int(share * _free_memory(place))
            if size <= self._room[place]:
                self._room[place] -= size
                return place
        return None

    def copy(self) -> None:
        """Copy all tensors that were added."""
        grouped: dict[tuple[torch.device, torch.dtype], list[_Storage]] = {}
        for storage in self._storages.values():
            device = storage.storage.device
            if storage.place == device and is_deferred("auto", device):
                grouped.setdefault((device, storage.words.dtype), []).append(storage)
            else:
                storage.copy_alone()
        for storages in grouped.values():
            self._groups += [_Group(part) for part in _parts_of_size(storages, _GROUP_BYTES)]

    def restore(self) -> tuple[list[str], list[str]]:
        """Write back what differs, in place.

        Returns:
            Names of tensors that were changed, and of those that were and cannot be restored.
        """
        unchanged = {
            id(storage) for group in self._groups if group.is_unchanged() for storage in group.storages
        }
        states = {
            key: False if id(storage) in unchanged else storage.restore()
            for key, storage in self._storages.items()
        }
        changed, lost = [], []
        for view in self._tensors:
            moved = view.restore()
            if moved is None or states[view.key] is None:
                lost.append(view.place)
            elif moved or states[view.key]:
                changed.append(view.place)
        return changed, lost


@dataclass
class _View:
    """A tensor and an alias of it, which keeps memory, shape and strides of the snapshot."""

    tensor: Tensor
    alias: Tensor
    place: str
    key: int

    def restore(self) -> bool | None:
        """Let the tensor view the memory it viewed; return whether it viewed another, None if that cannot be undone."""
        tensor, alias = self.tensor, self.alias
        if (
            tensor.untyped_storage()._cdata == self.key
            and tensor.storage_offset() == alias.storage_offset()
            and (tensor.shape, tensor.stride(), tensor.dtype) == (alias.shape, alias.stride(), alias.dtype)
        ):
            return False
        try:
            tensor.data = alias
        except RuntimeError:
            return None
        return True


@dataclass
class _Storage:
    """Memory, and its copy or, without room for one (`place` is None), a checksum."""

    storage: torch.UntypedStorage
    size: int
    place: torch.device | None
    copy: Tensor | None = None
    checksum: int = 0

    @cached_property
    def words(self) -> Tensor:
        """The memory as it is, while its size is that of the snapshot."""
        return _words(self.storage)

    def copy_alone(self) -> None:
        if self.place is None:
            self.checksum = int(self.words.sum())
        else:
            self.copy = self.words.to(self.place, copy=True)

    def restore(self) -> bool | None:
        """Return whether the memory was changed; None if it was and cannot be restored."""
        resized = self.storage.nbytes() != self.size
        if resized:
            self.storage.resize_(self.size)
        words = _words(self.storage)
        if self.copy is None:
            return None if resized or int(words.sum()) != self.checksum else False
        if not resized and torch.equal(words.to(self.copy.device), self.copy):
            return False
        words.copy_(self.copy)
        return True


class _Group:
    """Memory on one accelerator, as words of one kind, with one copy of all."""

    def __init__(self, storages: Sequence[_Storage]) -> None:
        self.storages = storages
        self._copy = torch.cat([storage.words for storage in storages])
        for storage, copy in zip(storages, self._copy.split([len(s.words) for s in storages]), strict=True):
            storage.copy = copy

    def is_unchanged(self) -> bool:
        if any(storage.storage.nbytes() != storage.size for storage in self.storages):
            return False
        return torch.equal(torch.cat([storage.words for storage in self.storages]), self._copy)


def _parts_of_size(storages: Sequence[_Storage], most_bytes: int) -> Iterator[list[_Storage]]:
    """Yield consecutive storages that together take at most so many bytes, or one that takes more."""
    part, used = list[_Storage](), 0
    for storage in storages:
        if part and used + storage.size > most_bytes:
            yield part
            part, used = [], 0
        part.append(storage)
        used += storage.size
    if part:
        yield part


def _words(storage: torch.UntypedStorage) -> Tensor:
    """Return the memory as whole numbers: NaN equal themselves, and zeros have signs."""
    size = storage.nbytes()
    width, dtype = next((width, dtype) for width, dtype in _WORDS if size % width == 0)
    empty = torch.empty(0, dtype=dtype, device=storage.device)
    return empty.set_(storage, 0, (size // width,), (1,))


def _parts(tensor: Tensor, place: str) -> Iterator[tuple[Tensor, str]]:
    """Yield the tensors that a tensor consists of: itself, or those inside of a wrapper such as a DTensor."""
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor, place
        return
    names, _ = flatten()
    for part in (getattr(tensor, name) for name in names):
        if isinstance(part, Tensor):  # a DTensor also names its mesh
            yield from _parts(part, place)


def _free_memory(device: torch.device) -> int:
    free = free_memory(device)
    return free if free is not None else _ASSUMED_FREE if device.type == "cpu" else 0
