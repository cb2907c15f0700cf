"""The result of `profile`: its numbers, as a dictionary, a table or HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.metrics import BY_NAME
from collapselab.metrics.registry import Number
from collapselab.statistics import Weighting


@dataclass(frozen=True)
class SplitProfile:
    """One layer on one split.

    Attributes:
        metrics: each by name; None where undefined or not kept.
        counts: samples of each class, over the classes of the train split.
        class_means: (C, p), float64; NaN where the split lacks a class.
        class_variances: (C,), mean squared distance of each class from its mean.
        spectra: eigenvalues by name, largest first; empty unless asked for.
        warnings: everything unusual.
    """

    metrics: dict[str, Number | None]
    counts: Int[Tensor, " c"] = field(repr=False)
    class_means: Float[Tensor, "c p"] = field(repr=False)
    class_variances: Float[Tensor, " c"] = field(repr=False)
    spectra: dict[str, list[float]] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class LayerProfile:
    """One probe point: what a layer reads, and the weight that reads it.

    Attributes:
        name: of the module; of its second call in one forward pass `name#2`.
        depth: 0 for the first layer that the forward pass reaches, largest for the classifier.
        shape: of what the layer reads, without the batch.
        dim: features per sample after the reduction.
        scatter: which part of the within-class scatter was stored: with `per_class` and `full` every metric is exact,
            with `sketch` and `trace` metrics of a whole covariance are undefined.
        splits: `train` and, where given, `test`.
        weight_singular_values: the largest, at least C of them where there are as many; empty without weight.
    """

    name: str
    depth: int
    shape: tuple[int, ...]
    dim: int
    scatter: str
    splits: dict[str, SplitProfile]
    weight_singular_values: tuple[float, ...] = field(default=(), repr=False)

    @property
    def train(self) -> dict[str, Number | None]:
        return self.splits["train"].metrics

    @property
    def test(self) -> dict[str, Number | None]:
        return self.splits["test"].metrics if "test" in self.splits else {}


@dataclass(frozen=True)
class Profile:
    """Every property of neural collapse at every layer of a network.

    Attributes:
        model: what was measured.
        layers: in order of depth.
        first_collapsed_layer: the first from which train `normalized_within` stays below `epsilon` to the end;
            None where the last layer has not collapsed.
        weighting: of the covariances, as it was in the end.
        epsilon: below this a layer is collapsed.
        num_samples: by split.
        classes: labels of the train split, sorted; rows of class means follow them.
        reduction: of features with more than one axis.
        warnings: everything unusual, each once with the layers that it concerns.
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

    def __getitem__(self, name: str) -> LayerProfile:
        """The layer of this name.

        Raises:
            KeyError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; there are {', '.join(layer.name for layer in self.layers)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {
            "model": self.model,
            "num_samples": self.num_samples,
            "num_classes": len(self.classes),
            "weighting": self.weighting,
            "reduction": self.reduction,
            "epsilon": self.epsilon,
            "layers": [_layer_dict(layer) for layer in self.layers],
            "first_collapsed_layer": self.first_collapsed_layer,
            "warnings": list(self.warnings),
        }

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

    def _repr_html_(self) -> str:
        """A table for notebooks; every string is escaped."""
        first = self.first_collapsed_layer
        where = f"collapsed from {html.escape(first)} on" if first else "not collapsed"
        head = (
            f"<p>{html.escape(self.model)}: {where} (share of variance within classes below {self.epsilon:g} on "
            "train)</p>"
        )
        frame = self.to_frame().set_index(["depth", "layer", "split"])
        shown = [name for name in _SHOWN if name in frame.columns]
        table = frame[shown].to_html(float_format=lambda value: f"{value:.4g}", na_rep="–", escape=True)
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return head + table + (f"<ul>{notes}</ul>" if notes else "")


# The metrics of the table in notebooks; files and frames have all.
_SHOWN = (
    "normalized_within", "vci", "cdnv", "equinorm", "equiangularity", "etf_distance", "alignment", "alignment_random",
    "ncc_agreement", "ncc_accuracy", "stable_rank",
)  # fmt: skip


def _layer_dict(layer: LayerProfile) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": layer.name,
        "depth": layer.depth,
        "shape": list(layer.shape),
        "dim": layer.dim,
        "scatter": layer.scatter,
    }
    out |= {split: dict(measured.metrics) for split, measured in layer.splits.items()}
    if layer.weight_singular_values:
        out["weight_singular_values"] = list(layer.weight_singular_values)
    spectra = {split: measured.spectra for split, measured in layer.splits.items() if measured.spectra}
    return out | ({"spectra": spectra} if spectra else {})


def first_collapsed(names: list[str], shares: list[Number | None], epsilon: float) -> str | None:
    """Return the first layer from which the share of variance within classes stays below epsilon to the end.

    Args:
        names, shares: in order of depth; an undefined share is not collapsed.
    """
    first = None
    for name, share in zip(reversed(names), reversed(shares), strict=True):
        if share is None or not share < epsilon:
            break
        first = name
    return first


def joined_warnings(by_place: list[tuple[str, str]]) -> list[str]:
    """Return each warning once, with the places that it concerns.

    Args:
        by_place: place (`train conv1`) and text of each warning, in order.
    """
    places: dict[str, list[str]] = {}
    for place, text in by_place:
        places.setdefault(text, []).append(place)
    return [
        f"{', '.join(where[:3])}{f' and {len(where) - 3} more' if len(where) > 3 else ''}: {text}"
        for text, where in places.items()
    ]
