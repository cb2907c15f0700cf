"""Rows of a run: measurements of one layer on one split at one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    metrics: Values = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values, without what is empty or false."""
        named = super().to_json().items()
        return {name: value for name, value in named if value not in ([], {}) and value is not False}


class MeasuredRow(Row):
    """One line of measurements.jsonl; variances have references of the same step.

    Rows of the last layer also have numbers of the network itself: `loss`, `accuracy`, and on test data
    `weak_test_variance` where the recipe asks for it.

    Attributes:
        epoch: passes over the training data done.
        spectra: eigenvalues and singular values by name, largest first; empty unless they are kept.
        is_beside: whether lines over depth pass it by, see `Profile.layers_beside`.
    """

    epoch: float
    spectra: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    is_beside: bool = False


class FinalReferenceRow(Row):
    """One line of final_reference.jsonl, written when a run ends.

    Metrics are `train_variance_final` on train data; `strong_test_variance_final` and, at the last layer,
    `weak_test_variance_final` on test data.
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


@dataclass(frozen=True)
class NetworkNumbers:
    """Numbers of a network itself on one split, for the row of its last layer.

    Attributes:
        metrics: by name.
        warnings: what is unusual about them.
    """

    metrics: Values
    warnings: tuple[str, ...] = ()


def profile_rows(
    profile: Profile,
    step: int,
    epoch: float,
    *,
    spectra: bool = False,
    network: Mapping[str, NetworkNumbers] | None = None,
) -> Iterator[MeasuredRow]:
    """Yield the rows of a profile, layer by layer.

    Args:
        profile: of the network at this step.
        step: optimiser steps done.
        epoch: passes over the training data done.
        spectra: whether rows hold the profile's spectra and the singular values of the weights.
        network: by split, for the rows of the last layer.
    """
    beside = profile.layers_beside
    for layer in profile.layers:
        weights = {"weight_singular_values": layer.weight_singular_values}
        is_last = layer is profile.layers[-1]
        own = (network or {}) if is_last else {}
        for split, measured in layer.splits.items():
            more = own.get(split, NetworkNumbers(network_values(profile, split) if is_last else {}))
            kept = measured.spectra | (weights if layer.weight_singular_values else {}) if spectra else {}
            yield MeasuredRow.model_validate(
                {
                    "step": step,
                    "epoch": epoch,
                    "split": split,
                    "layer": layer.name,
                    "depth": layer.depth,
                    "metrics": measured.metrics | more.metrics,
                    "spectra": kept,
                    "warnings": measured.warnings + more.warnings,
                    "is_beside": layer.depth in beside,
                }
            )


def network_values(profile: Profile, split: str) -> Values:
    """Return loss and accuracy of a network as its profile has them; an infinite loss is None."""
    values = {"loss": profile.loss.get(split), "accuracy": profile.accuracy.get(split)}
    is_finite = {name: value is not None and math.isfinite(value) for name, value in values.items()}
    return (
        {name: value if is_finite[name] else None for name, value in values.items()}
        if profile.accuracy
        else {}
    )


def rows_table(rows: list[MeasuredRow]) -> pd.DataFrame:
    """Columns step, epoch, split, layer, depth, and one per metric; NaN or None where undefined."""
    names = ("step", "epoch", "split", "layer", "depth")
    return pd.DataFrame([{name: getattr(row, name) for name in names} | row.metrics for row in rows])


def fill_at_last_step(table: pd.DataFrame, *keys: str, step: str = "step") -> pd.DataFrame:
    """Return a table whose plain variances at each run's last step are those of `_final`, where they are missing.

    Both references agree there; schema 1 stored one of them.

    Args:
        table: with the columns of `VARIANCES` and their `_final`.
        keys: columns that tell one run from another; none for a single run.
        step: column of steps.
    """
    table = table.copy()
    last = table.groupby(list(keys), dropna=False)[step].transform("max") if keys else table[step].max()
    for name in VARIANCES:
        if name in table:
            table[name] = table[name].fillna(table[final(name)].where(table[step] == last))
    return table
