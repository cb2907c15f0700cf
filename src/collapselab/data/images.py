"""Decoding of one stored image."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from collapselab.errors import InputError, one_line
from collapselab.storage import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, the image is rotated by 90 degrees
MAX_FILE_BYTES = 256 * 2**20
_GREY = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class ImageForm:
    """Channels and size that all images of a split are converted to."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


def read_regular(path: Path, where: str) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InputError: no regular file (a device or a pipe has no end), too large, or not readable.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise InputError(
                    f"{where}: {size / 2**20:.0f} MiB are too many for an image; replace or remove it"
                )
            return file.read()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{where}: cannot be read ({one_line(reason)}); check the file") from error


@contextmanager
def _refusing_damage(where: str) -> Iterator[None]:
    """Report any failure inside in one line, and no warning beside it.

    Decoders answer damaged bytes with more kinds of exception and of warning than can be listed.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{where}: more pixels than pillow takes ({one_line(error)}); shrink the image, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{where}: not an image, damaged or truncated ({reason}); replace or remove it"
        ) from error


def open_image(data: bytes, where: str) -> Image:
    """Open the image in the bytes of a file; only its header is read.

    Raises:
        InputError: not an image, or one with too many pixels.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs pillow: pip install 'collapselab[data]'") from error
    with _refusing_damage(where):
        try:
            return Image.open(io.BytesIO(data))
        except Image.UnidentifiedImageError:  # its message is an address in memory
            raise ValueError(f"{len(data)} bytes in no known format" if data else "empty file") from None


def is_grey(image: Image) -> bool:
    return image.mode in _GREY or image.mode.startswith(("I", "F"))


def upright_size(image: Image, where: str) -> tuple[int, int]:
    """Return (height, width) of the image in its upright orientation."""
    with _refusing_damage(where):
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def upright(image: Image, where: str) -> Image:
    """Return the image decoded and in its upright orientation, with at most 8 bits per value and no palette."""
    from PIL import ImageOps

    with _refusing_damage(where):
        if _orientation(image) > 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image)
        image.load()
        return image.convert("RGBA") if image.mode == "P" else image  # a palette may hold transparency


def pixels(image: Image, form: ImageForm, where: str) -> npt.NDArray[np.uint8]:
    """Convert the image to `form`, (channels, height, width).

    Where the aspect ratio differs, margins are cropped: the image is never distorted.

    Raises:
        InputError: damaged, or pixels that are not whole numbers of up to 16 bits.
    """
    from PIL import ImageOps

    mode = "L" if form.channels == 1 else "RGB"
    with _refusing_damage(where):
        image = upright(image, where).convert(mode)
        if image.size != (form.width, form.height):
            # Imported here and not by every image: the enum is only needed to resize.
            from PIL.Image import Resampling

            image = ImageOps.fit(image, (form.width, form.height), Resampling.BILINEAR)
        array = np.asarray(image)
    return array[None] if form.channels == 1 else array.transpose(2, 0, 1)


def _orientation(image: Image) -> int:
    # In other formats, reading the tag would decode the whole image.
    return int(image.getexif().get(_ORIENTATION, 1)) if image.format == "JPEG" else 1


def _eight_bits(image: Image) -> Image:
    """Scale grey of 16 bits per pixel; a plain conversion would clip at 255."""
    from PIL import Image as pillow

    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels are not whole numbers of up to 16 bits")
    return pillow.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
