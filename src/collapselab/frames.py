"""Select rows of tables. Workarounds for incomplete type annotations of pandas are only here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


def rows_where(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows whose columns have these values, in their order."""
    for name, value in values.items():
        rows = pd.DataFrame(rows[rows[name] == value])
    return rows


def rows_that(rows: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """Return the rows for which a boolean mask (one entry per row) is true."""
    return pd.DataFrame(rows[np.asarray(mask, dtype=bool)])


def groups(rows: pd.DataFrame, *names: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Yield the rows that share a value of one column, or a tuple of values of several, in order of appearance."""
    for key, part in rows.groupby(names[0] if len(names) == 1 else list(names), sort=False, dropna=False):
        yield key, pd.DataFrame(part)


def numbers(rows: pd.DataFrame, name: str) -> list[float]:
    """Return a column as plain numbers; NaN where it is missing."""
    return [float(value) for value in rows[name].tolist()]


def finite(values: Iterable[int | float]) -> npt.NDArray[np.float64]:
    """Return the finite values."""
    array = np.asarray(list(values), dtype=np.float64)
    return array[np.isfinite(array)]


def last_rows(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Return the row of the largest step of every group that shares `keys`, in order of appearance."""
    return rows.loc[list(rows.groupby(list(keys), sort=False)["step"].idxmax())]


def last_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the layer that the classifier reads; all rows of a table without layers."""
    return rows_that(rows, rows["is_last"].astype(bool)) if "is_last" in rows else rows


def hidden_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of hidden layers; depth 0 is what the network reads."""
    return rows_that(rows, rows["depth"] >= 1)


def curve(
    run: pd.DataFrame, name: str, step: str = "step"
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the steps of one run in order, 0 without such a column, and the values of a column; NaN where it is missing."""
    steps = np.asarray(numbers(run, step) if step in run else np.zeros(len(run)), dtype=np.float64)
    values = np.asarray(numbers(run, name) if name in run else np.full(len(run), np.nan), dtype=np.float64)
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]
