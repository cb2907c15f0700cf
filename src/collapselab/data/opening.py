"""Data sets by name or by path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from collapselab.checks import near_matches
from collapselab.data.arrays import npz_splits, read_npz
from collapselab.data.digits import load_digits
from collapselab.data.image_folder import folder_splits, read_folder
from collapselab.data.labelled import Inputs, LabelledData, TensorInputs
from collapselab.data.parquet import parquet_splits, read_parquet
from collapselab.data.pixels import Pixels, Standardize
from collapselab.data.stored import ImageSource, StoredSplit
from collapselab.errors import InputError

_FORMS = (
    "digits, a folder of Parquet files (train-*.parquet), a folder of images (train/CLASS/*.png), a .npz file"
)
_SUBSET_SEED = 0


class _Layout(NamedTuple):
    splits: tuple[str, ...]
    read: Callable[[Path, str], StoredSplit]


def available_splits(source: str | Path) -> tuple[str, ...]:
    """The splits that `open_data` can open, `train` first where it is one of them.

    Raises:
        InputError: no such data set.
    """
    return ("train", "test") if source == "digits" else _layout(source).splits


def open_data(
    source: str | Path,
    *,
    split: str = "train",
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    standardize: Standardize = "channel",
    reference: LabelledData | None = None,
) -> LabelledData:
    """One split of a data set, its labels read, its images not yet.

    Images become floats in [0, 1], less the mean of the training images, over their standard deviation. Inputs
    that are not images — digits, arrays of other than bytes — are taken as they are.

    Args:
        source: `digits`, a folder of Parquet files or of images, or an `.npz` file.
        image_size: (height, width) that images are brought to, losing margins where the aspect ratio differs.
        channels: 1 or 3 for grey or colour; by default as the images are.
        limit: at most so many samples, drawn at random from a fixed seed, in stored order.
        standardize: statistics per channel, per pixel, or none.
        reference: the training data whose statistics and shape a test split uses. Without it, a split other
            than `train` uses those of the whole `train` split.

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
    splits = available_splits(source)
    if split not in splits:
        raise InputError(f"{source}: no split {split!r}; it has {', '.join(splits)}")
    if source == "digits":
        return _digits(split, limit)
    stored = _layout(source).read(Path(source), split)
    labels, names = stored.numbered()
    rows = _subset(len(labels), limit)
    inputs: Inputs
    if isinstance(stored.content, ImageSource):
        if reference is None and split != "train":
            reference = _training_data(source, splits, image_size, channels, standardize)
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
        name=Path(source).resolve().name,
        labels=torch.from_numpy(labels[rows]),
        num_classes=len(stored.label_values if names is None else names),
        class_names=names,
        inputs=inputs,
    )


def _training_data(
    source: str | Path,
    splits: tuple[str, ...],
    image_size: tuple[int, int] | None,
    channels: int | None,
    standardize: Standardize,
) -> LabelledData | None:
    """What the images of another split are standardised with."""
    if standardize == "none":
        return None
    if "train" not in splits:
        raise InputError(
            f"{source}: no split 'train' to standardise with; add it, or open with standardize='none'"
        )
    return open_data(source, image_size=image_size, channels=channels, standardize=standardize)


def _pixels_of(reference: LabelledData | None, source: str | Path) -> Pixels | None:
    if reference is None:
        return None
    if not isinstance(reference.inputs, Pixels):
        raise InputError(
            f"{source}: images, but the training data {reference.name!r} are not; give training images"
        )
    return reference.inputs


def _digits(split: str, limit: int | None) -> LabelledData:
    data = load_digits()
    samples = data.train if split == "train" else data.test
    rows = torch.from_numpy(_subset(len(samples), limit))
    names = tuple(str(digit) for digit in range(data.num_classes))
    return LabelledData(
        data.name, samples.labels[rows], data.num_classes, names, TensorInputs(samples.inputs[rows])
    )


def _subset(count: int, limit: int | None) -> npt.NDArray[np.int64]:
    """Row numbers, ascending. Not the first rows: stored samples are often sorted by class."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SUBSET_SEED).choice(count, limit, replace=False))


def _layout(source: str | Path) -> _Layout:
    """How the data set at a path is stored.

    Raises:
        InputError: no such path (with near matches), or nothing there that can be read.
    """
    if not str(source).strip():
        raise InputError(f"the name of the data set is empty; give {_FORMS}")
    path = Path(source)
    try:
        if path.is_dir():
            if splits := parquet_splits(path):
                return _Layout(splits, read_parquet)
            if inner := next((other for other in sorted(path.iterdir()) if parquet_splits(other)), None):
                raise InputError(
                    f"{path}: its Parquet files are in folders, such as {inner}; give one of these"
                )
            if splits := folder_splits(path):
                return _Layout(splits, read_folder)
            raise InputError(
                f"{path}: neither Parquet files nor class folders are in there; give one of {_FORMS}"
            )
        if path.is_file():
            if path.suffix.lower() == ".npz":
                return _Layout(npz_splits(path), read_npz)
            raise InputError(f"{path}: not a kind of data set that can be read; give {_FORMS}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
    raise InputError(_unknown(str(source), path))


def _unknown(source: str, path: Path) -> str:
    if path.parent.is_dir() and (path.parent != Path() or path.suffix):
        near = near_matches(path.name, [other.name for other in path.parent.iterdir()])
        hint = near if near.startswith("did you mean") else "check the path"
        return f"{source}: no such file or folder; {hint}"
    if path.parent != Path():
        return f"{source}: no such file or folder, nor is {path.parent} a folder; check the path"
    known = [
        "digits",
        *(other.name for other in Path().iterdir() if other.is_dir() or other.suffix == ".npz"),
    ]
    near = near_matches(source, known)
    hint = f"{near} Known" if near.startswith("did you mean") else "known"
    return f"unknown data set {source!r}; {hint}: {_FORMS}"
