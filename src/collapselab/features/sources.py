"""Sources of features: arrays in memory, one feature file, or a folder of shards that are read one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.checks import (
    as_features,
    check_classifier_shape,
    check_finite,
    check_label_shape,
    check_predictions,
    check_real_matrix,
    count_unbounded,
    features_dtype,
    refuse_unbounded,
)
from collapselab.errors import InputError, one_line
from collapselab.features.arrays import feature_matrix, label_vector, numpy_array
from collapselab.features.files import SUFFIXES, FeatureFile, open_file

# Features of shards are read in pieces of about this many values.
_PIECE_ELEMENTS = 2**23


# How the names of training files begin, and those of files to test on.
_SPLIT_WORDS = (("train", "training"), ("test", "testing", "val", "valid", "validation", "dev", "eval"))

ClassifierArrays = tuple[npt.NDArray[np.generic] | None, npt.NDArray[np.generic] | None]


@dataclass(frozen=True)
class Block:
    """Consecutive samples: features (n, p), labels (n,), and the network's decisions (n,) if known."""

    features: Tensor
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64] | None


@runtime_checkable  # the tests check annotations at run time
class FeatureSource(Protocol):
    """Labelled features that can be read several times, block by block, always in the same order.

    Attributes:
        where: name of the source in messages.
        labels: labels of all samples.
        dim: p, features per sample.
        in_memory: whether the features are one block that is in memory already.
    """

    where: str
    labels: npt.NDArray[np.int64]
    dim: int
    in_memory: bool

    def classifier(self) -> ClassifierArrays:
        """Return weight (C, p) and bias (C,) of the classifier, each None if the source does not have it.

        Raises:
            InputError: arrays that do not fit the features and labels, judged by their headers.
        """
        ...

    def load(self) -> None:
        """Read and check the features, if they are kept in memory.

        Raises:
            InputError: damage, or values that are not finite.
        """
        ...

    def blocks(self) -> Iterator[Block]: ...

    def check_classes(self, classes: npt.NDArray[np.int64]) -> None:
        """Refuse decisions that are not among `classes` (sorted).

        Raises:
            InputError: with their number, the first of them and its row.
        """
        ...


class ArraySource:
    """Features and labels in memory.

    Args:
        features: (n, p) numbers; integers are converted.
        labels: (n,) non-negative whole numbers.
        predictions: (n,) the network's decisions, as labels.
        weight, bias: (C, p) and (C,).
        where: name of the source in messages.

    Raises:
        InputError: arrays that do not fit together, are empty or not finite.
    """

    in_memory = True

    def __init__(
        self,
        features: Any,
        labels: Any,
        *,
        predictions: Any = None,
        weight: Any = None,
        bias: Any = None,
        where: str = "features",
    ) -> None:
        self.where = where
        self._features = feature_matrix(features, where)
        n, self.dim = self._features.shape
        self.labels = label_vector(labels, n, where)
        self._predictions = (
            None if predictions is None else label_vector(predictions, n, where, "predictions")
        )
        arrays = (("weight", weight), ("bias", bias))
        self._weight, self._bias = (
            None if array is None else numpy_array(array, name, where) for name, array in arrays
        )
        check_finite(self._features, where)

    def load(self) -> None:
        """Do nothing: the features are here."""

    def blocks(self) -> Iterator[Block]:
        yield Block(self._features, self.labels, self._predictions)

    def check_classes(self, classes: npt.NDArray[np.int64]) -> None:
        if self._predictions is not None:
            check_predictions(self._predictions, classes, self.where)

    def classifier(self) -> ClassifierArrays:
        return self._weight, self._bias


class FileSource:
    """One feature file. Its features are read by `load`, after everything else has been checked.

    Raises:
        InputError: a file that cannot be read; arrays whose headers or values do not fit together.
    """

    in_memory = True

    def __init__(self, file: FeatureFile) -> None:
        self.where = str(file.path)
        self._file = file
        (n, self.dim), _ = _feature_header(file)
        self.labels, self._predictions = _read_labels(file, n)

    def classifier(self) -> ClassifierArrays:
        return _read_classifier([self._file], self.labels, self.dim)

    def load(self) -> None:
        self._features = feature_matrix(self._file.read("features"), self.where)
        check_finite(self._features, self.where)

    def blocks(self) -> Iterator[Block]:
        yield Block(self._features, self.labels, self._predictions)

    def check_classes(self, classes: npt.NDArray[np.int64]) -> None:
        if self._predictions is not None:
            check_predictions(self._predictions, classes, self.where)


@dataclass(frozen=True)
class _Shard:
    file: FeatureFile
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64] | None


