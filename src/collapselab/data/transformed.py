"""Inputs made by the preprocessing of a network: images by its transforms, texts by its tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data.decoding import BatchMaker, consecutive, decoded_ahead
from collapselab.data.images import upright
from collapselab.data.labelled import MEMORY_BYTES, ImageInputs, Inputs
from collapselab.data.stored import ImageSource, TextSource
from collapselab.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

ImageTransform = Callable[["Image"], Tensor]
Tokenize = Callable[[Sequence[str], "int | None"], Mapping[str, Tensor]]
_FLOAT_BYTES = 4
# A digest of images that do not fit in memory reads this many of them.
HASHED_IMAGES = 256


class TransformedImages(ImageInputs, BatchMaker):
    """Images as a network's own transform makes them; kept in memory if all of them fit.

    Args:
        source: the images.
        rows: row numbers of the images to use, ascending.
        transform: from an image to a tensor of one shape.
        workers: processes that make them whenever they are read; None to keep them in memory, if they fit.
    """

    def __init__(
        self,
        source: ImageSource,
        rows: npt.NDArray[np.int64],
        transform: ImageTransform,
        workers: int | None = None,
    ) -> None:
        self._source, self._rows, self._transform, self._workers = source, rows, transform, workers

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def num_bytes(self) -> int:
        return len(self._rows) * math.prod(self.shape) * _FLOAT_BYTES

    def streamed(self, workers: int) -> TransformedImages:
        return TransformedImages(self._source.random_access(), self._rows, self._transform, workers)

    def read(self, start: int, stop: int, step: int) -> Iterator[Float[Tensor, "b ..."]]:
        if self._workers is not None:
            _ = self.shape  # known to every worker
            yield from decoded_ahead(self, consecutive(start, stop, step), self._workers)
        elif self._memory is not None:
            for first in range(start, stop, step):
                yield self._memory[first : min(first + step, stop)]
        else:
            images = self._images(self._rows[start:stop])
            for first in range(start, stop, step):
                yield torch.stack([next(images) for _ in range(first, min(first + step, stop))])

    def batch(self, positions: npt.NDArray[np.int64]) -> Float[Tensor, "b ..."]:
        """Return the inputs in these ascending positions."""
        return torch.stack(list(self._images(self._rows[positions])))

    def digest(self) -> str:
        """Return hexadecimal digits that identify the images, in their order.

        They are those of what is made of all images if it fits in memory, else of the state of each where it is stored and
        of what is made of 256 of them: seconds, not hours.
        """
        if self._memory is not None:
            return hashed([self._memory])
        few = np.unique(np.linspace(0, len(self._rows) - 1, HASHED_IMAGES).astype(np.int64))
        return hashed([torch.from_numpy(self._source.stored_state(self._rows)), self.batch(few)])

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(next(self._images(self._rows[:1])).shape)

    @cached_property
    def _memory(self) -> Float[Tensor, "n ..."] | None:
        """All images; None if they are too large to keep in memory."""
        return None if self.num_bytes > MEMORY_BYTES else torch.stack(list(self._images(self._rows)))

    def _images(self, rows: npt.NDArray[np.int64]) -> Iterator[Float[Tensor, "..."]]:
        for where, image in self._source.images(rows):
            image = upright(image, where)
            try:
                tensor = torch.as_tensor(self._transform(image)).float()
            except Exception as error:  # of the library whose transform it is
                raise InputError(
                    f"{where}: the preprocessing of the network fails on it ({one_line(error)}); leave out preprocess="
                ) from error
            shape = self.__dict__.get("_shape", tuple(tensor.shape))
            if tuple(tensor.shape) != shape:
                raise InputError(
                    f"{where}: the preprocessing of the network makes shape {tuple(tensor.shape)} of it, but {shape} of the "
                    "first image; leave out preprocess="
                )
            yield tensor


class Tokens(Inputs):
    """Texts as a network's tokenizer encodes them, all padded alike; batches are mappings by name.

    Args:
        source: the texts.
        rows: row numbers of the texts to use, ascending.
        tokenize: from texts, and the number of tokens that each gets (None: of the longest), to tensors (n, tokens)
            by name.
        reference: training texts, whose number of tokens all others get too; longer ones are cut.
    """

    def __init__(
        self,
        source: TextSource,
        rows: npt.NDArray[np.int64],
        tokenize: Tokenize,
        reference: Tokens | None = None,
    ) -> None:
        self._source, self._rows, self._tokenize, self._reference = source, rows, tokenize, reference

    @cached_property
    def _encoded(self) -> Mapping[str, Int[Tensor, "n tokens"]]:
        length = None if self._reference is None else self._reference.shape[0]
        return self._tokenize(self._source.texts(self._rows), length)

    def digest(self) -> str:
        """Return hexadecimal digits that identify the inputs, in their order."""
        return hashed(self._encoded.values())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(next(iter(self._encoded.values())).shape[1:])

    def read(self, start: int, stop: int, step: int) -> Iterator[dict[str, Tensor]]:  # pyright: ignore[reportIncompatibleMethodOverride] a mapping where a network takes several inputs
        for first in range(start, stop, step):
            yield {name: values[first : min(first + step, stop)] for name, values in self._encoded.items()}


def hashed(tensors: Iterable[Tensor]) -> str:
    """Return hexadecimal digits of SHA-256 over tensors, in their order."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        # As bytes: numpy lacks some of torch's types.
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
