"""`Measurement`: the metrics of one set of features, as numbers, tables and plots."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from collapselab.errors import printable_lines
from collapselab.metrics import BY_NAME
from collapselab.metrics.registry import Number
from collapselab.plotting import plotted
from collapselab.statistics import Weighting
from collapselab.tables import measurement_table
from collapselab.text import grouped


@dataclass(frozen=True, repr=False)
class Measurement:
    """The metrics of one set of features, on train and, where given, on test data.

    `print` shows them as a table.

    Attributes:
        num_samples: number of training samples.
        num_classes: number of distinct training labels.
        dim: features per sample.
        weighting: weighting of the covariances and the global mean.
        warnings: everything unusual.
        splits: for `train` and `test`, each metric by name; None where it is undefined or its input is missing.
        spectra: eigenvalues and singular values by split and name, largest first; empty unless requested.
        class_details: by split, a table with one row per class: label, num_samples, and the values of `ClassDetails` (which class
            has not collapsed, which other class it lies closest to). Not compared by `==`.
    """

    num_samples: int
    num_classes: int
    dim: int
    weighting: Weighting
    warnings: tuple[str, ...]
    splits: dict[str, dict[str, Number | None]]
    spectra: dict[str, dict[str, list[float]]]
    class_details: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def train(self) -> dict[str, Number | None]:
        """Each train metric by name."""
        return self.splits["train"]

    @property
    def test(self) -> dict[str, Number | None]:
        """Each test metric by name; empty without test data."""
        return self.splits.get("test", {})

    def __getitem__(self, name: str) -> Number | None:
        """Return the train value of a metric, or its test value if it is defined on test data only."""
        for values in self.splits.values():
            if name in values:
                return values[name]
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, ready for JSON."""
        out: dict[str, Any] = {
            "num_samples": self.num_samples,
            "num_classes": self.num_classes,
            "dim": self.dim,
            "weighting": self.weighting,
            "warnings": list(self.warnings),
            "splits": self.splits,
        }
        if self.spectra:
            out["spectra"] = self.spectra
        out["class_details"] = {
            split: {
                str(name): [_finite(value) for value in column.tolist()] for name, column in table.items()
            }
            for split, table in self.class_details.items()
        }
        return out

    def to_frame(self) -> pd.DataFrame:
        """Return one row per metric and one column per split, NaN where undefined, with the value at full collapse."""
        names = [name for name in BY_NAME if any(name in values for values in self.splits.values())]
        frame = pd.DataFrame(
            {split: [values.get(name) for name in names] for split, values in self.splits.items()},
            index=pd.Index(names, name="metric"),
            dtype="float64",
        )
        frame["at_collapse"] = pd.Series(
            [BY_NAME[name].at_collapse for name in names], index=frame.index, dtype="float64"
        )
        frame.insert(0, "family", [BY_NAME[name].family for name in names])
        return frame

    def __str__(self) -> str:
        """Return the table that `collapselab measure` prints."""
        return measurement_table(self).rstrip("\n")

    def __repr__(self) -> str:
        shape = f"{self.num_samples} samples, {self.num_classes} classes, {self.dim} features"
        return f"Measurement({shape}, {self.weighting} weighting, {' and '.join(self.splits)})"

    def plot(self, *names: str) -> list[Any]:
        """Draw values by class, and the spectra if there are some; needs matplotlib.

        Args:
            names: columns of `class_details`; default: relative_variance and closest_cdnv.

        Returns:
            The axes of one figure: `axes[0].figure.savefig("classes.pdf")`.
        """
        return plotted(self, names)

    def _repr_html_(self) -> str:
        """Return a table for notebooks; every string is escaped."""
        head = (
            f"<p>{self.num_samples} samples, {self.num_classes} classes, {self.dim} features, "
            f"{html.escape(self.weighting)} weighting</p>"
        )
        table = self.to_frame().to_html(float_format=lambda value: f"{value:.4g}", na_rep="–", escape=True)
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in grouped(self.warnings))
        return printable_lines(head + table + (f"<ul>{notes}</ul>" if notes else ""))


def _finite(value: Any) -> Number | None:
    """A number for JSON, which has neither infinity nor NaN."""
    return value if pd.notna(value) and abs(value) < np.inf else None
