"""Data sets by short name, path or hub id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collapselab.choices import Standardize
from collapselab.data.arrays import NpzStore
from collapselab.data.builders import open_file, open_folder
from collapselab.data.dataset import DataSet
from collapselab.data.digits import DigitsStore
from collapselab.data.downloads import open_download
from collapselab.data.hub import HubStore
from collapselab.data.image_folder import ImageFolders, TextFolders
from collapselab.data.labelled import LabelledData
from collapselab.data.names import DIGITS, NAMED, NamedData, copies_hint, hub_id, local_copies, unknown
from collapselab.data.npy import find_arrays
from collapselab.data.parquet import ParquetStore
from collapselab.data.saved import is_saved, open_saved
from collapselab.data.stored import Store
from collapselab.errors import InputError, printable

_FORMS = (
    "a name such as mnist, a hub id such as owner/name, a folder with train/CLASS/*.png, train-*.parquet or a download of "
    "torchvision, or a .npz, .npy, .csv, .jsonl, .parquet or .tar file"
)


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
    """Open one split of a data set: its labels are read, its images not yet.

    Pixels are scaled to [0, 1]; then the mean of the training images is subtracted and the result divided by their
    standard deviation. Inputs that are not images (digits, arrays of other than bytes) are returned as stored. To open
    several splits of one data set, use `open_data_set`, which finds it once.

    Args:
        source: what `open_data_set` takes.
        split: one of the data set's splits.
        image_size: (height, width) that images are resized to; where the aspect ratio differs, margins are cropped.
        channels: 1 or 3 for grey or colour; by default as the images are.
        limit: maximum number of samples, drawn at random with a fixed seed, in stored order.
        standardize: subtract and divide by statistics per channel or per pixel, or not at all.
        reference: the training data whose statistics and shape a test split uses. Without it, a split other
            than `train` uses those of the whole `train` split.
        copies: paths of local copies by short name; default those in COLLAPSELAB_DATA.
        rows: (n,) numbers of the samples to open, ascending, instead of `limit`.

    Raises:
        InputError: what is wrong with the source, the split or the arguments, in one line.
        ImportError: an extra that is not installed.
    """
    return open_data_set(source, copies).open(
        split,
        image_size=image_size,
        channels=channels,
        limit=limit,
        rows=rows,
        standardize=standardize,
        reference=reference,
    )


def available_splits(source: str | Path, copies: Mapping[str, Path] | None = None) -> tuple[str, ...]:
    """Return the splits that `open_data` can open, `train` first where there is one.

    Those of a short name are train and test, whatever they are called where the data set is stored.

    Raises:
        InputError: no such data set.
        ImportError: an extra that is not installed.
    """
    return open_data_set(source, copies).splits


def open_data_set(source: str | Path, copies: Mapping[str, Path] | None = None) -> DataSet:
    """Find a data set, once for all of its splits.

    Args:
        source: a short name (`digits` or one of `NAMED`); the path of a folder of Parquet files or of images, of a
            folder that `datasets` saved, or of an `.npz` file; or an id `owner/name` or `owner/name:config` of the
            Hugging Face hub, which is downloaded once. A `Path` is always a path. A short name means its local copy,
            else a folder of that name in the current one, else the hub.
        copies: paths of local copies by short name; default those in COLLAPSELAB_DATA.

    Raises:
        InputError: no such data set (with near matches), or nothing there that can be read.
        ImportError: an extra that is not installed.
    """
    if not str(source).strip():
        raise InputError(f"the name of the data set is empty; give {_FORMS}")
    if isinstance(source, str):
        if source == DIGITS:
            return DataSet(DIGITS, DIGITS, DigitsStore())
        if source in NAMED:
            return _named(NAMED[source], local_copies() if copies is None else copies)
        if (hub := hub_id(source)) is not None:
            return DataSet(source, source, HubStore(*hub))
    path = Path(source)
    store = _store_at(path, str(source))
    return DataSet(printable(path.resolve().name), str(path), store)


def _named(data: NamedData, copies: Mapping[str, Path]) -> DataSet:
    if data.name in copies:
        path = copies[data.name]
        store = _store_at(path, str(path))
        splits = data.stored_splits(store.splits)
        others = {split: split for split in store.splits if split not in splits.values()}
        if not splits:
            raise InputError(
                f"{path}: holds {', '.join(store.splits)}, but a copy of {data.name} has train and test"
            )
        return DataSet(data.name, str(path), store, others | splits, data)
    if os.path.isdir(data.name):
        store = _store_at(Path(data.name), data.name)
        own = {split: split for split in store.splits}
        return DataSet(data.name, data.name, store, own | data.stored_splits(store.splits))
    if data.hub_id is None:
        raise InputError(f"{data.name}: no local copy; give {copies_hint(data.name, 'PATH')}")
    store = HubStore(data.hub_id, data.config, name=data.name)
    return DataSet(data.name, data.hub_id, store, data.splits, data)


def _store_at(path: Path, source: str) -> Store:
    """Tell how the data set at a path is stored.

    Raises:
        InputError: no such path (with near matches), or nothing there that can be read.
    """
    try:
        if path.is_dir():
            return _store_in(path)
        if path.is_file():
            if path.suffix.lower() == ".npz":
                return NpzStore(path)
            if path.suffix.lower() == ".npy":
                return NpzStore(path, find_arrays(path))
            if (built := open_file(path)) is not None:
                return built
            raise InputError(f"{path}: not a kind of data set that can be read; give {_FORMS}")
        raise InputError(unknown(source, path))
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not Unicode"
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error


def _store_in(folder: Path) -> Store:
    if is_saved(folder):
        return open_saved(folder)
    if (download := open_download(folder)) is not None:
        return download
    images = ImageFolders(folder)
    if (parquet := ParquetStore(folder)).splits:
        if images.has_named_splits:
            raise InputError(
                f"{folder}: holds Parquet files ({', '.join(parquet.splits)}) and folders of images "
                f"({', '.join(images.splits)}); move one of them to another folder"
            )
        if parquet.is_plain:
            return parquet
    if (arrays := find_arrays(folder)) is not None:
        return NpzStore(folder, arrays)
    if (built := open_folder(folder)) is not None:
        return built
    if inner := next((other for other in sorted(folder.iterdir()) if ParquetStore(other).splits), None):
        raise InputError(f"{folder}: its Parquet files are in folders, such as {inner}; give one of these")
    if images.splits:
        texts = TextFolders(folder)
        return texts if texts.has_texts else images
    raise InputError(f"{folder}: no class folders, tables, arrays or downloads are in there; give {_FORMS}")
