"""Data sets with a short name: their hub ids, and local copies."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from collapselab.errors import InputError
from collapselab.names import near_matches

COPIES_VARIABLE = "COLLAPSELAB_DATA"
DIGITS = "digits"  # ships with scikit-learn
# One slash and no dot in front: `./sets/x` and `../x` are always paths.
_HUB_ID = re.compile(r"(?P<hub_id>\w[\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?")
# Where test labels are not published, the split to test on goes by several names.
VALIDATION = ("validation", "val", "valid", "dev", "eval")


@dataclass(frozen=True)
class NamedData:
    """A data set that is the same whatever it is read from.

    Attributes:
        name: short.
        hub_id: `owner/name` of its repository on the Hugging Face hub; None if only local copies are read.
        num_classes: of every copy.
        image_shape: (channels, height, width) of every image, None where they differ.
        config: of the repository, if it has several.
        splits: `train` and `test`, each with what the hub calls it.
        class_names: published names of labels 0, 1, …, for copies that have only numbers; None where experiments refer
            to classes by number.
    """

    name: str
    hub_id: str | None
    num_classes: int
    image_shape: tuple[int, int, int] | None
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    class_names: tuple[str, ...] | None = None

    def stored_splits(self, stored: Collection[str]) -> dict[str, str]:
        """Return which of `train` and `test` a copy with splits `stored` has, each with its name there."""
        found = {}
        for split, on_hub in self.splits.items():
            candidates = (*VALIDATION, split) if on_hub in VALIDATION else (on_hub, split)
            if match := next((name for name in candidates if name in stored), None):
                found[split] = match
        return found


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMED: dict[str, NamedData] = {
    data.name: data
    for data in (
        NamedData("mnist", "ylecun/mnist", 10, (1, 28, 28)),
        NamedData("fashion_mnist", "zalando-datasets/fashion_mnist", 10, (1, 28, 28)),
        NamedData("cifar10", "uoft-cs/cifar10", 10, (3, 32, 32), class_names=_CIFAR10),
        NamedData("cifar100", "uoft-cs/cifar100", 100, (3, 32, 32)),
        NamedData("svhn", "ufldl-stanford/svhn", 10, (3, 32, 32), config="cropped_digits"),
        NamedData("stl10", "tanganke/stl10", 10, (3, 96, 96)),
        NamedData(
            "imagenet", "ILSVRC/imagenet-1k", 1000, None, splits={"train": "train", "test": "validation"}
        ),
        NamedData("oxford_pets", None, 37, None),
        NamedData("oxford_flowers", None, 102, None),
        NamedData("fgvc_aircraft", None, 100, None),
        NamedData("stanford_cars", None, 196, None),
        NamedData("dtd", None, 47, None),
        NamedData("food101", None, 101, None, splits={"train": "train", "test": "validation"}),
        NamedData("caltech101", None, 102, None),  # with the background class
        NamedData("sun397", None, 397, None),
    )
}


def copies_hint(name: str, path: object) -> str:
    """How to say where the local copy of a data set is, for messages."""
    return f"copies={{{name!r}: {path}}} or {COPIES_VARIABLE}={name}={path} in the environment"


def local_copies(pairs: Iterable[str] = (), origin: str = "copies") -> dict[str, Path]:
    """Return the paths of local copies by short name.

    Args:
        pairs: entries NAME=PATH. They take precedence over those in the environment variable COLLAPSELAB_DATA, which
            holds such entries separated as in a search path (`:`, on Windows `;`).
        origin: where the pairs come from, for messages.

    Raises:
        InputError: an entry that is not NAME=PATH, an unknown name, a path that does not exist, a name with two paths.
    """
    entries = os.environ.get(COPIES_VARIABLE, "").split(os.pathsep)
    return _parsed((entry for entry in entries if entry.strip()), COPIES_VARIABLE) | _parsed(pairs, origin)


def _parsed(entries: Iterable[str], origin: str) -> dict[str, Path]:
    copies: dict[str, Path] = {}
    for entry in entries:
        name, path = _pair(entry.strip(), origin)
        if name in copies and copies[name].resolve() != path.resolve():
            raise InputError(f"{origin}: {name} is given as {copies[name]} and as {path}; give one of them")
        copies[name] = path
    return copies


def _pair(entry: str, origin: str) -> tuple[str, Path]:
    name, equals, value = (part.strip() for part in entry.partition("="))
    if not (equals and name and value):
        raise InputError(f"{origin}: {entry!r} is not NAME=PATH; give a pair such as mnist=/data/mnist")
    if name == DIGITS:
        raise InputError(f"{origin}: {name} come with the package and have no copy; leave {entry!r} out")
    if name not in NAMED:
        raise InputError(f"{origin}: unknown data set {name!r} in {entry!r}; {near_matches(name, NAMED)}")
    try:
        path = Path(value).expanduser()
    except RuntimeError:  # `~` of a user who does not exist
        path = Path(value)
    if not os.path.exists(path):
        raise InputError(f"{origin}: {name}={path}: no such file or folder; check the path")
    return name, path


def hub_id(source: str) -> tuple[str, str | None] | None:
    """Return the repository and the configuration that an id of the Hugging Face hub names; None for paths and names.

    An id whose path exists, or the folder that it would be in, means that path.
    """
    match, path = _HUB_ID.fullmatch(source), Path(source)
    if match is None or os.path.exists(path) or path.parent.is_dir() or path.suffix.lower() == ".npz":
        return None
    return match["hub_id"], match["config"]


def check_source(source: str) -> None:
    """Refuse what names no data set and is no path.

    Raises:
        InputError: with near matches.
    """
    if not source.strip() or source in (DIGITS, *NAMED):
        return
    with suppress(OSError, UnicodeError):  # opening it says why it cannot be read
        if hub_id(source) is None and not os.path.lexists(source):
            raise InputError(unknown(source, Path(source)))


def unknown(source: str, path: Path) -> str:
    """Return what to say of a data set that is not found, with near matches."""
    name, equals, copy = source.partition("=")
    if equals and name in NAMED:
        return f"{source}: one data set is expected here; give {copy} itself, or {name} and {copies_hint(name, copy)}"
    if path.parent.is_dir() and (path.parent != Path() or path.suffix):
        near = near_matches(
            path.name, [other.name for other in path.parent.iterdir() if not other.name.startswith(".")]
        )
        hint = near if near.startswith("did you mean") else "check the path"
        return f"{source}: no such file or folder; {hint}"
    if path.parent != Path():
        return f"{source}: no such file or folder, and {path.parent} is not a folder either; check the path"
    beside = (
        other.name
        for other in Path().iterdir()
        if not other.name.startswith(".") and (other.is_dir() or other.suffix == ".npz")
    )
    near = near_matches(source, [DIGITS, *NAMED, *beside])
    hint = f"{near} Known" if near.startswith("did you mean") else "known"
    names = ", ".join([DIGITS, *NAMED])
    return (
        f"unknown data set {source!r}; {hint} names: {names}. A path or a hub id such as owner/name works too"
    )


_TITLES = {
    "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN",
    "stl10": "STL-10", "imagenet": "ImageNet", "oxford_pets": "Oxford-IIIT Pets", "oxford_flowers": "Oxford 102 Flowers",
    "fgvc_aircraft": "FGVC Aircraft", "stanford_cars": "Stanford Cars", "dtd": "DTD", "food101": "Food-101",
    "caltech101": "Caltech-101", "sun397": "SUN397",
}  # fmt: skip


def data_title(name: str) -> str:
    """Return a data set's name as papers write it; unknown ones without underscores."""
    return _TITLES.get(name, name.replace("_", " "))
