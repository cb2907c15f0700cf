"""Data sets by short name, path or hub id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from collapselab.data.digits import load_digits
from collapselab.data.labelled import Inputs, LabelledData, TensorInputs
from collapselab.data.layouts import find_layout
from collapselab.data.pixels import Pixels, Standardize
from collapselab.data.stored import ImageSource
from collapselab.errors import InputError

_SUBSET_SEED = 0


def available_splits(source: str | Path, copies: Mapping[str, Path] | None = None) -> tuple[str, ...]:
    """The splits that `open_data` can open, `train` first where it is one of them.

    Of a short name these are train and test, whatever they are called where it is stored.

    Raises:
        InputError: no such data set.
        ImportError: an extra that is not installed.
    """
    return ("train", "test") if source == "digits" else tuple(find_layout(source, copies).splits)


def open_data(
    source: str | Path,
    *,
    split: str = "train",
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    standardize: Standardize = "channel",
    reference: LabelledData | None = None,
    copies: Mapping[str, Path] | None = None,
    rows: npt.NDArray[np.int64] | None = None,
) -> LabelledData:
    """One split of a data set, its labels read, its images not yet.

    Images become floats in [0, 1], less the mean of the training images, over their standard deviation. Inputs
    that are not images — digits, arrays of other than bytes — are taken as they are.

    Args:
        source: a short name (`digits` or one of `NAMED`); a path of a folder of Parquet files or of images, or
            of an `.npz` file; or an id `owner/name` or `owner/name:config` of the Hugging Face hub, which is
            downloaded once. A short name means its copy, else a folder of that name, else the hub.
        image_size: (height, width) that images are brought to, losing margins where the aspect ratio differs.
        channels: 1 or 3 for grey or colour; by default as the images are.
        limit: at most so many samples, drawn at random from a fixed seed, in stored order.
        standardize: statistics per channel, per pixel, or none.
        reference: the training data whose statistics and shape a test split uses. Without it, a split other
            than `train` uses those of the whole `train` split.
        copies: where this machine has the data sets of a short name; default what COLLAPSELAB_DATA says.
        rows: (n,) numbers of the samples to open, ascending, instead of `limit`.

    Raises:
        InputError: what is wrong with the source, the split or the arguments, in one line.
        ImportError: an extra that is not installed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} leaves no samples; give at least 1")
    if channels not in (None, 1, 3):
        raise InputError(f"{channels} channels are neither grey (1) nor colour (3); give 1 or 3")
    if image_size is not None and min(image_size) < 1:
        raise InputError(f"image size {image_size} is empty; give at least 1 x 1")
    if rows is not None and limit is not None:
        raise InputError(f"{source}: limit {limit} and rows are both given; give one of them")
    if source == "digits":
        _check_split(source, split, ("train", "test"))
        return _digits(split, limit, rows)
    layout = find_layout(source, copies)
    _check_split(source, split, layout.splits)
    stored = layout.read(layout.splits[split])
    labels, names = stored.numbered()
    num_classes = len(stored.label_values if names is None else names)
    names = names or layout.class_names
    if layout.num_classes not in (None, num_classes):
        raise InputError(
            f"{layout.where}: {num_classes} classes, but {source} has {layout.num_classes}; "
            f"say where {source} is, or open this by its path"
        )
    rows = _chosen(len(labels), limit, rows, f"{source}, {split}")
    inputs: Inputs
    if isinstance(stored.content, ImageSource):
        if reference is None and split != "train" and standardize != "none":
            if "train" not in layout.splits:
                raise InputError(
                    f"{source}: no split 'train' to standardise with; add it, or open with standardize='none'"
                )
            reference = open_data(
                source, image_size=image_size, channels=channels, standardize=standardize, copies=copies
            )
        inputs = Pixels(
            stored.content,
            rows,
            image_size=image_size,
            channels=channels,
            standardize=standardize,
            reference=_pixels_of(reference, source),
        )
    else:
        inputs = TensorInputs(stored.content.values()[torch.from_numpy(rows)])
    return LabelledData(
        name=layout.name,
        labels=torch.from_numpy(labels[rows]),
        num_classes=num_classes,
        class_names=names,
        inputs=inputs,
    )


def _check_split(source: str | Path, split: str, splits: Iterable[str]) -> None:
    if split not in splits:
        raise InputError(f"{source}: no split {split!r}; it has {', '.join(splits)}")


def _pixels_of(reference: LabelledData | None, source: str | Path) -> Pixels | None:
    if reference is None:
        return None
    if not isinstance(reference.inputs, Pixels):
        raise InputError(
            f"{source}: images, but the training data {reference.name!r} are not; give training images"
        )
    return reference.inputs


def _digits(split: str, limit: int | None, rows: npt.NDArray[np.int64] | None) -> LabelledData:
    data = load_digits()
    samples = data.train if split == "train" else data.test
    chosen = torch.from_numpy(_chosen(len(samples), limit, rows, f"digits, {split}"))
    names = tuple(str(digit) for digit in range(data.num_classes))
    return LabelledData(
        data.name, samples.labels[chosen], data.num_classes, names, TensorInputs(samples.inputs[chosen])
    )


def _chosen(
    count: int, limit: int | None, rows: npt.NDArray[np.int64] | None, where: str
) -> npt.NDArray[np.int64]:
    """Row numbers, ascending: those asked for, else `limit` of them."""
    if rows is None:
        if limit is None or limit >= count:
            return np.arange(count)
        # Not the first rows: stored samples are often sorted by class.
        return np.sort(np.random.default_rng(_SUBSET_SEED).choice(count, limit, replace=False))
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind != "i":
        raise InputError(
            f"{where}: rows are {rows.dtype} of shape {rows.shape}; give numbers of samples, int64 (n,), one or more"
        )
    if rows[0] < 0 or (np.diff(rows) <= 0).any() or rows[-1] >= count:
        raise InputError(
            f"{where}: rows go from {rows.min()} to {rows.max()}, not ascending or outside 0 … {count - 1}; give each once, in order"
        )
    return rows
