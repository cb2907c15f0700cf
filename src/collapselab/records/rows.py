"""Rows of a run: what was measured of one layer on one split at one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pandas as pd
from pydantic import Field, JsonValue

from collapselab.probes import Profile
from collapselab.records.stored import Versioned

Split = Literal["train", "test"]
Values = dict[str, int | float | None]
VARIANCES = ("train_variance", "strong_test_variance", "weak_test_variance")


def final(name: str) -> str:
    """Name of a variance over the references of the last step."""
    return f"{name}_final"


class Row(Versioned):
    """What both kinds of rows have.

    Attributes:
        step: optimiser steps done.
        layer: name; features are what it reads.
        depth: 0 for the first layer, largest for the classifier.
        metrics: by name; None where undefined.
        warnings: everything unusual.
    """

    step: int
    split: Split
    layer: str
    depth: int
    metrics: Values
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values, without what is empty."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in ([], {})}


class MeasuredRow(Row):
    """One line of measurements.jsonl; variances have references of the same step.

    Attributes:
        epoch: passes over the training data done.
        spectra: eigenvalues and singular values by name, largest first; empty unless they are kept.
    """

    epoch: float
    spectra: dict[str, tuple[float, ...]] = Field(default_factory=dict)


class FinalReferenceRow(Row):
    """One line of final_reference.jsonl, written when a run ends.

    `train_variance_final`, `strong_test_variance_final` and, at the last layer, `weak_test_variance_final` have
    references of the last step; `weak_test_variance` has k-means centres of its own step.
    """

    @classmethod
    def _from_schema_1(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Names did not say that references are those of the last step."""
        metrics = values.get("metrics")
        if isinstance(metrics, dict):
            values["metrics"] = {
                final(name) if name in VARIANCES else name: value for name, value in metrics.items()
            }
        return values


def profile_rows(
    profile: Profile,
    step: int,
    epoch: float,
    *,
    spectra: bool = False,
    network: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[MeasuredRow]:
    """Yield the rows of a profile, layer by layer.

    Args:
        profile: of the network at this step.
        step: optimiser steps done.
        epoch: passes over the training data done.
        spectra: whether rows hold the profile's spectra and the singular values of the weights.
        network: by split, numbers of the network itself (loss, accuracy), for the rows of the last layer.
    """
    for layer in profile.layers:
        weights = {"weight_singular_values": layer.weight_singular_values}
        for split, measured in layer.splits.items():
            is_last = layer is profile.layers[-1]
            more = (network or {}).get(split, {}) if is_last else {}
            kept = measured.spectra | (weights if layer.weight_singular_values else {}) if spectra else {}
            yield MeasuredRow.model_validate(
                {
                    "step": step,
                    "epoch": epoch,
                    "split": split,
                    "layer": layer.name,
                    "depth": layer.depth,
                    "metrics": {**measured.metrics, **more},
                    "spectra": kept,
                    "warnings": measured.warnings,
                }
            )


def rows_table(rows: list[MeasuredRow]) -> pd.DataFrame:
    """Columns step, epoch, split, layer, depth, and one per metric; NaN or None where undefined."""
    names = ("step", "epoch", "split", "layer", "depth")
    return pd.DataFrame([{name: getattr(row, name) for name in names} | row.metrics for row in rows])
