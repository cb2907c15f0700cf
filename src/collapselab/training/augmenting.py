"""Random changes of training images, made by torchvision; they depend only on the seed, the step and the sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from collapselab.data import DataSplits
from collapselab.errors import InputError
from collapselab.records.recipe import Recipe
from collapselab.records.training_parts import Augmentation

_MAX_PIXEL = 255
# Keeps these random numbers apart from those of `Batches`.
_STREAM = 1
_OF_BATCH = 0


def augmentation(recipe: Recipe, data: DataSplits) -> Augment | None:
    """Return the augmentation of a recipe, or None where it has none.

    Raises:
        InputError: the samples are no images.
        ImportError: torchvision is not installed; the message names the extra.
    """
    return None if recipe.augmentation == Augmentation() else Augment(recipe, data)


@dataclass(frozen=True)
class ChangedImages:
    """Changes images one by one; worker processes can do it.

    Args:
        change: of one image.
        seed: of the recipe.
    """

    change: Any
    seed: int

    def __call__(
        self, images: Shaped[Tensor, "n ch h w"], rows: Iterable[int], step: int
    ) -> Shaped[Tensor, "n ch h w"]:
        """Return changed images.

        Args:
            images: pixels, or values that were no pixels.
            rows: numbers of the samples.
            step: number of finished steps.
        """
        changed = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]), _one_thread():
            for place, row in enumerate(rows):
                _start(self.seed, step, row + 1)
                # Sums over an image depend on its layout, which is that of the network.
                changed[place] = self.change(images[place].contiguous())
        return changed


class Augment:
    """Changes a batch. Images become the 8-bit pixels that they were read as, are changed, and standardised again.

    Values that were not read as images, such as scikit-learn's digits, are changed as they are; black is zero there.

    Args:
        recipe: its `augmentation` and its seed.
        data: images, on the device of training.

    Attributes:
        images: the changes of single images.
        is_mixing: whether batches are mixed.

    Raises:
        InputError, ImportError: see `augmentation`.
    """

    def __init__(self, recipe: Recipe, data: DataSplits) -> None:
        shape, plan = data.input_shape, recipe.augmentation
        if len(shape) != 3:
            raise InputError(
                f"augmentation: needs images of shape (channels, height, width), not samples of shape {shape}; set "
                "data.image_size, or remove augmentation"
            )
        self._standard = data.standardization
        if self._standard is None and plan.auto_augment:
            raise InputError(
                f"augmentation.auto_augment: needs images of 8-bit pixels, and {data.name} has other values; remove it"
            )
        if self._standard is not None:
            mean, deviation = self._standard
            device = data.train.labels.device
            self._standard = mean.to(device), deviation.to(device)
        change, self._mix = _transforms(plan, shape, data.num_classes)
        self.images = ChangedImages(change, recipe.seed)

    def __call__(
        self, inputs: Float[Tensor, "n ch h w"], labels: Int[Tensor, " n"], rows: Int[Tensor, " n"], step: int
    ) -> tuple[Float[Tensor, "n ch h w"], Tensor]:
        """Return changed images and their labels: shares of classes (n, C) where images are mixed.

        Args:
            inputs: standardised.
            labels: one per image.
            rows: numbers of the samples.
            step: number of finished steps.
        """
        return self.mixed(self._changed(inputs, rows.tolist(), step), labels, step)

    def mixed(
        self, inputs: Float[Tensor, "n ch h w"], labels: Int[Tensor, " n"], step: int
    ) -> tuple[Float[Tensor, "n ch h w"], Tensor]:
        """Return images and labels mixed with others of the batch, where the recipe says so."""
        if self._mix is None:
            return inputs, labels
        with torch.random.fork_rng(devices=[]):  # the network's own draws do not depend on augmentation
            _start(self.images.seed, step, _OF_BATCH)
            return self._mix(inputs, labels)

    def _changed(self, inputs: Tensor, rows: list[int], step: int) -> Tensor:
        if self._standard is None:
            return self.images(inputs, rows, step)
        mean, deviation = self._standard
        changed = self.images(self._pixels(inputs, mean, deviation), rows, step)
        return (changed.float() / _MAX_PIXEL - mean) / deviation

    @staticmethod
    def _pixels(inputs: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        return ((inputs * deviation + mean) * _MAX_PIXEL).round().clamp(0, _MAX_PIXEL).to(torch.uint8)


def _start(*key: int) -> None:
    """Start the generator that torchvision draws from, torch's on the CPU.

    Args:
        key: seed of the recipe, step, and the sample or the batch.
    """
    seed, *rest = key
    words = np.random.SeedSequence((seed, _STREAM, *rest)).generate_state(1, np.uint64)
    torch.default_generator.manual_seed(int(words[0]) >> 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, as worker processes do: the last digits of sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _transforms(plan: Augmentation, shape: tuple[int, ...], num_classes: int) -> tuple[Any, Any]:
    """Return the change of one image, and that of a batch with its labels, or None.

    Raises:
        ImportError: torchvision is not installed; the message names the extra.
    """
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise ImportError("augmentation needs torchvision: pip install 'collapselab[models]'") from error
    size = shape[1:]
    changes = [
        plan.resized_crop and v2.RandomResizedCrop(size, scale=(plan.resized_crop, 1.0)),
        plan.crop and v2.RandomCrop(size, padding=plan.crop),
        plan.flip and v2.RandomHorizontalFlip(plan.flip),
        plan.auto_augment and v2.AutoAugment(v2.AutoAugmentPolicy(plan.auto_augment)),
        plan.erasing and v2.RandomErasing(plan.erasing),
    ]
    mixes = [
        plan.mixup and v2.MixUp(alpha=plan.mixup, num_classes=num_classes),
        plan.cutmix and v2.CutMix(alpha=plan.cutmix, num_classes=num_classes),
    ]
    chosen = [mix for mix in mixes if mix]
    return v2.Compose([*filter(None, changes), v2.Identity()]), v2.RandomChoice(chosen) if chosen else None
