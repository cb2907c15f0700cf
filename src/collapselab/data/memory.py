"""The samples of a recipe: as tensors in memory, decoded once, or streamed if they do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.data.dataset import DataSet
from collapselab.data.decoding import default_workers
from collapselab.data.labelled import LabelledData
from collapselab.data.opening import open_data_set
from collapselab.data.pixels import Pixels
from collapselab.data.recipe import DataSpec, Sample
from collapselab.data.sampling import group_labels, sample_rows
from collapselab.data.splits import AnySplit, DataSplits, Split
from collapselab.data.streamed import StreamedSplit
from collapselab.data.transformed import HASHED_IMAGES, hashed
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
    workers: int | None = None,
) -> DataSplits:
    """Load the samples that a recipe trains and tests on; images that do not fit in memory are streamed.

    Args:
        spec: the recipe's description of them.
        seed: seed for samples that are drawn at random.
        channels, image_size: used where `spec` has none; give them if the network accepts nothing else.
        copies: paths of local copies by short name.
        workers: processes that decode images that are streamed; default as `default_workers`.

    Raises:
        InputError: no such data, fewer samples than asked for, more than fits in memory and is no image.
        ImportError: an extra that is not installed.
    """
    data = open_data_set(spec.name, copies)
    channels, image_size = spec.channels or channels, spec.image_size or image_size
    splits: dict[str, AnySplit] = {}
    reference: LabelledData | None = None
    for name, sample in (("train", spec.train), ("test", spec.test)):
        rows, labels = _chosen(data, name, spec, sample, seed)
        chosen = data.open(
            name,
            rows=rows,
            image_size=image_size,
            channels=channels,
            standardize=spec.standardize,
            reference=reference,
        )
        where = f"{spec.name}, {name}"
        # Standardised as the training images are, which takes a pass over them.
        if isinstance(splits.get("train"), StreamedSplit) or _is_streamed(chosen, spec, where):
            assert isinstance(chosen.inputs, Pixels)
            pixels = chosen.inputs.streamed(default_workers() if workers is None else workers)
            chosen = replace(chosen, inputs=pixels)
            splits[name] = StreamedSplit(where, pixels, torch.from_numpy(labels))
        else:
            inputs = torch.cat([batch for batch, _ in chosen.batches(_READ_AT_ONCE)])
            splits[name] = Split(inputs, torch.from_numpy(labels))
        reference = reference or chosen
    num_classes, class_names = data.num_classes, data.class_names
    if spec.groups is not None:
        num_classes, class_names = len(spec.groups), None
    standardization = None
    if reference is not None and isinstance(reference.inputs, Pixels) and isinstance(splits["train"], Split):
        standardization = reference.inputs.standardization
    return DataSplits(spec.name, num_classes, splits["train"], splits["test"], class_names, standardization)


def check_samples(spec: DataSpec, seed: int, copies: Mapping[str, Path] | None = None) -> None:
    """Check that the samples of a recipe exist; only labels are read.

    Raises:
        InputError, ImportError: as `load_splits`, except for problems with inputs.
    """
    data = open_data_set(spec.name, copies)
    for name, sample in (("train", spec.train), ("test", spec.test)):
        _chosen(data, name, spec, sample, seed)


def _chosen(
    data: DataSet, split: str, spec: DataSpec, sample: Sample, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the samples that a recipe takes from a split, and their labels: those of their groups if it has groups."""
    where = f"{spec.name}, {split}"
    labels, num_classes = data.labels(split), data.num_classes
    grouped = labels
    if spec.groups is not None:
        grouped = group_labels(labels, spec.groups, num_classes, data.class_names, where)
        labels = np.where(grouped >= 0, labels, -1)
    rows = sample_rows(labels, sample, seed, where)
    return rows, grouped[rows]


def _is_streamed(data: LabelledData, spec: DataSpec, where: str) -> bool:
    """Whether samples are streamed: as the recipe says, else if they are images that do not fit in memory.

    Raises:
        InputError: samples that should be streamed, but are no images; that should be in memory, but do not fit.
    """
    size = len(data) * math.prod(data.input_shape) * _FLOAT_BYTES
    is_image, is_large = isinstance(data.inputs, Pixels), size > MEMORY_BYTES
    if spec.stream and not is_image:
        raise InputError(f"{where}: data.stream is true, but only images can be streamed; remove it")
    if is_large and (spec.stream is False or not is_image):
        remedy = "remove data.stream" if is_image else "use fewer samples, or store them as images"
        raise InputError(
            f"{where}: {len(data)} samples of {data.input_shape} take {size / 2**30:.0f} GiB of memory, more than the "
            f"limit of {MEMORY_BYTES / 2**30:.0f} GiB; {remedy}"
        )
    return is_large if spec.stream is None else spec.stream


def fingerprint(data: DataSplits) -> str:
    """Return 16 hexadecimal digits that identify the samples: a hash of inputs and labels, in their order.

    Of streamed images, it is a hash of the size of each where it is stored, of the pixels of 256 of them, and of the
    labels: it takes seconds, not hours.
    """
    return hashed(tensor for split in (data.train, data.test) for tensor in (*_hashed(split), split.labels))[
        :16
    ]


def _hashed(split: AnySplit) -> tuple[Tensor, ...]:
    """Return what stands for the inputs of a split."""
    if isinstance(split, Split):
        return (split.inputs,)
    positions = np.unique(np.linspace(0, len(split) - 1, HASHED_IMAGES).astype(np.int64))
    return torch.from_numpy(split.pixels.stored_bytes()), split.pixels.some(positions)
