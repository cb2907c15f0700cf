"""The result of `profile`: its numbers, as a dictionary, a table or HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.errors import InputError, one_line, printable_lines
from collapselab.metrics import BY_NAME
from collapselab.metrics.per_class import class_details
from collapselab.metrics.registry import Number
from collapselab.plotting import plotted
from collapselab.probes.summaries import LawOfSeparation, fit_law_of_separation, joined_warnings, parted_vci
from collapselab.statistics import Weighting
from collapselab.tables import profile_table
from collapselab.text import grouped, number, percent

SCHEMA = 2


@dataclass(frozen=True)
class SplitProfile:
    """One layer on one split.

    Attributes:
        metrics: value of each metric by name; None if undefined or not requested.
        counts: number of samples of each class of the train split; empty in profiles read from files of schema 1.
        class_means: (C, p), float64; NaN where the split lacks a class. None in a profile read from its dictionary.
        class_variances: (C,), mean squared distance of each class from its mean; None if `class_means` is None.
        spectra: eigenvalues by name, largest first; empty unless requested.
        warnings: everything unusual.

    Two profiles are equal if all of their fields are equal, class means and class variances excepted.
    """

    metrics: dict[str, Number | None]
    counts: Int[Tensor, " c"] = field(repr=False)
    class_means: Float[Tensor, "c p"] | None = field(default=None, repr=False)
    class_variances: Float[Tensor, " c"] | None = field(default=None, repr=False)
    spectra: dict[str, list[float]] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SplitProfile):
            return NotImplemented
        return self._compared() == other._compared()

    __hash__ = None  # pyright: ignore[reportAssignmentType] metrics are a dictionary

    def _compared(self) -> tuple[object, ...]:
        return self.metrics, self.counts.tolist(), self.spectra, self.warnings


# What each way of storing the within-class scatter lacks, and what was stored.
_WITHOUT: dict[str, tuple[frozenset[str], str]] = {
    "full": (frozenset({"class covariances"}), "the pooled scatter of all classes"),
    "sketch": (frozenset({"covariance", "class covariances"}), "a sketch of the within-class scatter"),
    "trace": (
        frozenset({"covariance", "class covariances", "top eigenvalue"}),
        "the trace of the within-class scatter",
    ),
}


@dataclass(frozen=True, repr=False)
class LayerProfile:
    """One probe point: the inputs of a layer, and the weight that multiplies them.

    Attributes:
        name: name of the module; for its second call in one forward pass, `name#2`.
        depth: 0 for the first layer that the forward pass reaches, largest for the classifier.
        shape: shape of the layer's input, without the batch axis.
        dim: features per sample after the reduction.
        scatter: which part of the within-class scatter was stored: with `rows` (samples that are fewer than features),
            `per_class` and `full` every metric is exact, with `sketch` and `trace` metrics of a whole covariance are undefined.
        splits: `train` and, where given, `test`.
        reduction: how its features became one row per sample; empty in older files.
        is_beside: whether it is a shortcut or on a parallel branch, not on the longest chain of layers.
        same_features_as: an earlier layer that reads the same features, as the first convolution of a block whose shortcut this is; empty
            if there is none.
        weight_singular_values: largest singular values of the weight, at least C of them if it has that many; empty
            without weight.
    """

    name: str
    depth: int
    shape: tuple[int, ...]
    dim: int
    scatter: str
    splits: dict[str, SplitProfile]
    weight_singular_values: tuple[float, ...] = field(default=(), repr=False)
    reduction: str = ""
    same_features_as: str = ""
    is_beside: bool = False

    @property
    def train(self) -> dict[str, Number | None]:
        return self.splits["train"].metrics

    @property
    def test(self) -> dict[str, Number | None]:
        return self.splits["test"].metrics if "test" in self.splits else {}

    def __repr__(self) -> str:
        return f"LayerProfile({self.name!r}, {self.dim} features, {' and '.join(self.splits)})"

    def why_missing(self, metrics: Iterable[str]) -> str:
        """Return why some of these metrics have no value on train data; empty if all of them have one."""
        needs = [BY_NAME[name].needs for name in metrics if self.train.get(name) is None]
        if not needs:
            return ""
        lacks, stored = _WITHOUT.get(self.scatter, (frozenset(), ""))
        if any(one & lacks for one in needs):
            return f"only {stored} was stored there"
        if any("weight" in one for one in needs):
            return "there is no weight to compare with, or the value is undefined (see the warnings)"
        return "it is undefined (see the warnings)"


@dataclass(frozen=True, repr=False)
class Profile:
    """Every property of neural collapse at every layer of a network.

    `print` shows it as a table.

    Attributes:
        model: name of the network.
        layers: in order of depth.
        first_collapsed_layer: the first from which train `normalized_within` stays below `epsilon` to the end;
            None where the last layer has not collapsed.
        weighting: weighting that was used for the covariances; it can differ from the requested one.
        epsilon: a layer is collapsed if its `normalized_within` on train data is below this.
        num_samples: number of samples of each split.
        classes: labels of the train split, sorted; rows of class means follow them.
        reduction: how features with more than one axis became vectors.
        warnings: everything unusual, one for each cause with the layers that it concerns; those of a layer are in its splits.
        loss: mean cross-entropy of the network's class scores on each split, in nats; empty if it has none. It can be
            infinite.
        accuracy: share of the samples of each split whose label has the highest class score; empty without class scores.
    """

    model: str
    layers: tuple[LayerProfile, ...]
    first_collapsed_layer: str | None
    weighting: Weighting
    epsilon: float
    num_samples: dict[str, int]
    classes: tuple[int, ...] = field(repr=False)
    reduction: str
    warnings: tuple[str, ...]
    loss: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LayerProfile:
        """The layer of this name.

        Raises:
            KeyError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; there are {', '.join(layer.name for layer in self.layers)}")

    def performance(self) -> str:
        """Return loss and accuracy of the network on each split in words; empty if it has no class scores."""
        if not self.accuracy:
            return ""
        accuracy = ", ".join(f"{percent(share)} on {split} data" for split, share in self.accuracy.items())
        loss = ", ".join(
            f"{number(value, 3, 'infinite')} on {split} data" for split, value in self.loss.items()
        )
        return f"Accuracy of the network: {accuracy}; cross-entropy: {loss}"

    @property
    def layers_beside(self) -> frozenset[int]:
        """Depths of shortcuts and of layers on parallel branches. A line over depth passes them by."""
        beside = frozenset(layer.depth for layer in self.layers if layer.is_beside)
        return beside or frozenset(layer.depth for layer in self.layers if layer.same_features_as)

    def law_of_separation(self, split: str = "train") -> LawOfSeparation:
        """Return the fit of an exponential decay of fuzziness over depth (He, Su 2022).

        Args:
            split: `train` or `test`.
        """
        measured = {layer.depth: layer.splits[split] for layer in self.layers if split in layer.splits}
        return fit_law_of_separation({at: one.metrics.get("fuzziness") for at, one in measured.items()})

    def class_details(self, layer: str | None = None, split: str = "train") -> pd.DataFrame:
        """Return one row per class at a layer: which class has not collapsed, and which other class it lies closest to.

        Columns: label, num_samples, and the values of `collapselab.metrics.per_class.ClassDetails`.

        Args:
            layer: name of the layer; default: the last one.
            split: `train` or `test`.

        Raises:
            KeyError: there is no such layer, or it was not measured on this split.
            ValueError: the profile was read from a dictionary, which has no class means.
        """
        measured = (self.layers[-1] if layer is None else self[layer]).splits[split]
        if measured.class_means is None or measured.class_variances is None:
            raise ValueError("no class means: read the profile from its folder with collapselab.read_profile")
        details = class_details(measured.class_means, measured.class_variances)
        return details.to_frame(self.classes, measured.counts)

    def plot(self, *metrics: str) -> list[Any]:
        """Draw metrics by layer, a panel per metric; needs matplotlib.

        Args:
            metrics: names; default: one for each property of neural collapse.

        Returns:
            The axes of one figure: `axes[0].figure.savefig("layers.pdf")`.
        """
        return plotted(self, metrics)

    def vci_warnings(self) -> list[str]:
        """Return where `vci` and `vci_adjusted` differ by more than 0.05, as warnings."""
        places = {
            f"{split} {layer.name}": measured.metrics
            for split in _SPLITS
            for layer in self.layers
            if (measured := layer.splits.get(split)) is not None
        }
        return joined_warnings(parted_vci(places))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, ready for JSON: all but class means and class variances."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "num_samples": dict(self.num_samples),
            "num_classes": len(self.classes),
            "classes": list(self.classes),
            "weighting": self.weighting,
            "reduction": self.reduction,
            "epsilon": self.epsilon,
            # JSON has no infinity; the loss is infinite where a probability is 0.
            "loss": {split: loss if math.isfinite(loss) else None for split, loss in self.loss.items()},
            "accuracy": dict(self.accuracy),
            "layers": [_layer_dict(layer) for layer in self.layers],
            "first_collapsed_layer": self.first_collapsed_layer,
            "law_of_separation": {split: asdict(self.law_of_separation(split)) for split in self.num_samples},
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: object) -> Profile:
        """Return the profile that `to_dict` described, without class means and class variances.

        Dictionaries of schema 1, which had no classes, counts or warnings by layer, are read too.

        Raises:
            InputError: the dictionary is not that of a profile, or was written by a newer version.
        """
        if not isinstance(values, Mapping):
            raise InputError("not a profile: no dictionary")
        schema = values.get("schema", 1)
        if schema not in (1, SCHEMA):
            raise InputError(f"a profile of schema {schema}, written by a newer version; upgrade collapselab")
        try:
            return cls(
                model=values["model"],
                layers=tuple(_layer(layer) for layer in values["layers"]),
                first_collapsed_layer=values["first_collapsed_layer"],
                weighting=values["weighting"],
                epsilon=float(values["epsilon"]),
                num_samples=dict(values["num_samples"]),
                classes=tuple(values.get("classes", range(values["num_classes"]))),
                reduction=values["reduction"],
                warnings=tuple(values["warnings"]),
                loss={
                    split: math.inf if loss is None else loss
                    for split, loss in values.get("loss", {}).items()
                },
                accuracy=dict(values.get("accuracy", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a profile: {type(error).__name__} {one_line(error)}") from error

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and split, one column per metric, NaN where undefined."""
        rows = [
            {"layer": layer.name, "depth": layer.depth, "split": split, "dim": layer.dim} | measured.metrics
            for layer in self.layers
            for split, measured in layer.splits.items()
        ]
        names = [name for name in BY_NAME if any(name in row for row in rows)]
        frame = pd.DataFrame(rows, columns=["layer", "depth", "split", "dim", *names])
        return frame.astype(dict.fromkeys(names, "float64"))

    def __str__(self) -> str:
        """Return the table that `collapselab profile` prints."""
        return profile_table(self).rstrip("\n")

    def __repr__(self) -> str:
        collapsed = self.first_collapsed_layer
        return (
            f"Profile({self.model}: {len(self.layers)} layers, {len(self.classes)} classes, "
            f"{' and '.join(self.num_samples)}, {f'collapsed from {collapsed} on' if collapsed else 'not collapsed'})"
        )

    def _repr_html_(self) -> str:
        """A table for notebooks; every string is escaped."""
        first = self.first_collapsed_layer
        where = f"collapsed from {html.escape(first)} on" if first else "not collapsed"
        head = (
            f"<p>{html.escape(self.model)}: {where} (within-class share of the variance below {self.epsilon:g} on "
            f"train). Law of separation on train: {html.escape(str(self.law_of_separation()))}. "
            f"{html.escape(self.performance())}</p>"
        )
        frame = self.to_frame().set_index(["depth", "layer", "split"])
        shown = [name for name in _SHOWN if name in frame.columns]
        table = frame[shown].to_html(float_format=lambda value: f"{value:.4g}", na_rep="–", escape=True)
        notes = "".join(
            f"<li>{html.escape(warning)}</li>" for warning in grouped([*self.warnings, *self.vci_warnings()])
        )
        return printable_lines(head + table + (f"<ul>{notes}</ul>" if notes else ""))


# The metrics of the table in notebooks; files and frames have all.
_SHOWN = (
    "normalized_within", "vci", "vci_adjusted", "cdnv", "equinorm", "equiangularity", "etf_distance", "alignment", "alignment_random",
    "ncc_agreement", "ncc_accuracy", "stable_rank",
)  # fmt: skip


_SPLITS = ("train", "test")


def _layer_dict(layer: LayerProfile) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": layer.name,
        "depth": layer.depth,
        "shape": list(layer.shape),
        "dim": layer.dim,
        "reduction": layer.reduction,
        "scatter": layer.scatter,
    }
    out |= {split: dict(measured.metrics) for split, measured in layer.splits.items()}
    out["counts"] = {split: measured.counts.tolist() for split, measured in layer.splits.items()}
    out["warnings"] = {split: list(measured.warnings) for split, measured in layer.splits.items()}
    if layer.same_features_as:
        out["same_features_as"] = layer.same_features_as
    if layer.is_beside:
        out["is_beside"] = True
    if layer.weight_singular_values:
        out["weight_singular_values"] = list(layer.weight_singular_values)
    spectra = {
        split: {name: list(values) for name, values in measured.spectra.items()}
        for split, measured in layer.splits.items()
        if measured.spectra
    }
    return out | ({"spectra": spectra} if spectra else {})


def _layer(values: Mapping[str, Any]) -> LayerProfile:
    return LayerProfile(
        name=values["name"],
        depth=values["depth"],
        shape=tuple(values["shape"]),
        dim=values["dim"],
        scatter=values["scatter"],
        splits={split: _split(values, split) for split in _SPLITS if split in values},
        weight_singular_values=tuple(values.get("weight_singular_values", ())),
        reduction=values.get("reduction", ""),
        same_features_as=values.get("same_features_as", ""),
        is_beside=values.get("is_beside", False),
    )


def _split(layer: Mapping[str, Any], split: str) -> SplitProfile:
    return SplitProfile(
        metrics=dict(layer[split]),
        counts=torch.tensor(layer.get("counts", {}).get(split, ()), dtype=torch.int64),
        spectra=dict(layer.get("spectra", {}).get(split, {})),
        warnings=tuple(layer.get("warnings", {}).get(split, ())),
    )
