"""The rows of a run as a table of curves: one row per step and layer, as rows.csv of an experiment holds them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from collapselab.errors import InputError
from collapselab.records.experiment import Label
from collapselab.records.rows import Row, fill_at_last_step
from collapselab.records.rows_csv import CURVE_COLUMNS
from collapselab.records.run_folder import RunFolder

_PLACE = ("step", "epoch", "layer", "depth", "is_last")

_Record = dict[str, Label | None]


def run_curve(folder: RunFolder, labels: Mapping[str, Label | None]) -> pd.DataFrame:
    """Return what a run measured, at every measured step and layer, in this order.

    Args:
        folder: of the run.
        labels: columns with the same value in every row.

    Returns:
        The labels; step, epoch, layer, depth, is_last (the layer is the classifier); the three variances with references
        of the same step and, with `_final`, of the last step (weak test variance at the last layer only); in rows of the
        last layer train_loss, test_loss, train_accuracy, test_accuracy of the network itself; normalized_within on train
        data. NaN where not measured.

    Raises:
        InputError: rows are damaged or missing.
    """
    measured = folder.read_rows()
    last = max((row.depth for row in measured), default=0)
    by_place: dict[tuple[int, str], _Record] = {}
    for row in measured:
        place = {"step": row.step, "epoch": row.epoch, "layer": row.layer, "depth": row.depth}
        held = by_place.setdefault((row.step, row.layer), {**labels, **place, "is_last": row.depth == last})
        held.update(_values(row))
    for row in folder.read_final_reference():
        if (row.step, row.layer) not in by_place:
            raise InputError(
                f"{folder.path}: rows of step {row.step} are gone from measurements.jsonl; restore that file, or remove "
                "the folder so that it is run again"
            )
        by_place[row.step, row.layer].update(_values(row))
    table = pd.DataFrame(list(by_place.values()), columns=[*labels, *_PLACE, *CURVE_COLUMNS])
    return fill_at_last_step(table.astype(dict.fromkeys(CURVE_COLUMNS, "float64"))).sort_values(
        ["step", "depth"]
    )


def _values(row: Row) -> _Record:
    """Return the columns that a stored row fills."""
    named = {f"{row.split}_{name}" if name in ("loss", "accuracy") else name: name for name in row.metrics}
    return {
        column: row.metrics[name]
        for column, name in named.items()
        if column in CURVE_COLUMNS and (column != "normalized_within" or row.split == "train")
    }
