"""Where features come from: arrays in memory, one feature file, or a folder of shards read one at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from collapselab.checks import InputError, as_features, check_finite, check_labels, one_line

SUFFIXES = (".npz", ".safetensors")
_NAMES = ("features", "labels", "weight", "bias", "predictions")


@dataclass(frozen=True)
class Block:
    """Some consecutive samples: features (n, p), labels (n,), the network's decisions (n,) if known."""

    features: Tensor
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64] | None


class FeatureSource(Protocol):
    """Labelled features that can be read more than once, block by block, always in the same order.

    Attributes:
        where: how to call it in messages.
        labels: of all samples.
        dim: p.
        in_memory: whether the features are one block that is already in memory.
        has_predictions: whether blocks carry the network's decisions.
        weight, bias: the classifier's, where the source has them.
    """

    where: str
    labels: npt.NDArray[np.int64]
    dim: int
    in_memory: bool
    has_predictions: bool
    weight: npt.NDArray[np.generic] | None
    bias: npt.NDArray[np.generic] | None

    def blocks(self) -> Iterator[Block]: ...


class ArraySource:
    """Features and labels that are in memory.

    Args:
        features: (n, p) numbers; integers are converted.
        labels: (n,) non-negative whole numbers.
        predictions: (n,) the network's decisions, as labels.
        weight, bias: (C, p) and (C,).
        where: how to call the source in messages.

    Raises:
        InputError: what does not fit, is empty, is not finite.
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
        self._features = as_features(_as_array(features), where)
        check_finite(self._features, where)
        n, self.dim = self._features.shape
        self.labels = check_labels(_as_numpy(labels), n, where)
        self._predictions = (
            None if predictions is None else check_labels(_as_numpy(predictions), n, where, "predictions")
        )
        self.has_predictions = self._predictions is not None
        self.weight = None if weight is None else _as_numpy(weight)
        self.bias = None if bias is None else _as_numpy(bias)

    def blocks(self) -> Iterator[Block]:
        yield Block(self._features, self.labels, self._predictions)


class ShardSource:
    """A folder of `.npz` or `.safetensors` shards of any total size, in the order of their names.

    Labels (and predictions) of all shards are read at once, features one shard at a time.

    Raises:
        InputError: no shards, a shard that cannot be read, shards that do not fit together.
    """

    in_memory = False

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
        if not self._paths:
            raise InputError(f"{folder}: no .npz or .safetensors file in this folder; put the shards there")
        labels, predictions = [], []
        self.weight: npt.NDArray[np.generic] | None = None
        self.bias: npt.NDArray[np.generic] | None = None
        for path in self._paths:
            arrays = read_arrays(path, skip=("features",))
            for name in ("weight", "bias"):
                self._take(name, arrays.get(name), path)
            shard_labels = _labels_of(arrays, "labels", path)
            labels.append(shard_labels)
            if "predictions" in arrays:
                predictions.append(
                    check_labels(arrays["predictions"], len(shard_labels), str(path), "predictions")
                )
        if predictions and len(predictions) != len(self._paths):
            raise InputError(
                f"{folder}: {len(predictions)} of {len(self._paths)} shards have predictions; give them in all "
                "shards or in none"
            )
        self.has_predictions = bool(predictions)
        self._labels, self._predictions = labels, predictions
        self.labels = np.concatenate(labels)
        first = read_arrays(self._paths[0], skip=("labels", "weight", "bias", "predictions"))
        self.dim = int(as_features(first["features"], str(self._paths[0])).shape[1])

    def _take(self, name: str, array: npt.NDArray[np.generic] | None, path: Path) -> None:
        known = getattr(self, name)
        if array is not None and known is not None and not np.array_equal(known, array):
            raise InputError(
                f"{path}: its {name} differs from an earlier shard's; all must be one classifier's"
            )
        if known is None:
            setattr(self, name, array)

    def blocks(self) -> Iterator[Block]:
        for index, path in enumerate(self._paths):
            features = as_features(
                read_arrays(path, skip=("labels", "weight", "bias", "predictions"))["features"], str(path)
            )
            if features.shape[1] != self.dim:
                raise InputError(
                    f"{path}: {features.shape[1]} features per sample, but {self._paths[0].name} has {self.dim}; "
                    "all shards must have the same"
                )
            check_finite(features, str(path))
            labels = self._labels[index]
            if len(labels) != len(features):
                raise InputError(
                    f"{path}: {len(labels)} labels for {len(features)} rows of features; "
                    "give one per row, in the same order"
                )
            predictions = self._predictions[index] if self._predictions else None
            yield Block(features, labels, predictions)
            del features


def open_source(path: str | Path) -> FeatureSource:
    """The features at `path`: a `.npz` or `.safetensors` file, or a folder of such shards.

    Raises:
        InputError: whatever is wrong with it, in one line.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        return ShardSource(path)
    arrays = read_arrays(path)
    labels = _labels_of(arrays, "labels", path)
    features = as_features(arrays["features"], str(path))
    if len(labels) != len(features):
        check_labels(labels, len(features), str(path))
    return ArraySource(
        features,
        labels,
        predictions=arrays.get("predictions"),
        weight=arrays.get("weight"),
        bias=arrays.get("bias"),
        where=str(path),
    )


