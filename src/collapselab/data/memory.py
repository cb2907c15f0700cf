"""The samples of a recipe as tensors in memory, decoded once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from collapselab.data.dataset import DataSet
from collapselab.data.labelled import LabelledData
from collapselab.data.opening import open_data_set
from collapselab.data.pixels import Pixels
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
    """Load the samples that a recipe trains and tests on.

    Args:
        spec: the recipe's description of them.
        seed: seed for samples that are drawn at random.
        channels, image_size: used where `spec` has none; give them if the network accepts nothing else.
        copies: paths of local copies by short name.

    Raises:
        InputError: no such data, fewer samples than asked for, more than fits in memory.
        ImportError: an extra that is not installed.
    """
    data = open_data_set(spec.name, copies)
    channels, image_size = spec.channels or channels, spec.image_size or image_size
    splits: dict[str, Split] = {}
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
        _refuse_too_large(chosen, f"{spec.name}, {name}")
        inputs = torch.cat([batch for batch, _ in chosen.batches(_READ_AT_ONCE)])
        splits[name] = Split(inputs, torch.from_numpy(labels))
        reference = reference or chosen
    num_classes, class_names = data.num_classes, data.class_names
    if spec.groups is not None:
        num_classes, class_names = len(spec.groups), None
    images = reference.inputs if reference is not None else None
    standardization = images.standardization if isinstance(images, Pixels) else None
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


def _refuse_too_large(data: LabelledData, where: str) -> None:
    size = len(data) * math.prod(data.input_shape) * _FLOAT_BYTES
    if size > MEMORY_BYTES:
        raise InputError(
            f"{where}: {len(data)} samples of {data.input_shape} take {size / 2**30:.0f} GiB of memory, more than the "
            f"limit of {MEMORY_BYTES / 2**30:.0f} GiB; use fewer samples, or smaller images"
        )


def fingerprint(data: DataSplits) -> str:
    """Return 16 hexadecimal digits that identify the samples: a hash of inputs and labels, in their order."""
    digest = hashlib.sha256()
    for split in (data.train, data.test):
        for tensor in (split.inputs, split.labels):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
