"""The samples of a recipe as tensors in memory: decoded once, then only indexed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.data.labelled import LabelledData
from collapselab.data.opening import open_data
from collapselab.data.recipe import DataSpec, Sample
from collapselab.data.sampling import group_labels, sample_rows
from collapselab.data.splits import DataSplits, Split
from collapselab.errors import InputError

MEMORY_BYTES = 16 * 2**30
_READ_AT_ONCE = 1024
_FLOAT_BYTES = 4


def load_splits(
    spec: DataSpec,
    seed: int,
    *,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    copies: Mapping[str, Path] | None = None,
) -> DataSplits:
    """The samples that a recipe trains and tests on.

    Args:
        spec: which.
        seed: of what is drawn at random.
        channels, image_size: what the network takes, where it takes nothing else and `spec` does not say.
        copies: where the data sets of a name are on this machine.

    Raises:
        InputError: no such data, fewer samples than asked for, more than fits in memory.
        ImportError: an extra that is not installed.
    """
    channels, image_size = spec.channels or channels, spec.image_size or image_size
    as_images = spec.name == "digits" and (channels is not None or image_size is not None)
    form = {} if spec.name == "digits" else {"channels": channels, "image_size": image_size}
    splits: dict[str, Split] = {}
    reference: LabelledData | None = None
    num_classes, class_names = 0, None
    for name, sample in (("train", spec.train), ("test", spec.test)):
        where = f"{spec.name}, {name}"
        every = open_data(
            spec.name, split=name, standardize=spec.standardize, reference=reference, copies=copies, **form
        )
        num_classes, class_names = every.num_classes, every.class_names
        if spec.groups is not None:
            num_classes, class_names = len(spec.groups), None
        rows, labels = _chosen(every, spec, sample, seed, where)
        chosen = open_data(
            spec.name,
            split=name,
            rows=rows,
            standardize=spec.standardize,
            reference=reference,
            copies=copies,
            **form,
        )
        _refuse_too_large(chosen, where)
        inputs = torch.cat([batch for batch, _ in chosen.batches(_READ_AT_ONCE)])
        if as_images:
            inputs = _digit_images(inputs, channels or 1, image_size)
        splits[name] = Split(inputs, torch.from_numpy(labels))
        reference = reference or chosen
    return DataSplits(spec.name, num_classes, splits["train"], splits["test"], class_names)


def check_samples(spec: DataSpec, seed: int, copies: Mapping[str, Path] | None = None) -> None:
    """That the samples of a recipe are there; only labels are read.

    Raises:
        InputError, ImportError: as `load_splits`, but for what is wrong with inputs.
    """
    for name, sample in (("train", spec.train), ("test", spec.test)):
        every = open_data(spec.name, split=name, standardize="none", copies=copies)
        _chosen(every, spec, sample, seed, f"{spec.name}, {name}")


def _chosen(
    every: LabelledData, spec: DataSpec, sample: Sample, seed: int, where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the samples that a recipe takes from a split, and their labels, those of their groups if there are any."""
    labels = every.labels.numpy()
    grouped = labels
    if spec.groups is not None:
        grouped = group_labels(labels, spec.groups, every.num_classes, every.class_names, where)
        labels = np.where(grouped >= 0, labels, -1)
    rows = sample_rows(labels, sample, seed, where)
    return rows, grouped[rows]


def _refuse_too_large(data: LabelledData, where: str) -> None:
    size = len(data) * math.prod(data.input_shape) * _FLOAT_BYTES
    if size > MEMORY_BYTES:
        raise InputError(
            f"{where}: {len(data)} samples of {data.input_shape} take {size / 2**30:.0f} GiB in memory, more than "
            f"{MEMORY_BYTES / 2**30:.0f} GiB; take fewer samples, or smaller images"
        )


def _digit_images(inputs: Tensor, channels: int, image_size: tuple[int, int] | None) -> Tensor:
    """Digits as images: each pixel repeated to fill the size, grey in every channel."""
    side = math.isqrt(inputs.shape[1])
    images = inputs.unflatten(1, (1, side, side)).expand(-1, channels, -1, -1)
    if image_size is None:
        return images.contiguous()
    return torch.nn.functional.interpolate(images, image_size, mode="nearest")


def fingerprint(data: DataSplits) -> str:
    """16 hexadecimal digits that tell one set of samples from another: inputs and labels, in their order."""
    digest = hashlib.sha256()
    for split in (data.train, data.test):
        for tensor in (split.inputs, split.labels):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
