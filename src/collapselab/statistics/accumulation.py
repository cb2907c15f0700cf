"""How batches are added to class statistics: at once, or gathered into large blocks.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from collapselab.statistics.checking import batch_tensors, check_range, check_shapes
from collapselab.statistics.gathering import Checks, Chunk, RowGatherer, chunk_rows, is_deferred
from collapselab.statistics.large_blocks import (
    ChunkCheck,
    LargeBlock,
    accepted_batches,
    class_sums,
)
from collapselab.statistics.moments import ClassMoments
from collapselab.statistics.readback import moved_behind
from collapselab.statistics.readings import ClassReadings
from collapselab.statistics.rows import refuse_unbounded
from collapselab.statistics.scatter import Scatter, WithinScatter


class ClassAccumulation(ClassReadings):
    """The sums of `ClassStats`, and how rows are added to them.

    Attributes:
        dim: p, features per sample.
        product_dtype: dtype of the p x p products; None before the first features come, unless it was given.
        sketch_size, seed: columns of the sketch, and seed for its Gaussian.
    """

    dim: int
    product_dtype: torch.dtype | None
    sketch_size: int
    seed: int
    _num_classes: int
    _scatter: Scatter
    _growing: bool
    _max_per_class: int | None
    _device: torch.device | None
    _checks: Checks
    _gatherer: RowGatherer | None

    @property
    def num_classes(self) -> int:
        """C; with `growing`, the number of classes that there is room for."""
        self._settle()
        return self._num_classes

    @property
    def scatter(self) -> Scatter:
        """Which part of the within-class scatter is stored."""
        self._settle()
        return self._scatter

    @torch.inference_mode(False)  # sums that are created here are changed elsewhere
    @torch.no_grad()
    def update(self, features: Any, labels: Any) -> None:
        """Add a batch. It is only read and not stored.

        Args:
            features: (n, p): a float16, bfloat16, float32 or float64 tensor on any device, an array, or lists of numbers.
            labels: (n,) whole numbers in [0, num_classes): a tensor on any device, an array or a list.

        Raises:
            InputError: an array or list that does not hold such numbers.
            ValueError: shapes or dtypes that do not fit, labels out of range, NaN or infinity (with the
                first row). Nothing is added from a batch that is refused. With deferred checks, labels and values are
                reported as `RefusedBatch`, by a later update or when statistics are read: once, with the number of the
                first refused batch among all updates (from 0), its first row and how many other batches were refused.
                All other batches are added, and reading again succeeds.
        """
        features, labels = batch_tensors(features, labels)
        check_shapes(features, labels, self.dim)
        device = self._device or features.device
        device = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        if is_deferred(self._checks, device):
            self._gather(features, labels, device)
        elif len(labels):
            self._device = device
            self._add_at_once(features, labels)

    def _gather(self, features: Tensor, labels: Tensor, device: torch.device) -> None:
        if self._gatherer is None:
            self._device, self._gatherer = device, RowGatherer(device)
        if len(labels):
            self._allocate(features)
        self._gatherer.update(features, labels, self.add_chunk)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _settle(self) -> None:
        """Add the rows that wait.

        Raises:
            RefusedBatch: see `update`.
        """
        if self._gatherer is not None:
            self._gatherer.flush(self.add_chunk)
        if self._moments is not None:
            self._move_centres(self._moments.judged())

    @torch.inference_mode(False)
    @torch.no_grad()
    def add_chunk(self, chunk: Chunk) -> None:
        """Add the rows of several batches as large blocks. Whoever collects rows for several accumulators calls this.

        Raises:
            RefusedBatch: labels out of range, NaN or infinity; all other batches are added.
        """
        moments = self._allocate(chunk.rows)
        device = moments.counts.device
        chunk = Chunk(chunk.rows.to(device), moved_behind(chunk.labels, device), chunk.batches)
        limit = None if self._growing else self._num_classes
        check, refused = ChunkCheck(chunk, limit), None
        self._move_centres(moments.judged())
        # The device centres the first block while the host waits for the range of the chunk.
        blocks = self._blocks(moments, chunk)
        block = next(blocks)
        can_be_added, high, values = check.read()
        if not can_be_added:
            accepted, refused = accepted_batches(chunk, limit)
            if accepted is None:
                raise refused
            chunk = accepted
            _, high, values = ChunkCheck(chunk, limit).read()
        if high >= self._num_classes:
            self._grow(self._room_for(high + 1))
        if refused is not None or len(block.here) != moments.num_classes:
            blocks = self._blocks(moments, chunk)
            block = next(blocks)
        if self._within is not None:
            self._within.see(*values)
        while block is not None:
            self._add_large_block(block)
            block = None  # its memory is for the next one
            block = next(blocks, None)
        if refused is not None:
            raise refused

    def _blocks(self, moments: ClassMoments, chunk: Chunk) -> Iterator[LargeBlock]:
        """Yield the blocks of a chunk, each centred when it is asked for."""
        exact = (
            self._within is not None and self.product_dtype == torch.float64 and self._within.kind != "sketch"
        )
        dtype = torch.float64 if exact else moments.block_dtype(chunk.rows.dtype)
        step = max(64, chunk_rows(self.dim, dtype.itemsize))
        for rows, labels in zip(chunk.rows.split(step), chunk.labels.split(step), strict=True):
            yield LargeBlock(moments, rows, labels, dtype)

    def _add_large_block(self, block: LargeBlock) -> None:
        moments, found = block.moments, block.findings()
        if found.moves_centres:
            block.release()
            rows = block.rows.to(block.dtype if found.is_safe else torch.float64)
            new = moments.new_classes(block.here)
            if new is not None:
                moments.place_centres(rows, block.labels, new, class_sums)
            self._move_centres(moments.outgrown_centres(block.rows, block.labels, block.here, class_sums))
            block = block.again()
            found = block.findings()
        if not found.is_safe:
            block = block.again(torch.float64)
            found = block.findings()
        block.add(found)
        if found.is_due:
            moments.judge()
        if self._within is not None and not self._within.hold(block.rows, block.labels):
            self._within.add_centred(block.deviations, block.labels)

    def _add_at_once(self, features: Tensor, labels: Tensor) -> None:
        high = check_range(labels, None if self._growing else self._num_classes)
        if high >= self._num_classes:
            self._grow(self._room_for(high + 1))
        moments = self._allocate(features)
        features = features.to(self._device)
        labels = labels.to(device=self._device, dtype=torch.int64)
        step, num_rows = moments.block_rows(), labels.shape[0]
        if num_rows <= step:
            self._add_block(moments, features, labels)
            return
        # A single block is checked while it is added; several are all checked before the first is added. A sum is the
        # cheapest pass that reveals NaN and infinity, and only float64 has values that are too large.
        if features.dtype == torch.float64 or not bool(torch.isfinite(features.sum())):
            refuse_unbounded(features)
        for block, classes in zip(features.split(step), labels.split(step), strict=True):
            self._add_block(moments, block, classes)

    def _add_block(self, moments: ClassMoments, block: Tensor, labels: Tensor) -> None:
        within, num_rows = self._within, labels.shape[0]
        here = torch.bincount(labels, minlength=self._num_classes)
        self._move_centres(moments.outgrown_centres(block, labels, here))
        sketched = within is not None and within.kind == "sketch"
        moments.add(block, labels, here, within.add_deviations if within and sketched else None)
        if within is not None:
            within.push(block, labels)
        self._move_centres(moments.poor_centres(num_rows))

    def _room_for(self, num_classes: int) -> int:
        """Return twice the room there is, but not room for more classes than `max_per_class` before they have come."""
        limit = self._max_per_class or 0
        room = max(2 * self._num_classes, num_classes)
        return min(room, limit) if num_classes <= limit else room

    def _grow(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._pool_many_classes()
        if self._moments is not None:
            self._moments.grow(num_classes)
        if self._within is not None:
            self._within.grow(num_classes)

    def _pool_many_classes(self) -> None:
        if self._scatter == "per_class" and self._num_classes > (self._max_per_class or self._num_classes):
            self._scatter = "full"
            if self._within is not None:
                self._within.pool()

    def _move_centres(self, moving: tuple[Tensor, Tensor] | None) -> None:
        if moving is not None and self._moments is not None:
            if self._within is not None:
                self._within.prepare_move(*moving)
            self._moments.move_centres(*moving)

    def _allocate(self, features: Tensor) -> ClassMoments:
        """Return the moments, created for the dtype and device of the first features."""
        if self._moments is not None:
            return self._moments
        self._device = self._device or features.device
        if self.product_dtype is None:
            self.product_dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self._moments = ClassMoments(
            self._num_classes,
            self.dim,
            # float32 rows are centred in float32: a centre that float32 cannot represent would shift them.
            centre_dtype=torch.float64 if features.dtype == torch.float64 else torch.float32,
            device=self._device,
        )
        if self._scatter != "trace":
            self._within = WithinScatter(
                self._scatter,
                self._moments,
                class_counts=self.class_counts,
                dtype=self.product_dtype,
                sketch_size=self.sketch_size,
                seed=self.seed,
            )
        return self._moments
