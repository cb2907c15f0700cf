"""The preprocessing that a network was trained with: of images, or of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.errors import InputError, one_line
from collapselab.models.pretrained import (
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    is_transformers,
    opened,
    read_config,
    saved_folder,
    timm,
    torchvision_weights,
    transformers,
)

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST = 512  # tokens, where the tokenizer names no limit


@dataclass(frozen=True)
class ImagePreprocessing:
    """What a network does to an image before it reads it. Two with equal settings do the same.

    Attributes:
        transform: from an image to a tensor (channels, height, width).
        words: what it does, for the output.
        settings: all that decides what it does.
    """

    transform: Callable[[Image], Float[Tensor, "ch h w"]] = field(compare=False)
    words: str
    settings: str


@dataclass(frozen=True)
class TextPreprocessing:
    """What a network does to texts before it reads them. No two are equal: a vocabulary cannot be compared by its words.

    Attributes:
        tokenize: from texts, and the number of tokens that each gets (None: of the longest), to inputs of the network
            by name, each (n, tokens).
        words: what it does, for the output.
    """

    tokenize: Callable[[Sequence[str], int | None], dict[str, Int[Tensor, "n tokens"]]]
    words: str


def own_preprocessing(name: str) -> ImagePreprocessing | TextPreprocessing:
    """Return the preprocessing that a network was trained with, as its library knows it.

    Args:
        name: as `collapselab.models.open_model` takes it.

    Raises:
        InputError: a network whose preprocessing nobody recorded.
    """
    folder = saved_folder(name)
    if is_transformers(name):
        return _of_transformers(name, folder)
    if folder is not None:
        return _of_timm(read_config(folder)["pretrained_cfg"])
    if name.startswith(TIMM) and (config := timm().get_pretrained_cfg(name.removeprefix(TIMM))) is not None:
        return _of_timm(config.to_dict())
    if name.startswith(TORCHVISION):
        return _of_torchvision(name)
    raise InputError(
        f"{name}: has no preprocessing of its own, since nobody recorded how {name} was trained; leave out preprocess= and "
        "pretrained= (they are for networks of timm, torchvision and transformers)"
    )


def chosen_preprocessing(
    name: str, asked: bool | None, *, has_published: bool
) -> ImagePreprocessing | TextPreprocessing | None:
    """Return the network's own preprocessing where it is used; None where its inputs are made by other means.

    Args:
        name: as `collapselab.models.open_model` takes it.
        asked: whether the user wants it; None for the default: with published weights, and with networks that may read
            text, for which there is no other means.
        has_published: whether the network has the weights that its library publishes.

    Raises:
        InputError: it is used, but nobody recorded it.
    """
    wanted = (has_published or is_transformers(name)) if asked is None else asked
    return own_preprocessing(name) if wanted else None


def _of_timm(pretrained_cfg: dict[str, Any]) -> ImagePreprocessing:
    data = timm().data
    config = data.resolve_data_config(pretrained_cfg=pretrained_cfg)
    channels, height, width = config["input_size"]
    transform = data.create_transform(**config, is_training=False)
    mode = "L" if channels == 1 else "RGB"
    words = (
        f"timm's data_config: {height} x {width}, {config['interpolation']}, crop {config['crop_pct']:g}, mean "
        f"{_numbers(config['mean'])}, deviation {_numbers(config['std'])}"
    )
    return ImagePreprocessing(partial(_converted, transform, mode), words, f"{mode} {transform!r}")


def _of_torchvision(name: str) -> ImagePreprocessing:
    weights = torchvision_weights(name)
    transform = weights.transforms()
    words = f"transforms of torchvision's {weights}"
    return ImagePreprocessing(partial(_converted, transform, "RGB"), words, repr(transform))


def _of_transformers(name: str, folder: Path | None) -> ImagePreprocessing | TextPreprocessing:
    source = name.removeprefix(TRANSFORMERS) if folder is None else str(folder)
    library = transformers()
    try:
        processor = opened(name, lambda: library.AutoImageProcessor.from_pretrained(source), folder is None)
    except InputError as no_images:
        try:
            return _tokenizer(
                opened(name, lambda: library.AutoTokenizer.from_pretrained(source), folder is None)
            )
        except InputError:
            raise InputError(
                f"{name}: neither an image processor nor a tokenizer can be loaded ({one_line(no_images.__cause__)}); save "
                "it to the same folder, or leave out preprocess="
            ) from no_images

    settings = f"{type(processor)} {processor.to_json_string()}"
    return ImagePreprocessing(partial(_processed, processor), type(processor).__name__, settings)


# Functions of the module, not closures: processes that decode images get them pickled where they are no copies of this one.
def _converted(transform: Callable[[Image], Tensor], mode: str, image: Image) -> Tensor:
    return transform(image.convert(mode))


def _processed(processor: Any, image: Image) -> Tensor:
    return processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]


def _tokenizer(tokenizer: Any) -> TextPreprocessing:
    # Without a limit, tokenizers say 10^30.
    longest = tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else _LONGEST
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def tokenize(texts: Sequence[str], length: int | None) -> dict[str, Tensor]:
        # All texts at once: features of several tokens have one shape only if all texts are padded alike.
        encoded = tokenizer(
            list(texts),
            padding=True if length is None else "max_length",
            truncation=True,
            max_length=longest if length is None else length,
            return_tensors="pt",
        )
        return {key: torch.as_tensor(value) for key, value in encoded.items()}

    return TextPreprocessing(tokenize, f"{type(tokenizer).__name__}, at most {longest} tokens")


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
