"""Rows by what they have in common. The one place that works around what pandas' types do not say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd


def groups(rows: pd.DataFrame, *names: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The rows that share a value of one column, or a tuple of values of several, in order of appearance."""
    for key, part in rows.groupby(names[0] if len(names) == 1 else list(names), sort=False):
        yield key, pd.DataFrame(part)


def last_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of what the classifier reads, in order of steps."""
    return pd.DataFrame(rows[rows["is_last"].astype(bool)]).sort_values("step", kind="stable")


def where(rows: pd.DataFrame, name: str, value: object) -> pd.DataFrame:
    """Rows with this value in a column."""
    return pd.DataFrame(rows[rows[name] == value])


def numbers(rows: pd.DataFrame, name: str) -> list[float]:
    """A column as plain numbers."""
    return [float(value) for value in rows[name].tolist()]


def only(rows: pd.DataFrame, name: str) -> float:
    """A column of the one row there is; NaN where there is none."""
    return numbers(rows, name)[0] if len(rows) else math.nan


def least(*values: float) -> float | None:
    """The smallest of several margins; None where one of them is not measured."""
    return min(values) if all(math.isfinite(value) for value in values) else None
