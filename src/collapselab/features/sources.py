"""Sources of features: arrays in memory, one feature file, or a folder of shards that are read one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.checks import (
    as_features,
    check_finite,
    check_labels,
    check_predictions,
    check_real_matrix,
    count_unbounded,
    features_dtype,
    refuse_unbounded,
)
from collapselab.errors import InputError, one_line
from collapselab.features.files import SUFFIXES, FeatureFile, open_file

# Features of shards are read in pieces of about this many values.
_PIECE_ELEMENTS = 2**23


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
        weight, bias: weight and bias of the classifier, if the source has them.
    """

    where: str
    labels: npt.NDArray[np.int64]
    dim: int
    in_memory: bool
    weight: npt.NDArray[np.generic] | None
    bias: npt.NDArray[np.generic] | None

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
        self._features = as_features(_as_array(features, "features", where), where)
        n, self.dim = self._features.shape
        self.labels = check_labels(_as_numpy(labels, "labels", where), n, where)
        self._predictions: npt.NDArray[np.int64] | None = None
        if predictions is not None:
            array = _as_numpy(predictions, "predictions", where)
            self._predictions = check_labels(array, n, where, "predictions")
        self.weight = None if weight is None else _as_numpy(weight, "weight", where)
        self.bias = None if bias is None else _as_numpy(bias, "bias", where)
        check_finite(self._features, where)

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
        self.weight: npt.NDArray[np.generic] | None = None
        self.bias: npt.NDArray[np.generic] | None = None
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
        _require(file)
        shape, sample = file.shape("features"), file.empty("features")
        check_real_matrix(shape, sample.dtype, where)
        if not self._shards:
            self.dim = shape[1]
        elif shape[1] != self.dim:
            raise InputError(
                f"{where}: {shape[1]} features per sample, but {self._shards[0].file.path.name} has {self.dim}; "
                "all shards must have the same"
            )
        # One dtype for all shards, as in one file: sums must not depend on which shard comes first.
        dtype = features_dtype(sample.dtype)
        self._dtype = torch.promote_types(self._dtype, dtype) if self._shards else dtype
        labels = check_labels(_as_numpy(file.read("labels"), "labels", where), shape[0], where)
        predictions = None
        if "predictions" in file.names:
            array = _as_numpy(file.read("predictions"), "predictions", where)
            predictions = check_labels(array, shape[0], where, "predictions")
        self._shards.append(_Shard(file, labels, predictions))
        for name in ("weight", "bias"):
            if name in file.names:
                self._take(name, _as_numpy(file.read(name), name, where), where)

    def _take(self, name: str, array: npt.NDArray[np.generic], where: str) -> None:
        known = getattr(self, name)
        if known is None:
            setattr(self, name, array)
        elif not np.array_equal(known, array):
            raise InputError(
                f"{where}: its {name} differs from an earlier shard's; save the same classifier in all shards, or "
                "leave it out of all but one"
            )

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
    file = open_file(path)
    _require(file)
    # What the header shows to be wrong is refused before gigabytes are read.
    shape = file.shape("features")
    check_real_matrix(shape, file.empty("features").dtype, str(path))
    check_labels(_as_numpy(file.read("labels"), "labels", str(path)), shape[0], str(path))
    optional = {name: file.read(name) for name in ("weight", "bias", "predictions") if name in file.names}
    return ArraySource(file.read("features"), file.read("labels"), where=str(path), **optional)


def _require(file: FeatureFile) -> None:
    for name in ("features", "labels"):
        if name not in file.names:
            found = ", ".join(sorted(file.names)) or "nothing"
            raise InputError(
                f"{file.path}: no array named {name!r} (found: {found}); save features and labels by name"
            )


def _as_array(value: Any, name: str, where: str) -> Any:
    if isinstance(value, Tensor):
        return value
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {name} are not an array ({one_line(error)}); give numbers") from error


def _as_numpy(value: Any, name: str, where: str) -> npt.NDArray[np.generic]:
    array = _as_array(value, name, where)
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        if array.is_floating_point() and array.dtype not in (torch.float32, torch.float64):
            array = array.float()  # numpy has no bfloat16 and no float8
        return array.numpy()
    # Types wider than float64 are not supported anywhere else.
    return array.astype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array
