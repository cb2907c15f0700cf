"""Images as standardised inputs: decoded once if they fit in memory, else batch by batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from collapselab.choices import Standardize
from collapselab.data.images import ImageForm, is_grey, pixels, upright_size
from collapselab.data.labelled import Inputs
from collapselab.data.stored import ImageSource
from collapselab.errors import InputError, InputNote

MEMORY_BYTES = 2 * 2**30
_MAX_PIXEL = 255
_CHUNK_VALUES = 2**22
_MIXED_SIZE = 224  # what networks for photographs are trained on


class Pixels(Inputs):
    """Images scaled to [0, 1], with the mean of the training images subtracted, divided by their standard deviation.

    Args:
        source: the images.
        rows: row numbers of the images to use, ascending.
        image_size: (height, width) to resize to; without it the size of the images, or if they have several, a size
            that a warning names.
        channels: 1 or 3; without it, 3 if any image has colour.
        standardize: mean and standard deviation per channel, per pixel, or neither.
        reference: training images whose statistics, and whose shape if none is given, are used instead.
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
        mean, deviation = self.standardization
        for raw in self._raw(start, stop, step):
            yield ((raw.float() / _MAX_PIXEL) - mean) / deviation

    @cached_property
    def standardization(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Mean and standard deviation of inputs in [0, 1], float32; a pixel that never varies is not scaled."""
        if self._reference is not None:
            return self._reference.standardization
        if self._standardize == "none":
            return torch.zeros(()), torch.ones(())
        total = torch.zeros(self.shape, dtype=torch.int64)
        squares = torch.zeros(self.shape, dtype=torch.int64)
        for raw in self._raw(0, len(self._rows), max(1, _CHUNK_VALUES // math.prod(self.shape))):
            # Sums of whole numbers are exact, whatever the order and the chunks.
            wide = raw.int()
            total += wide.sum(dim=0)
            squares += wide.square_().sum(dim=0)
        count = len(self._rows)
        if self._standardize == "channel":
            count *= self.form.height * self.form.width
            total, squares = (sums.sum(dim=(1, 2), keepdim=True) for sums in (total, squares))
        mean = total.double() / count
        deviation = (squares.double() / count - mean.square()).clamp_min(0).sqrt()
        deviation[deviation == 0] = _MAX_PIXEL
        return (mean / _MAX_PIXEL).float(), (deviation / _MAX_PIXEL).float()

    @cached_property
    def _memory(self) -> UInt8[Tensor, "n ch h w"] | None:
        """All images; None if they are too large to keep in memory."""
        if len(self._rows) * math.prod(self.shape) > MEMORY_BYTES:
            return None
        return next(self._decode(0, len(self._rows), len(self._rows)))

    def _raw(self, start: int, stop: int, step: int) -> Iterator[UInt8[Tensor, "b ch h w"]]:
        if self._memory is None:
            yield from self._decode(start, stop, step)
            return
        for first in range(start, stop, step):
            yield self._memory[first : min(first + step, stop)]

    def _decode(self, start: int, stop: int, step: int) -> Iterator[UInt8[Tensor, "b ch h w"]]:
        images = self._source.images(self._rows[start:stop])
        for first in range(start, stop, step):
            batch = np.empty((min(step, stop - first), *self.shape), dtype=np.uint8)
            for index in range(len(batch)):
                where, image = next(images)
                batch[index] = pixels(image, self.form, where)
            yield torch.from_numpy(batch)

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
