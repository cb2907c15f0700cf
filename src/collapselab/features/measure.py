"""Features in, a `Measurement` out: every metric of train and test features, or only the wanted ones."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from collapselab.checks import InputError
from collapselab.features.passes import ProgressCallback, SecondPass, Setting, inputs_of
from collapselab.features.sources import ArraySource, FeatureSource
from collapselab.metrics import BY_NAME, evaluate, select
from collapselab.metrics.registry import Number
from collapselab.statistics import WEIGHTINGS, Weighting


@dataclass(frozen=True)
class Measurement:
    """The metrics of one set of features, on train and, where given, on test data.

    Attributes:
        num_samples: training samples.
        num_classes: distinct training labels.
        dim: features per sample.
        weighting: of the covariances and the global mean.
        warnings: everything unusual that was met.
        splits: `train` and `test`, each metric by name; None where undefined or its input is missing.
        spectra: eigenvalues and singular values by split and name, largest first; empty unless asked for.
    """

    num_samples: int
    num_classes: int
    dim: int
    weighting: Weighting
    warnings: tuple[str, ...]
    splits: dict[str, dict[str, Number | None]]
    spectra: dict[str, dict[str, list[float]]]

    def __getitem__(self, name: str) -> Number | None:
        """The train value of a metric, or its test value where it is defined on test only."""
        for values in self.splits.values():
            if name in values:
                return values[name]
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
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
        return out

    def to_frame(self) -> pd.DataFrame:
        """One row per metric, one column per split, NaN where undefined; with the value at full collapse."""
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

    def _repr_html_(self) -> str:
        """A table for notebooks; every string is escaped."""
        head = (
            f"<p>{self.num_samples} samples, {self.num_classes} classes, {self.dim} features, "
            f"{html.escape(self.weighting)} weighting</p>"
        )
        table = self.to_frame().to_html(float_format=lambda value: f"{value:.4g}", na_rep="–", escape=True)
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return head + table + (f"<ul>{notes}</ul>" if notes else "")


def measure(
    features: Any,
    labels: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    predictions: Any = None,
    test: Sequence[Any] | Mapping[str, Any] | None = None,
    weighting: Weighting = "balanced",
    metrics: Iterable[str] | None = None,
    spectra: bool = False,
    rcond: float | None = None,
    product_dtype: torch.dtype | None = None,
) -> Measurement:
    """Every metric of neural collapse of the given features, or only the named ones at only their cost.

    Args:
        features: (n, p) training features: a tensor or array, or anything numpy makes one of.
        labels: (n,) non-negative whole numbers, contiguous or not.
        weight: (C, p) weight of the classifier, rows in the order of the sorted labels.
        bias: (C,) its bias.
        predictions: (n,) the network's decisions as labels; without them argmax(W h + b) is used.
        test: features and labels of test data, as `(features, labels)`, `(features, labels, predictions)` or a
            mapping with these names.
        weighting: `balanced` (every class counts the same, as in the papers) or `sample`.
        metrics: names; default all. See `collapselab.metrics.METRICS`.
        spectra: also the eigenvalues of the covariances and the singular values of the weight.
        rcond: overrides the relative cut-offs of the pseudo-inverses of Sigma_B and Sigma_T.
        product_dtype: dtype of the covariance products. Default: the features' own; again in float64 where
            float32 proves too coarse for these features.

    Returns:
        A `Measurement`: `splits`, `to_frame()`, `to_dict()`; notebooks show it as a table.

    Raises:
        InputError: input that does not fit together, in one line that says what to do.

    Example:
        >>> import torch
        >>> labels = torch.arange(3).repeat_interleave(20)
        >>> features = torch.eye(3, 8)[labels] + 1e-3 * torch.randn(60, 8, generator=torch.manual_seed(0))
        >>> result = measure(features, labels, metrics=["normalized_within", "etf_distance"])
        >>> result.splits["train"]["normalized_within"] < 1e-4
        True
    """
    train = ArraySource(features, labels, predictions=predictions, weight=weight, bias=bias, where="train")
    return measure_sources(
        train,
        None if test is None else _test_source(test),
        weighting=weighting,
        metrics=metrics,
        spectra=spectra,
        rcond=rcond,
        product_dtype=product_dtype,
    )


def _test_source(test: Sequence[Any] | Mapping[str, Any]) -> ArraySource:
    names = ("features", "labels", "predictions")
    fits = isinstance(test, Mapping) or len(test) <= len(names)
    arrays = dict(test) if isinstance(test, Mapping) else dict(zip(names, test, strict=False))
    if not fits or not {"features", "labels"} <= arrays.keys() <= set(names):
        raise InputError(
            "test: give (features, labels), (features, labels, predictions) or a mapping with these names; weight "
            "and bias are those of train"
        )
    return ArraySource(
        arrays["features"], arrays["labels"], predictions=arrays.get("predictions"), where="test"
    )


def measure_sources(
    train: FeatureSource,
    test: FeatureSource | None = None,
    *,
    weighting: Weighting = "balanced",
    metrics: Iterable[str] | None = None,
    spectra: bool = False,
    rcond: float | None = None,
    product_dtype: torch.dtype | None = None,
    progress: ProgressCallback | None = None,
) -> Measurement:
    """`measure` for features wherever they are; see there.

    Raises:
        InputError: input that does not fit together.
    """
    if weighting not in WEIGHTINGS:
        raise InputError(f"unknown weighting {weighting!r}; use balanced or sample")
    if rcond is not None and not 0 <= rcond < 1:
        raise InputError(f"rcond is {rcond}; it is a relative cut-off in [0, 1)")
    if metrics is not None:
        metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    wanted = {"train": select(metrics, "train"), "test": select(metrics, "test")}
    setting = Setting.of(train, test, weighting, spectra, rcond, product_dtype, progress)

    splits: dict[str, dict[str, Number | None]] = {}
    spectra_of: dict[str, dict[str, list[float]]] = {}
    warnings: list[str] = []
    train_means: Tensor | None = None
    for split, source in (("train", train), ("test", test)):
        if source is None:
            continue
        needs_train_means = test is not None and any(
            "second pass" in metric.needs for metric in wanted["test"]
        )
        for_test = split == "train" and needs_train_means
        if not (wanted[split] or spectra or for_test):
            splits[split] = {}
            continue
        inputs = inputs_of(split, source, wanted[split], setting, train_means)
        if for_test:
            train_means = inputs.class_means
        splits[split] = evaluate(wanted[split], inputs)
        if inputs.wants_float64_products and product_dtype is None:
            found = SecondPass(inputs.nearest_centre, inputs.top_class_eigenvalues, inputs.weak_test_variance)
            del inputs  # and its matrices, before those of the new one are made
            inputs = inputs_of(split, source, wanted[split], setting, train_means, found=found)
            splits[split] = evaluate(wanted[split], inputs)
        if spectra:
            spectra_of[split] = inputs.spectra()
        warnings += [f"{split}: {warning}" for warning in inputs.warnings]
    return Measurement(
        num_samples=len(train.labels),
        num_classes=len(setting.classes),
        dim=train.dim,
        weighting=weighting,
        warnings=tuple(dict.fromkeys(warnings)),
        splits={name: _finite(values) for name, values in splits.items()},
        spectra=spectra_of,
    )


def _finite(values: dict[str, Number | None]) -> dict[str, Number | None]:
    """Null for whatever is not a finite number: JSON has no other way to say it."""
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in values.items()
    }
