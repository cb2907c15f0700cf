"""What a data set is called, where it is and how it is stored: names, paths and hub ids told apart."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from collapselab.checks import near_matches
from collapselab.data.arrays import npz_splits, read_npz
from collapselab.data.hub import hub_splits, read_hub
from collapselab.data.image_folder import folder_splits, read_folder
from collapselab.data.names import COPIES_VARIABLE, NAMED, NamedData, local_copies
from collapselab.data.parquet import parquet_splits, read_parquet
from collapselab.data.saved import read_saved, saved_splits
from collapselab.data.stored import StoredSplit
from collapselab.errors import InputError

_FORMS = (
    f"a name (digits, {', '.join(NAMED)}), a folder of Parquet files (train-*.parquet) or one that "
    "datasets saved, a folder of images (train/CLASS/*.png), a .npz file, or a hub id (owner/name)"
)
# One slash and no dot in front: `./sets/x` and `../x` are always paths.
_HUB_ID = re.compile(r"(?P<hub_id>\w[\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?")


class Layout(NamedTuple):
    """A data set that has been found.

    Attributes:
        name: what it is called.
        where: its path or hub id.
        splits: as they are asked for, each with its name where it is stored.
        read: a stored split by its name there.
        num_classes: that a copy must have to be what it is called.
        class_names: of labels 0, 1, …, where what is stored does not name its classes.
    """

    name: str
    where: str
    splits: Mapping[str, str]
    read: Callable[[str], StoredSplit]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None


def find_layout(source: str | Path, copies: Mapping[str, Path] | None = None) -> Layout:
    """The data set of a short name, at a path, or with a hub id, in this order; see `open_data`.

    A short name means a copy in `copies`, else a folder of that name in the current one, else the hub.

    Raises:
        InputError: none of them (with near matches), or nothing there that can be read.
        ImportError: an extra that is not installed.
    """
    if not str(source).strip():
        raise InputError(f"the name of the data set is empty; give {_FORMS}")
    if isinstance(source, str):  # a Path is a path
        if source in NAMED:
            return _named(NAMED[source], local_copies() if copies is None else copies)
        if (match := _HUB_ID.fullmatch(source)) and not _is_here(source):
            hub_id, config = match["hub_id"], match["config"]
            return Layout(
                source, source, _same(hub_splits(hub_id, config)), partial(read_hub, hub_id, config)
            )
    return _at_path(Path(source), str(source))


def _named(data: NamedData, copies: Mapping[str, Path]) -> Layout:
    if data.name in copies:
        found = _at_path(copies[data.name], str(copies[data.name]))
        splits = data.stored_splits(found.splits)
        if not splits:
            raise InputError(
                f"{copies[data.name]}: holds {', '.join(found.splits)}, but a copy of {data.name} has train and test"
            )
        return Layout(data.name, found.where, splits, found.read, data.num_classes, data.class_names)
    if os.path.isdir(data.name):
        found = _at_path(Path(data.name), data.name)
        return found._replace(splits=dict(found.splits) | data.stored_splits(found.splits))
    read = partial(read_hub, data.hub_id, data.config, name=data.name)
    return Layout(data.name, data.hub_id, data.splits, read, data.num_classes, data.class_names)


def _is_here(source: str) -> bool:
    """Whether an id means a path: it exists, or the folder it would be in does."""
    path = Path(source)
    return os.path.exists(path) or path.parent.is_dir() or path.suffix.lower() == ".npz"


def _same(splits: Iterable[str]) -> dict[str, str]:
    return {split: split for split in splits}


def _at_path(path: Path, source: str) -> Layout:
    """How the data set at a path is stored.

    Raises:
        InputError: no such path (with near matches), or nothing there that can be read.
    """
    name = path.resolve().name
    try:
        if path.is_dir():
            if splits := saved_splits(path):
                return Layout(name, str(path), _same(splits), partial(read_saved, path))
            if splits := parquet_splits(path):
                return Layout(name, str(path), _same(splits), partial(read_parquet, path))
            if inner := next((other for other in sorted(path.iterdir()) if parquet_splits(other)), None):
                raise InputError(
                    f"{path}: its Parquet files are in folders, such as {inner}; give one of these"
                )
            if splits := folder_splits(path):
                return Layout(name, str(path), _same(splits), partial(read_folder, path))
            raise InputError(
                f"{path}: neither Parquet files nor class folders are in there; give one of {_FORMS}"
            )
        if path.is_file():
            if path.suffix.lower() == ".npz":
                return Layout(name, str(path), _same(npz_splits(path)), partial(read_npz, path))
            raise InputError(f"{path}: not a kind of data set that can be read; give {_FORMS}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
    raise InputError(_unknown(source, path))


def _unknown(source: str, path: Path) -> str:
    name, equals, copy = source.partition("=")
    if equals and name in NAMED:
        return (
            f"{source}: one data set is wanted here; give {copy} itself, "
            f"or {name} with {COPIES_VARIABLE}={source} in the environment"
        )
    if path.parent.is_dir() and (path.parent != Path() or path.suffix):
        near = near_matches(path.name, [other.name for other in path.parent.iterdir()])
        hint = near if near.startswith("did you mean") else "check the path"
        return f"{source}: no such file or folder; {hint}"
    if path.parent != Path():
        return f"{source}: no such file or folder, nor is {path.parent} a folder; check the path"
    known = [
        "digits",
        *NAMED,
        *(other.name for other in Path().iterdir() if other.is_dir() or other.suffix == ".npz"),
    ]
    near = near_matches(source, known)
    hint = f"{near} Known" if near.startswith("did you mean") else "known"
    return f"unknown data set {source!r}; {hint}: {_FORMS}"
