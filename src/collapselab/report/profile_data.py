"""What the page of a profile shows, as series by layer: taken from the dictionary before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from collapselab.metrics import BY_NAME, Metric

# Of a layer's within-class scatter: what each way of keeping it cannot say, and how a reader is told.
_WITHOUT = {
    "full": (
        {"class covariances"},
        "only the scatter of all classes together was kept there",
    ),
    "sketch": (
        {"covariance", "class covariances"},
        "only a sketch of the within-class scatter was kept there",
    ),
    "trace": (
        {"covariance", "class covariances", "top eigenvalue"},
        "only the trace of the within-class scatter was kept there",
    ),
}


@dataclass(frozen=True)
class ProfileData:
    """One profile, and that of the same network at initialisation.

    Attributes:
        profile: as `Profile.to_dict` gives it.
        initial: the same at initialisation, or None.
    """

    profile: dict[str, Any]
    initial: dict[str, Any] | None

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: no layers, or none that the network at initialisation shares.
        """
        if not self.layers:
            raise ValueError("the profile has no layers")
        if self.initial and not {layer["name"] for layer in self.initial["layers"]} & set(self.layers):
            raise ValueError("the profile at initialisation is of other layers")

    @property
    def layers(self) -> list[str]:
        return [layer["name"] for layer in self.profile["layers"]]

    @property
    def depths(self) -> list[int]:
        return [layer["depth"] for layer in self.profile["layers"]]

    @property
    def splits(self) -> list[str]:
        return [split for split in ("train", "test") if split in self.profile["num_samples"]]

    @property
    def num_classes(self) -> int:
        return self.profile["num_classes"]

    @property
    def epsilon(self) -> float:
        return self.profile["epsilon"]

    @property
    def first_collapsed(self) -> str | None:
        return self.profile["first_collapsed_layer"]

    @property
    def first_collapsed_depth(self) -> int | None:
        first = self.first_collapsed
        return None if first is None else self.depths[self.layers.index(first)]

    def values(self, metric: str, split: str = "train", *, at_start: bool = False) -> pd.Series:
        """A metric by layer; NaN where it is null, was not measured, or where there is no such split.

        Args:
            metric: its name.
            split: `train` or `test`.
            at_start: of the network at initialisation, whose layers are found by their names.
        """
        source = self.initial if at_start else self.profile
        found = {
            layer["name"]: layer.get(split, {}).get(metric) for layer in (source or {"layers": []})["layers"]
        }
        return pd.Series([found.get(name) for name in self.layers], index=self.layers, dtype="float64")

    def weight_singular_values(self, most: int) -> pd.DataFrame:
        """The largest of each layer: a column per layer with a weight, rows by rank from 1."""
        columns = {
            layer["name"]: pd.Series(layer["weight_singular_values"][:most], dtype="float64")
            for layer in self.profile["layers"]
            if layer.get("weight_singular_values")
        }
        table = pd.DataFrame(columns)
        table.index = pd.RangeIndex(1, len(table) + 1, name="rank")
        return table

    def numbers(self, split: str, *, at_start: bool = False) -> pd.DataFrame:
        """Every metric that any layer has, as rows in the order of the catalogue; layers as columns."""
        rows = {name: self.values(name, split, at_start=at_start) for name in BY_NAME}
        kept = {name: values for name, values in rows.items() if values.notna().any()}
        return pd.DataFrame(kept, index=self.layers).T.reset_index(names="metric")

    def gaps(self, metrics: Sequence[str]) -> str:
        """Where these metrics have no value on train data, and why; empty if they have one everywhere."""
        reasons: dict[str, int] = {}
        for layer in self.profile["layers"]:
            missing = [name for name in metrics if layer["train"].get(name) is None]
            if missing:
                reason = _reason(layer["scatter"], [BY_NAME[name] for name in missing])
                reasons[reason] = reasons.get(reason, 0) + 1
        total = len(self.layers)
        return " ".join(
            f"No value at {'any layer' if count == total else f'{count} of {total} layers'}: {reason}."
            for reason, count in reasons.items()
        )


def _reason(scatter: str, metrics: Sequence[Metric]) -> str:
    lacks, words = _WITHOUT.get(scatter, (set(), ""))
    if any(metric.needs & lacks for metric in metrics):
        return words
    if any("weight" in metric.needs for metric in metrics):
        return "there is no weight to compare with, or the value is undefined there (see the warnings)"
    return "it was not measured, or is undefined there (see the warnings)"
