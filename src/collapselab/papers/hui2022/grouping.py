"""Rows by what they have in common. The one place that works around what pandas' types do not say."""

from __future__ import annotations

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


def mean_by(rows: pd.DataFrame, by: str, name: str) -> dict[Any, float]:
    """The mean of a column for each value of another, ascending; values that are missing are left out."""
    return {
        key: float(pd.Series(numbers(part, name)).mean()) for key, part in groups(rows.sort_values(by), by)
    }
