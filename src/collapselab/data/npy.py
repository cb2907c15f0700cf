"""Arrays in `.npy` files of one folder: inputs and labels, of one split or of several."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collapselab.data.names import VALIDATION
from collapselab.errors import InputError, one_line

_INPUTS = ("inputs", "images", "features", "x", "data")
_LABELS = ("labels", "targets", "y")
_SPLITS = ("train", "test", *VALIDATION)
_NAME = re.compile(
    rf"(?:(?P<before>{'|'.join(_SPLITS)})_)?(?P<what>{'|'.join(_INPUTS + _LABELS)})(?:_(?P<after>{'|'.join(_SPLITS)}))?"
)


class NpyFolder:
    """The arrays of a folder, under the names that they would have in an `.npz` file.

    Attributes:
        path: of the folder.
        names: `inputs`, `labels`, `test_inputs`, …
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._files = _arrays(folder)
        self.names = tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._mapped(name).shape

    def empty(self, name: str) -> npt.NDArray[Any]:
        return np.empty(0, self._mapped(name).dtype)

    def read(self, name: str) -> npt.NDArray[Any]:
        return np.array(self._mapped(name))

    def _mapped(self, name: str) -> npt.NDArray[Any]:
        path = self._files[name]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: no array of numbers or text, damaged or cut off ({one_line(error)}); save it again with numpy.save"
            ) from error


def find_arrays(path: Path) -> NpyFolder | None:
    """Return the arrays in a folder, or beside an `.npy` file; None if there are none.

    Raises:
        InputError: a file of inputs without one of labels.
    """
    folder = path if path.is_dir() else path.parent
    found = _arrays(folder)
    if any(name.endswith("labels") for name in found) and any(name.endswith("inputs") for name in found):
        return NpyFolder(folder)
    if path.is_file():
        raise InputError(
            f"{path}: an array without labels; put them beside it as {folder / 'labels.npy'}, and the inputs as inputs.npy "
            "(train_inputs.npy, test_labels.npy, X_train.npy, y_train.npy, … for splits)"
        )
    return None


def _arrays(folder: Path) -> Mapping[str, Path]:
    """Return `.npy` files by the names that they would have in an `.npz` file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.npy")):
        match = _NAME.fullmatch(path.stem.lower())
        if match is None or (match["before"] and match["after"]):
            continue
        split = match["before"] or match["after"] or ""
        what = "labels" if match["what"] in _LABELS else "inputs"
        name = f"{split}_{what}" if split else what
        if name in found:
            raise InputError(
                f"{folder}: {found[name].name} and {path.name} are both {name}; keep one of them"
            )
        found[name] = path
    return found
