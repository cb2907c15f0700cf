"""Small batches are collected in one bounded buffer, so that few large kernels run for any batch size.

Nothing here reads a value: an accelerator is never waited for.

Letters: n samples, p features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.readback import moved_behind, waits

# When batches are checked: at once, or when the chunk of which they are part is added.
Checks = Literal["eager", "deferred", "auto"]
CHECKS: tuple[Checks, ...] = get_args(Checks)
# Types of devices that the host does not wait for: their values are at hand.
EAGER_DEVICES = frozenset({"cpu"})
# A chunk keeps an accelerator busy for longer than the host needs to launch its kernels, and is small beside features
# and matrices.
_CHUNK_BYTES, _MAX_CHUNK_ROWS = 2**25, 2**14


def is_deferred(checks: Checks, device: torch.device) -> bool:
    """Return whether checks of values wait; with `auto` they do everywhere but on the CPU."""
    return checks == "deferred" or (checks == "auto" and device.type not in EAGER_DEVICES)


@dataclass(frozen=True)
class Chunk:
    """Rows of consecutive batches.

    Attributes:
        rows: (n, p).
        labels: (n,), int64, on the device of the rows.
        batches: the number of each batch and how many rows it has, in their order.
    """

    rows: Float[Tensor, "n p"]
    labels: Int[Tensor, " n"]
    batches: tuple[tuple[int, int], ...]


AddChunk = Callable[[Chunk], None]


def chunk_rows(dim: int, itemsize: int, num_samples: int | None = None) -> int:
    """Return how many rows are collected: 32 MiB of them, and at most 16,384.

    Args:
        dim: features per row.
        itemsize: bytes per feature.
        num_samples: how many rows will come; None where unknown.
    """
    rows = min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // (itemsize * dim))
    return rows if num_samples is None else min(rows, num_samples)


def chunk_bytes(dim: int, itemsize: int, num_samples: int | None = None) -> int:
    """Return the bytes of the buffer that a `RowGatherer` holds: `chunk_rows` rows and their labels."""
    return chunk_rows(dim, itemsize, num_samples) * (dim * itemsize + 8)


class RowGatherer:
    """Collects rows and labels of batches, and hands them on as chunks.

    Batches of more rows than a chunk has are handed on as they are, after what waits. Memory: `chunk_rows` rows of the
    dtype of the features and their int64 labels; it is released whenever rows are handed on before the chunk is full.

    Args:
        device: where rows are collected.
        num_samples: how many rows will come, where known: the buffer is not larger.
    """

    def __init__(self, device: torch.device, num_samples: int | None = None) -> None:
        self._device, self._num_samples = device, num_samples
        self._rows: Tensor | None = None
        self._labels: Tensor | None = None
        self._batches: list[tuple[int, int]] = []
        self._filled = 0
        self._next = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer that is held now."""
        return sum(held.nbytes for held in (self._rows, self._labels) if held is not None)

    @torch.inference_mode(False)  # a buffer that is made here is filled elsewhere
    @torch.no_grad()
    def update(self, rows: Float[Tensor, "n p"], labels: Int[Tensor, " n"], add: AddChunk) -> None:
        """Collect a batch. Batches are numbered from 0, empty ones included.

        Args:
            rows: on any device.
            labels: whole numbers of any dtype, on any device.
            add: takes chunks; it must not store their tensors.
        """
        number, n = self._next, len(labels)
        self._next += 1
        if n == 0:
            return
        size = chunk_rows(rows.shape[1], rows.element_size(), self._num_samples)
        # An error of batches that waited must not lose this one.
        if n >= size:
            on_device = rows.to(self._device), moved_behind(labels.long(), self._device)
            try:
                self.flush(add)
            finally:
                add(Chunk(*on_device, ((number, n),)))
            return
        try:
            if self._filled + n > size or not self._takes(rows, labels):
                self._hand_on(add)
        finally:
            self._copy(rows, labels, size)
            self._batches.append((number, n))

    def flush(self, add: AddChunk) -> None:
        """Hand on what waits, and release the memory."""
        try:
            self._hand_on(add)
        finally:
            self._rows = self._labels = None

    def _takes(self, rows: Tensor, labels: Tensor) -> bool:
        """Whether the buffer is for such rows and labels.

        Labels stay on their device until the chunk is full: one transfer, not one per batch.
        """
        same_rows = self._rows is None or rows.dtype == self._rows.dtype
        return same_rows and (self._labels is None or labels.device == self._labels.device)

    def _copy(self, rows: Tensor, labels: Tensor, size: int) -> None:
        if self._rows is None or not self._takes(rows, labels):
            self._rows = torch.empty(size, rows.shape[1], dtype=rows.dtype, device=self._device)
        if self._labels is None:
            # The device copies labels in pinned memory in its own time.
            pinned = waits(self._device) and labels.device.type == "cpu"
            self._labels = torch.empty(size, dtype=torch.int64, device=labels.device, pin_memory=pinned)
        start, self._filled = self._filled, self._filled + len(labels)
        # The caller may write to pinned memory before an asynchronous copy has read it.
        elsewhere = rows.device != self._device
        self._rows[start : self._filled].copy_(rows, non_blocking=elsewhere and not rows.is_pinned())
        self._labels[start : self._filled].copy_(labels)

    def _hand_on(self, add: AddChunk) -> None:
        if not self._batches or self._rows is None or self._labels is None:
            return
        rows, labels = self._rows[: self._filled], self._labels[: self._filled]
        batches, self._batches, self._filled = tuple(self._batches), [], 0
        # Labels that are still being copied must not be overwritten: the next chunk has a buffer of its own.
        self._labels = None
        add(Chunk(rows, labels.to(self._device, non_blocking=True), batches))
