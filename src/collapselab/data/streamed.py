"""Images that are not in memory: decoded by worker processes whenever they are read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from collapselab.data.decoding import Request, Work
from collapselab.data.pixels import Pixels
from collapselab.data.split_batches import SplitBatches
from collapselab.errors import InputError


@dataclass(frozen=True)
class StreamedSplit:
    """Samples of one split, decoded when they are read.

    Attributes:
        name: of data set and split, for messages.
        pixels: the images.
        labels: on the device where inputs are put.
    """

    name: str
    pixels: Pixels
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.pixels.shape

    @property
    def inputs(self) -> NoReturn:
        """Refuse: there is no room for all.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name}: is streamed, and this needs all samples in memory; use fewer samples")

    def to(self, device: torch.device) -> StreamedSplit:
        return replace(self, labels=self.labels.to(device))

    def every(self, stride: int) -> StreamedSplit:
        """Return every `stride`-th sample, standardised as all of them are."""
        positions = np.arange(0, len(self), stride)
        return replace(self, pixels=self.pixels.selected(positions), labels=self.labels[::stride])

    def first(self, count: int) -> Float[Tensor, "n ch h w"]:
        """Return the first inputs."""
        return self.standardized(self.pixels.some(np.arange(min(count, len(self)))).to(self.labels.device))

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> SplitBatches:
        """Return batches (inputs, labels) in stored order, or every `world`-th; the last batch may be smaller."""
        return SplitBatches(self, batch_size, rank, world)

    def read(self, ranges: Sequence[range]) -> Iterator[Float[Tensor, "b ch h w"]]:
        """Yield the inputs of consecutive samples, for each range."""
        return map(self.standardized, self.decoded([Request(np.asarray(samples)) for samples in ranges]))

    def decoded(
        self, requests: Iterable[Request], work: Work | None = None
    ) -> Generator[UInt8[Tensor, "b ch h w"], None, None]:
        """Yield the decoded images of each request, on the device of the labels; see `decoded_ahead`."""
        device = self.labels.device
        for raw in self.pixels.decoded(requests, work, pin=device.type == "cuda"):
            yield raw.to(device, non_blocking=True)

    def standardized(self, raw: UInt8[Tensor, "b ch h w"]) -> Float[Tensor, "b ch h w"]:
        """Return decoded images as a network takes them."""
        return self.pixels.standardized(raw)