class ShardSource:
    """A folder of `.npz` or `.safetensors` shards of any total size, in the order of their names.

    Labels, predictions and the shapes of features of all shards are read at once; the features are read in pieces,
    from one shard at a time. Hidden files and files with other suffixes are ignored.

    Raises:
        InputError: no shards, a shard that cannot be read, shards that do not fit together.
    """

    in_memory = False

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed ({one_line(error.strerror)})") from error
        paths = [
            path
            for path in found
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        ]
        if not paths:
            raise InputError(f"{folder}: no .npz or .safetensors file in this folder; put the shards there")
        _check_one_split(folder, paths)
        self._dtype = torch.float16
        self._shards: list[_Shard] = []
        self._checked: set[Path] = set()
        for path in paths:
            self._add(open_file(path))
        without = [shard.file.path.name for shard in self._shards if shard.predictions is None]
        if 0 < len(without) < len(paths):
            raise InputError(
                f"{folder}: {len(paths) - len(without)} of {len(paths)} shards have predictions, {without[0]} has none; "
                "give them in all shards or in none"
            )
        self.labels = np.concatenate([shard.labels for shard in self._shards])

    def _add(self, file: FeatureFile) -> None:
        where = str(file.path)
        shape, dtype = _feature_header(file)
        if not self._shards:
            self.dim = shape[1]
        elif shape[1] != self.dim:
            raise InputError(
                f"{where}: {shape[1]} features per sample, but {self._shards[0].file.path.name} has {self.dim}; "
                "all shards must have the same"
            )
        # One dtype for all shards, as in one file: sums must not depend on which shard comes first.
        self._dtype = torch.promote_types(self._dtype, dtype) if self._shards else dtype
        labels, predictions = _read_labels(file, shape[0])
        self._shards.append(_Shard(file, labels, predictions))

    def classifier(self) -> ClassifierArrays:
        return _read_classifier([shard.file for shard in self._shards], self.labels, self.dim)

    def load(self) -> None:
        """Do nothing: features are read in every pass."""

    def blocks(self) -> Iterator[Block]:
        step = max(1, _PIECE_ELEMENTS // self.dim)
        for shard in self._shards:
            start = 0
            pieces = shard.file.rows("features", step)
            for raw in pieces:
                features = as_features(raw, str(shard.file.path)).to(self._dtype)
                rows = slice(start, start + len(features))
                if shard.file.path not in self._checked:
                    self._check(features, pieces, shard.file.path, start)
                predictions = None if shard.predictions is None else shard.predictions[rows]
                yield Block(features, shard.labels[rows], predictions)
                start = rows.stop
            self._checked.add(shard.file.path)

    def _check(self, features: Tensor, rest: Iterator[Any], path: Path, start: int) -> None:
        """Refuse values that are not finite, and count them to the end of the shard."""
        count, first = count_unbounded(features)
        if not count:
            return
        first += start
        for raw in rest:
            count += count_unbounded(as_features(raw, str(path)))[0]
        refuse_unbounded(count, first, str(path))

    def check_classes(self, classes: npt.NDArray[np.int64]) -> None:
        for shard in self._shards:
            if shard.predictions is not None:
                check_predictions(shard.predictions, classes, str(shard.file.path))


def _check_one_split(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse files that are no shards of one split: training and test files together, or one shard in two formats.

    Raises:
        InputError: naming two such files.
    """
    stems: dict[str, Path] = {}
    for path in paths:
        if (other := stems.setdefault(path.stem, path)) is not path:
            raise InputError(
                f"{folder}: {other.name} and {path.name} have one name; keep one of the two formats"
            )
    by_word = {re.split(r"[^a-z]", path.stem.lower())[0]: path for path in paths}
    train, test = (next((by_word[word] for word in words if word in by_word), None) for words in _SPLIT_WORDS)
    if train is not None and test is not None:
        raise InputError(
            f"{folder}: holds {train.name} and {test.name}; give the files of each split separately, in folders of their "
            "own if there are several"
        )


def open_source(path: str | Path) -> FeatureSource:
    """Open the features at `path`: a `.npz` or `.safetensors` file, or a folder of such shards.

    Raises:
        InputError: the path or its contents cannot be used, in one line.
    """
    path = Path(path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # the name is too long or has a null character; no permission
        raise InputError(f"{path}: cannot be looked up ({one_line(error)}); check the path") from error
    if not exists:
        raise InputError(f"{path}: no such file or folder; check the path")
    if is_folder:
        return ShardSource(path)
    return FileSource(open_file(path))


def _feature_header(file: FeatureFile) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the shape of the features, and the dtype in which they are measured, without reading them.

    Raises:
        InputError: no features or labels; features that are no matrix of numbers.
    """
    for name in ("features", "labels"):
        if name not in file.names:
            found = ", ".join(sorted(file.names)) or "nothing"
            raise InputError(
                f"{file.path}: no array named {name!r} (found: {found}); save features and labels by name"
            )
    shape, dtype = file.shape("features"), file.empty("features").dtype
    check_real_matrix(shape, dtype, str(file.path))
    return shape, features_dtype(dtype)


def _read_labels(
    file: FeatureFile, num_samples: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Return labels (n,) and predictions (n,), if there are any; headers are checked before values are read.

    Raises:
        InputError: as `check_labels`.
    """
    where, found = str(file.path), {}
    for name in ("labels", "predictions"):
        if name in file.names:
            dtype = numpy_array(file.empty(name), name, where).dtype
            check_label_shape(file.shape(name), dtype, num_samples, where, name)
            found[name] = label_vector(file.read(name), num_samples, where, name)
    return found["labels"], found.get("predictions")


def _read_classifier(
    files: Sequence[FeatureFile], labels: npt.NDArray[np.int64], dim: int
) -> ClassifierArrays:
    """Return weight and bias; headers are checked before values are read.

    Raises:
        InputError: another shape than the labels and features need; files that disagree.
    """
    num_classes = len(np.unique(labels))
    found: dict[str, npt.NDArray[np.generic]] = {}
    for file, name in product(files, ("weight", "bias")):
        if name not in file.names:
            continue
        where = str(file.path)
        dtype = numpy_array(file.empty(name), name, where).dtype
        check_classifier_shape(name, file.shape(name), dtype, num_classes=num_classes, dim=dim, where=where)
        array = numpy_array(file.read(name), name, where)
        known = found.setdefault(name, array)
        if known is not array and not np.array_equal(known, array):
            raise InputError(
                f"{where}: its {name} differs from an earlier shard's; save the same classifier in all shards, or "
                "leave it out of all but one"
            )
    return found.get("weight"), found.get("bias")
