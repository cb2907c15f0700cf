"""What callers pass as features and labels: arrays, tensors, tables and lists, of every kind that holds plain numbers.

Nothing is guessed: values that are masked, missing or not real numbers are refused, never counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from collapselab.checks import as_features, check_labels
from collapselab.errors import InputError, one_line

# Sparse features are measured as dense ones: up to this size they are converted.
MAX_DENSE_BYTES = 4 * 2**30
_REMEDY = "give a dense array or tensor of numbers"


def feature_matrix(value: Any, where: str) -> Tensor:
    """Return features (n, p) as a plain floating-point tensor, sharing memory if possible; values are not checked.

    Args:
        value: a tensor of any device and dtype (sparse, distributed and quantised ones are converted), an array, a data
            frame, a sparse matrix, or lists of numbers or tensors.
        where: name of the data in the message.

    Raises:
        InputError: masked or missing values; complex numbers, text, objects; not 2-D; empty; a sparse matrix that would
            be too large.
    """
    array = plain_array(value, "features", where)
    with _refusing(value, "features", where):
        return as_features(array, where)


def label_vector(value: Any, num_samples: int, where: str, what: str = "labels") -> npt.NDArray[np.int64]:
    """Return labels (n,) as int64.

    Args:
        value: whole numbers in any container that `feature_matrix` takes.
        num_samples: n.
        where: name of the data in the message.
        what: what the labels are, for the message.

    Raises:
        InputError: masked or missing values; another length or shape; text, fractions, negative numbers.
    """
    return check_labels(numpy_array(value, what, where), num_samples, where, what)


def numpy_array(value: Any, name: str, where: str) -> npt.NDArray[np.generic]:
    """Return `value` as a numpy array; floating-point dtypes that numpy lacks become float32, wider ones float64.

    Raises:
        InputError: masked or missing values, or nothing that is an array.
    """
    array = plain_array(value, name, where)
    if isinstance(array, Tensor):
        with _refusing(value, name, where):
            array = array.cpu()
            if array.is_floating_point() and array.dtype not in (torch.float32, torch.float64):
                array = array.float()  # numpy has no bfloat16 and no float8
            return array.resolve_conj().resolve_neg().numpy()
    # Types wider than float64 are not supported anywhere else.
    return array.astype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array


def plain_array(value: Any, name: str, where: str) -> Tensor | npt.NDArray[np.generic]:
    """Return a dense tensor without gradient, or an array without mask, of any dtype and shape.

    Raises:
        InputError: masked or missing values, or nothing that is an array.
    """
    with _refusing(value, name, where):
        if isinstance(value, Tensor):
            return _plain_tensor(value, name, where)
        if isinstance(value, pd.DataFrame | pd.Series | pd.Index):
            return _columns(value, name, where)
        if hasattr(value, "nnz") and hasattr(value, "toarray"):  # scipy's and other sparse matrices
            _check_dense(value.shape, np.dtype(value.dtype).itemsize, name, where)
            return np.asarray(value.toarray())
        if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            return torch.stack([_plain_tensor(part, name, where).cpu() for part in value])
        _refuse_masked(value, name, where)
        return np.asarray(value)


@contextmanager
def _refusing(value: Any, name: str, where: str) -> Iterator[None]:
    """Report any failure inside in one line: foreign containers raise what they like when they are converted."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{where}: {name} ({type(value).__name__}) cannot be read as numbers ({reason}); {_REMEDY}"
        ) from error


def _plain_tensor(value: Tensor, name: str, where: str) -> Tensor:
    if type(value).__name__ == "MaskedTensor":
        if not bool(value.get_mask().all()):  # pyright: ignore[reportAttributeAccessIssue]
            _refuse_rows(~value.get_mask(), "masked", name, where)  # pyright: ignore[reportAttributeAccessIssue]
        value = value.get_data()  # pyright: ignore[reportAttributeAccessIssue]
    tensor = value.detach()
    if hasattr(tensor, "full_tensor"):  # a DTensor: all of it, in every process
        tensor = tensor.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_meta or type(tensor).__name__ == "FakeTensor":
        raise InputError(
            f"{where}: {name} are on the meta device, which stores no values; give them on cpu or cuda"
        )
    if tensor.is_nested:
        raise InputError(f"{where}: {name} are a nested tensor; give one row of the same length per sample")
    if tensor.layout != torch.strided:
        _check_dense(tensor.shape, tensor.element_size(), name, where)
        tensor = tensor.to_dense()
    return tensor.as_subclass(Tensor)


def _columns(table: Any, name: str, where: str) -> npt.NDArray[np.generic]:
    """Return the values of a data frame, a series or an index, in the common dtype of its columns."""
    missing = np.asarray(pd.isna(table))
    if missing.any():
        _refuse_rows(missing, "missing", name, where)
    array = table.to_numpy()
    if array.dtype == object and isinstance(table, pd.DataFrame):
        # Columns of the dtypes of pandas itself become objects together, but not each alone.
        return np.column_stack([table.iloc[:, column].to_numpy() for column in range(table.shape[1])])
    return array


def _refuse_masked(value: Any, name: str, where: str) -> None:
    """Refuse what `numpy.asarray` would silently fill in.

    Raises:
        InputError: with the number of masked values and the first row.
    """
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
    elif isinstance(value, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in value):
        mask = np.stack([np.ma.getmaskarray(np.asanyarray(row)) for row in value])
    else:
        return
    if mask.any():
        _refuse_rows(mask, "masked", name, where)


def _refuse_rows(wrong: Tensor | npt.NDArray[np.bool_], what: str, name: str, where: str) -> None:
    by_row = np.asarray(wrong).reshape(len(wrong), -1).sum(axis=1) if np.ndim(wrong) else np.asarray([1])
    raise InputError(
        f"{where}: {int(by_row.sum())} values of {name} are {what}, the first in row {int(np.flatnonzero(by_row)[0])} "
        "(counting from 0); leave such rows out of features and labels"
    )


def _check_dense(shape: Sequence[int], itemsize: int, name: str, where: str) -> None:
    size = math.prod(shape) * itemsize
    if size > MAX_DENSE_BYTES:
        raise InputError(
            f"{where}: {name} are sparse, and dense ones of shape {tuple(shape)} take {size / 2**30:.0f} GiB; write dense "
            "shards of them to a folder and measure it, or reduce the number of features"
        )
