"""Labels in every form that data sets store: numbers, names, one column, one-hot rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from collapselab.errors import InputError

Array = npt.NDArray[Any]


def encoded_splits(
    stored: Mapping[str, Array], where: str
) -> tuple[dict[str, Array], tuple[str, ...] | None]:
    """Return the labels of all splits as numbers (n,), and the names of the classes if they were stored as names.

    Names are numbered in the order of the alphabet, over all splits together; names that are whole numbers in their
    order as numbers.

    Args:
        stored: labels by split: (n,) numbers or names, (n, 1), or one-hot rows (n, C).
        where: the data set, for messages.

    Raises:
        InputError: several labels per sample, rows that are not one-hot, names beside numbers.
    """
    flat = {split: _flat(np.asarray(labels), f"{where}, {split}") for split, labels in stored.items()}
    are_names = {split: labels.dtype.kind in "US" for split, labels in flat.items()}
    if not any(are_names.values()):
        return flat, None
    if not all(are_names.values()):
        one = next(split for split, is_name in are_names.items() if not is_name)
        raise InputError(
            f"{where}: labels of {one} are numbers, those of another split are names; use one of them"
        )
    names = np.unique(np.concatenate(list(flat.values())))
    if all(name.isdecimal() for name in names.tolist()):
        names = np.array(sorted(names.tolist(), key=int))
    number = {name: label for label, name in enumerate(names.tolist())}
    coded = {
        split: np.array([number[name] for name in labels.tolist()], np.int64)
        for split, labels in flat.items()
    }
    return coded, tuple(map(str, names.tolist()))


def _flat(labels: Array, where: str) -> Array:
    """Return labels (n,), numbers or text."""
    if labels.dtype.kind == "O":
        labels = _plain(labels, where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "backslashreplace")
    return _classes_of_rows(labels, where) if labels.ndim == 2 else labels


def _plain(labels: Array, where: str) -> Array:
    """Return objects, as columns of tables have them, as an array of text or numbers."""
    values = labels.tolist()
    missing = next((row for row, value in enumerate(values) if value is None or value != value), None)
    if missing is not None:
        raise InputError(f"{where}: row {missing} has no label; remove the row, or label it")
    if all(isinstance(value, str) for value in values):
        return np.array(values, dtype=np.str_)
    lengths = {len(value) if isinstance(value, list | tuple | np.ndarray) else 0 for value in values}
    if len(lengths) > 1:
        raise _several(where, "rows have different numbers of labels")
    try:
        return np.array([np.asarray(value) for value in values])
    except ValueError as error:
        raise InputError(f"{where}: labels are of several kinds; use whole numbers or names") from error


def _classes_of_rows(rows: Array, where: str) -> Array:
    """Return the class (n,) that each one-hot row (n, C) marks."""
    if rows.dtype.kind not in "iufb" or not np.isin(rows, (0, 1)).all():
        raise _several(where, f"labels have shape {rows.shape} and are no one-hot rows of 0 and 1")
    counts = (rows != 0).sum(axis=1)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        raise _several(
            where, f"{len(wrong)} rows do not mark one class; row {wrong[0]} marks {counts[wrong[0]]}"
        )
    return rows.argmax(axis=1)


def _several(where: str, problem: str) -> InputError:
    return InputError(
        f"{where}: {problem}; neural collapse is defined for one class per sample, not for several labels: choose one"
    )
