"""Inputs and labels of each training step, from memory or from a stream."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from collapselab.data import DataSplits, Split
from collapselab.data.decoding import Request
from collapselab.data.streamed import StreamedSplit
from collapselab.records.recipe import Recipe
from collapselab.training.augmenting import Augment, ChangedImages, augmentation
from collapselab.training.batches import Batches


def make_feed(
    recipe: Recipe, data: DataSplits, batches: Batches, rank: int, layout: torch.memory_format
) -> Feed:
    """Return what gives a process its share of each batch, on the device of the data.

    Args:
        recipe: its augmentation and its last step.
        data: on the device of training.
        batches: samples of each step, over all processes.
        rank: of this process.
        layout: of images in memory.

    Raises:
        InputError, ImportError: see `augmentation`.
    """
    augment = augmentation(recipe, data)
    if isinstance(data.train, StreamedSplit):
        # Computed here, by all processes together: not all of them have a batch to measure.
        _ = data.standardization
        return StreamFeed(data.train, augment, batches, rank, layout, recipe.steps)
    return MemoryFeed(data.train, augment, batches, rank, layout)


class MemoryFeed:
    """Takes batches from tensors in memory."""

    def __init__(
        self, split: Split, augment: Augment | None, batches: Batches, rank: int, layout: torch.memory_format
    ) -> None:
        self._inputs, self._labels = split.inputs.to(memory_format=layout), split.labels
        self._augment, self._batches, self._rank = augment, batches, rank

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the step that follows `step` finished ones."""
        rows = self._batches.share(step, self._rank)
        inputs, labels = self._inputs[rows], self._labels[rows]
        return (inputs, labels) if self._augment is None else self._augment(inputs, labels, rows, step)

    def close(self) -> None:
        """Do nothing: no process was started."""


class StreamFeed:
    """Takes batches from a stream, which worker processes decode and augment ahead of training.

    The processes are started at the first step and run until `close`. A step's batch depends on its number alone, so that
    a run resumes at the exact sample.
    """

    def __init__(
        self,
        split: StreamedSplit,
        augment: Augment | None,
        batches: Batches,
        rank: int,
        layout: torch.memory_format,
        steps: int,
    ) -> None:
        self._split, self._augment, self._batches, self._rank = split, augment, batches, rank
        self._layout, self._steps = layout, steps
        self._change = None if augment is None else _ChangedRequest(augment.images)
        self._next, self._decoded = -1, _nothing()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the step that follows `step` finished ones.

        Raises:
            InputError: a damaged image.
        """
        if step != self._next:
            self.close()
            self._decoded = self._split.decoded(self._requests(step), self._change)
        raw = next(self._decoded)
        self._next = step + 1
        rows = self._batches.share(step, self._rank)
        inputs = self._split.standardized(raw).to(memory_format=self._layout)
        labels = self._split.labels[rows]
        return (inputs, labels) if self._augment is None else self._augment.mixed(inputs, labels, step)

    def close(self) -> None:
        """End the processes; the next batch starts others."""
        self._decoded.close()
        self._next = -1

    def _requests(self, start: int) -> Iterator[Request]:
        ahead = self._batches.on_host()
        for step in range(start, self._steps):
            yield Request(ahead.share(step, self._rank).numpy(), step)


Feed = MemoryFeed | StreamFeed


@dataclass(frozen=True)
class _ChangedRequest:
    """The changes of single images, as a worker makes them."""

    images: ChangedImages

    def __call__(self, raw: Tensor, request: Request) -> Tensor:
        return self.images(raw, request.positions.tolist(), request.step)


def _nothing() -> Generator[Tensor, None, None]:
    yield from ()
