"""Inputs made by the preprocessing of a network: images by its transforms, texts by its tokenizer."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data.images import upright
from collapselab.data.labelled import Inputs
from collapselab.data.pixels import MEMORY_BYTES
from collapselab.data.stored import ImageSource, TextSource
from collapselab.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

ImageTransform = Callable[["Image"], Tensor]
Tokenize = Callable[[Sequence[str], "int | None"], Mapping[str, Tensor]]
_FLOAT_BYTES = 4
# A digest of images reads this many of them.
HASHED_IMAGES = 256


class Transformed(Inputs):
    """Inputs that a network's own preprocessing makes."""

    @abstractmethod
    def unkept(self) -> Transformed:
        """Return the same inputs, to be read once: what is made of images is not kept in memory."""

    @abstractmethod
    def digest(self) -> str:
        """Return hexadecimal digits that identify the inputs, in their order; of most images, only the stored size counts."""


class TransformedImages(Transformed):
    """Images as a network's own transform makes them; kept in memory if all of them fit.

    Args:
        source: the images.
        rows: row numbers of the images to use, ascending.
        transform: from an image to a tensor of one shape.
        keep: whether to keep them.
    """

    def __init__(
        self,
        source: ImageSource,
        rows: npt.NDArray[np.int64],
        transform: ImageTransform,
        *,
        keep: bool = True,
    ) -> None:
        self._source, self._rows, self._transform, self._keep = source, rows, transform, keep

    def unkept(self) -> TransformedImages:
        return TransformedImages(self._source, self._rows, self._transform, keep=False)

    def digest(self) -> str:
        few = self._rows[np.unique(np.linspace(0, len(self._rows) - 1, HASHED_IMAGES).astype(np.int64))]
        tensors = [
            self._rows,
            self._source.stored_bytes(self._rows),
            *(image.numpy() for image in self._images(few)),
        ]
        return _digest(map(np.ascontiguousarray, tensors))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(next(self._images(self._rows[:1])).shape)

    def read(self, start: int, stop: int, step: int) -> Iterator[Float[Tensor, "b ..."]]:
        if self._memory is not None:
            for first in range(start, stop, step):
                yield self._memory[first : min(first + step, stop)]
            return
        images = self._images(self._rows[start:stop])
        for first in range(start, stop, step):
            yield torch.stack([next(images) for _ in range(first, min(first + step, stop))])

    @cached_property
    def _memory(self) -> Float[Tensor, "n ..."] | None:
        """All images; None if they are too large to keep in memory."""
        if not self._keep or len(self._rows) * math.prod(self.shape) * _FLOAT_BYTES > MEMORY_BYTES:
            return None
        return torch.stack(list(self._images(self._rows)))

    def _images(self, rows: npt.NDArray[np.int64]) -> Iterator[Float[Tensor, "..."]]:
        for where, image in self._source.images(rows):
            image = upright(image, where)
            try:
                tensor = torch.as_tensor(self._transform(image)).float()
            except Exception as error:  # of the library whose transform it is
                raise InputError(
                    f"{where}: the preprocessing of the network fails on it ({one_line(error)}); leave out preprocess="
                ) from error
            shape = self.__dict__.get("shape", tuple(tensor.shape))
            if tuple(tensor.shape) != shape:
                raise InputError(
                    f"{where}: the preprocessing of the network makes shape {tuple(tensor.shape)} of it, but {shape} of the "
                    "first image; leave out preprocess="
                )
            yield tensor


class Tokens(Transformed):
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

    def unkept(self) -> Tokens:
        return self  # the tokenizer takes all texts at once

    def digest(self) -> str:
        return _digest(values.contiguous().numpy() for values in self._encoded.values())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(next(iter(self._encoded.values())).shape[1:])

    def read(self, start: int, stop: int, step: int) -> Iterator[dict[str, Tensor]]:  # pyright: ignore[reportIncompatibleMethodOverride] a mapping where a network takes several inputs
        for first in range(start, stop, step):
            yield {name: values[first : min(first + step, stop)] for name, values in self._encoded.items()}


def _digest(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.shape} {array.dtype}".encode())
        whole.update(array.data)
    return whole.hexdigest()
