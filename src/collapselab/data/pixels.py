"""Images as standardised inputs: decoded once if they fit in memory, else batch by batch, if asked for by worker processes."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from collapselab.choices import Standardize
from collapselab.data.decoding import Decoder, Request, Work, consecutive, decoded_ahead
from collapselab.data.images import ImageForm, is_grey, upright_size
from collapselab.data.labelled import MEMORY_BYTES, ImageInputs
from collapselab.data.stored import ImageSource
from collapselab.distributed import rank_and_world, run_together, summed_over_ranks
from collapselab.errors import InputError, InputNote

_MAX_PIXEL = 255
_CHUNK_VALUES = 2**22
_MIXED_SIZE = 224  # what networks for photographs are trained on


class Pixels(ImageInputs):
    """Images scaled to [0, 1], with the mean of the training images subtracted, divided by their standard deviation.

    Args:
        source: the images.
        rows: row numbers of the images to use, ascending.
        image_size: (height, width) to resize to; without it the size of the images, or if they have several, a size
            that a warning names.
        channels: 1 or 3; without it, 3 if any image has colour.
        standardize: mean and standard deviation per channel, per pixel, or neither.
        reference: training images whose statistics, and whose shape if none is given, are used instead.

    Attributes:
        known_standardization: mean and standard deviation, once they are known; setting them saves a pass.
    """

    def __init__(
        self,
        source: ImageSource,
        rows: npt.NDArray[np.int64],
        *,
        image_size: tuple[int, int] | None = None,
        channels: int | None = None,
        standardize: Standardize = "channel",
        reference: Pixels | None = None,
    ) -> None:
        self._source, self._rows = source, rows
        self._image_size, self._channels = image_size, channels
        self._standardize, self._reference = standardize, reference
        self._workers: int | None = None
        self.known_standardization: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.form.shape

    @cached_property
    def form(self) -> ImageForm:
        """The form asked for, that of the reference, or the one found in the headers of all images.

        Raises:
            InputError: sizes that differ, or a form other than that of the reference.
        """
        size, channels = self._image_size, self._channels
        if self._reference is not None:
            form = self._reference.form
            if size not in (None, (form.height, form.width)) or channels not in (None, form.channels):
                raise InputError(
                    f"the training images have shape {form.shape}; open these images with the same size and channels"
                )
            return form
        if size is None or channels is None:
            sizes, found_channels = self._survey(all_sizes=size is None)
            size, channels = size or _one_size(sizes), channels or found_channels
        return ImageForm(channels, *size)

    def read(self, start: int, stop: int, step: int) -> Iterator[Float[Tensor, "b ch h w"]]:
        return map(self.standardized, self._raw(start, stop, step))

    def streamed(self, workers: int) -> Pixels:
        """Return the same images, never all in memory, but decoded ahead by this many processes whenever they are read."""
        other = copy.copy(self)
        other._source, other._workers = self._source.random_access(), workers
        return other

    def decoded(
        self, requests: Iterable[Request], work: Work | None = None, *, pin: bool = False
    ) -> Iterator[Tensor]:
        """Yield what each request gives: see `decoded_ahead`."""
        return decoded_ahead(self._decoder, requests, self._workers or 0, work, pin=pin)

    def some(self, positions: npt.NDArray[np.int64]) -> UInt8[Tensor, "b ch h w"]:
        """Return images, decoded in this process."""
        return self._decoder.batch(positions)

    def stored_bytes(self) -> npt.NDArray[np.int64]:
        """Return the size of each image where it is stored."""
        return self._source.stored_bytes(self._rows)

    def selected(self, positions: npt.NDArray[np.int64]) -> Pixels:
        """Return some of the images, ascending, standardised as all of them are."""
        return Pixels(self._source, self._rows[positions], reference=self).streamed(self._workers or 0)

    def standardized(self, raw: UInt8[Tensor, "b ch h w"]) -> Float[Tensor, "b ch h w"]:
        """Return decoded images as a network takes them, on their device."""
        mean, deviation = (part.to(raw.device) for part in self.standardization)
        return ((raw.float() / _MAX_PIXEL) - mean) / deviation

    @property
    def standardization(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Mean and standard deviation of inputs in [0, 1], float32; a pixel that never varies is not scaled."""
        if self._reference is not None:
            return self._reference.standardization
        if self.known_standardization is None:
            self.known_standardization = self._computed_standardization()
        return self.known_standardization

    def _computed_standardization(self) -> tuple[Tensor, Tensor]:
        if self._standardize == "none":
            return torch.zeros(()), torch.ones(())
        total, squares = self._sums()
        count = len(self._rows)
        if self._standardize == "channel":
            count *= self.form.height * self.form.width
            total, squares = (sums.sum(dim=(1, 2), keepdim=True) for sums in (total, squares))
        mean = total.double() / count
        deviation = (squares.double() / count - mean.square()).clamp_min(0).sqrt()
        deviation[deviation == 0] = _MAX_PIXEL
        return (mean / _MAX_PIXEL).float(), (deviation / _MAX_PIXEL).float()

    def _sums(self) -> Int64[Tensor, "2 ch h w"]:
        """Return the sums of pixels and of their squares over all images.

        Sums of whole numbers are exact, whatever the order and the parts.
        """
        step, none = (
            max(1, _CHUNK_VALUES // math.prod(self.shape)),
            torch.zeros((2, *self.shape), dtype=torch.int64),
        )
        if self._workers is None:
            return sum(map(_summed, self._raw(0, len(self._rows), step)), none)
        rank, world = rank_and_world()
        requests = islice(consecutive(0, len(self._rows), step), rank, None, world)
        return summed_over_ranks(run_together(lambda: sum(self.decoded(requests, _summed), none)))

    @property
    def num_bytes(self) -> int:
        return len(self._rows) * math.prod(self.shape)

    @cached_property
    def _memory(self) -> UInt8[Tensor, "n ch h w"] | None:
        """All images; None if they are too large to keep in memory."""
        if self.num_bytes > MEMORY_BYTES:
            return None
        return next(self._decoder.in_order(0, len(self._rows), len(self._rows)))

    def _raw(self, start: int, stop: int, step: int) -> Iterator[UInt8[Tensor, "b ch h w"]]:
        if self._workers is not None:
            yield from self.decoded(consecutive(start, stop, step))
        elif self._memory is None:
            yield from self._decoder.in_order(start, stop, step)
        else:
            for first in range(start, stop, step):
                yield self._memory[first : min(first + step, stop)]

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self._source, self._rows, self.form)

    def _survey(self, *, all_sizes: bool) -> tuple[list[tuple[int, int]], int]:
        """Return the sizes (height, width) of the images, or of the first ones, and the channels that keep all colours."""
        sizes, channels = [], 1
        for where, image in self._source.images(self._rows):
            sizes.append(upright_size(image, where))
            if not is_grey(image):
                channels = 3
                if not all_sizes:
                    break
        return sizes, channels


def _summed(raw: UInt8[Tensor, "b ch h w"], _request: Request | None = None) -> Int64[Tensor, "2 ch h w"]:
    wide = raw.int()
    return torch.stack([wide.sum(dim=0), wide.square_().sum(dim=0)])


def _one_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the size that images are resized to: their own, or if they have several, the median, at most 224 x 224."""
    low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
    if (low == high).all():
        return sizes[0]
    height, width = np.minimum(np.median(sizes, axis=0), _MIXED_SIZE).astype(int).tolist()
    warnings.warn(
        f"images have sizes from {low[0]} x {low[1]} to {high[0]} x {high[1]}: all are resized to {height} x {width} and "
        "cropped, not distorted; image_size= chooses another size",
        InputNote,
        stacklevel=4,
    )
    return height, width