def read_arrays(path: Path, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """The named arrays of a feature file, but those in `skip`; bfloat16 features come as a tensor.

    Raises:
        InputError: not such a file, damaged, pickled objects, or `features` or `labels` missing.
    """
    readers: dict[str, Callable[[Path, tuple[str, ...]], dict[str, Any]]] = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise InputError(f"{path}: unknown kind of file {path.suffix!r}; use .npz or .safetensors")
    try:
        return readers[path.suffix](path, skip)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); check the file") from error


def _read_npz(path: Path, skip: tuple[str, ...]) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz file (no zip archive, or cut off); write it with numpy.savez")
    arrays: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            _require(archive.files, path)
            for name in _NAMES:
                if name in archive.files and name not in skip:
                    arrays[name] = _npz_member(archive, name, path)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut off ({one_line(error)}); write it again") from error
    return arrays


def _npz_member(archive: Any, name: str, path: Path) -> Any:
    try:
        array = archive[name]
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise InputError(
                f"{path}: {name} holds Python objects, which are never unpickled; save it as an array of numbers"
            ) from error
        raise InputError(
            f"{path}: {name} is damaged or cut off ({one_line(error)}); write it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {name} is not an array; write it with numpy.savez")
    return array


def _read_safetensors(path: Path, skip: tuple[str, ...]) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    arrays: dict[str, Any] = {}
    try:
        with safe_open(str(path), framework="pt") as archive:
            names = list(archive.keys())
            _require(names, path)
            for name in _NAMES:
                if name in names and name not in skip:
                    tensor = archive.get_tensor(name)
                    arrays[name] = tensor if name == "features" else _as_numpy(tensor)
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a .safetensors file, or damaged or cut off ({one_line(error)}); write it again"
        ) from error
    return arrays


def _require(names: list[str], path: Path) -> None:
    for name in ("features", "labels"):
        if name not in names:
            found = ", ".join(sorted(names)) or "nothing"
            raise InputError(
                f"{path}: no array named {name!r} (found: {found}); save features and labels by name"
            )


def _labels_of(arrays: dict[str, Any], name: str, path: Path) -> npt.NDArray[np.int64]:
    array = arrays[name]
    length = len(array) if array.ndim else 0
    return check_labels(array, length, str(path), name)


def _as_array(value: Any) -> Any:
    return value if isinstance(value, Tensor) else np.asarray(value)


def _as_numpy(value: Any) -> npt.NDArray[np.generic]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (
            value.float().numpy() if value.dtype.is_floating_point and value.itemsize < 4 else value.numpy()
        )
    return np.asarray(value)
