"""Features in, a `Measurement` out: which passes over the data the wanted metrics need, and nothing more."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from collapselab.checks import InputError, check_classifier
from collapselab.metrics import BY_NAME, Metric, MetricInputs, NearestCentreCounts, evaluate, select
from collapselab.metrics.decision import nearest_centre_rule, network_rule
from collapselab.metrics.generalization import (
    fit_weak_reference,
    kmeans_sampled,
    kmeans_undefined,
    sample_rows,
    squared_distances_to_nearest,
)
from collapselab.metrics.registry import Need, Number
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES, top_eigenvalues_of_rows
from collapselab.sources import ArraySource, FeatureSource
from collapselab.statistics import WEIGHTINGS, ClassStats, Scatter, Weighting

# (what is being done, samples done, samples in all)
ProgressCallback = Callable[[str, int, int], None]


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
    setting = _Setting.of(train, test, weighting, spectra, rcond, product_dtype, progress)

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
        inputs = _inputs_of(split, source, wanted[split], setting, train_means)
        if for_test:
            train_means = inputs.class_means
        splits[split] = evaluate(wanted[split], inputs)
        if inputs.wants_float64_products and product_dtype is None:
            found = _SecondPass(
                inputs.nearest_centre, inputs.top_class_eigenvalues, inputs.weak_test_variance
            )
            del inputs  # and its matrices, before those of the new one are made
            inputs = _inputs_of(split, source, wanted[split], setting, train_means, found=found)
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


@dataclass(frozen=True)
class _Setting:
    """What holds for all splits of one measurement."""

    classes: npt.NDArray[np.int64]
    weighting: Weighting
    weight: Tensor | None
    bias: Tensor | None
    spectra: bool
    rcond: float | None
    product_dtype: torch.dtype | None
    progress: ProgressCallback | None

    @classmethod
    def of(
        cls,
        train: FeatureSource,
        test: FeatureSource | None,
        weighting: Weighting,
        spectra: bool,
        rcond: float | None,
        product_dtype: torch.dtype | None,
        progress: ProgressCallback | None,
    ) -> _Setting:
        classes = np.unique(train.labels)
        if len(classes) < 2:
            raise InputError(
                f"{train.where}: all labels are {classes[0]}; neural collapse needs at least two classes"
            )
        check_classifier(train.weight, train.bias, num_classes=len(classes), dim=train.dim, where=train.where)
        train.check_classes(classes)
        if test is not None:
            if test.dim != train.dim:
                raise InputError(
                    f"{test.where}: {test.dim} features per sample, but train has {train.dim}; "
                    "both must come from the same layer"
                )
            unknown = np.setdiff1d(test.labels, classes)
            if len(unknown):
                count = int(np.isin(test.labels, unknown).sum())
                raise InputError(
                    f"{test.where}: {count} samples have labels that no training sample has, the first is "
                    f"{unknown[0]}; leave them out or add the class to train"
                )
            if len(np.unique(test.labels)) < 2:
                raise InputError(
                    f"{test.where}: all labels are {test.labels[0]}; neural collapse needs at least two classes"
                )
            test.check_classes(classes)
        return cls(
            classes=classes,
            weighting=weighting,
            weight=_as_float(train.weight),
            bias=_as_float(train.bias),
            spectra=spectra,
            rcond=rcond,
            product_dtype=product_dtype,
            progress=progress,
        )

    def index(self, labels: npt.NDArray[np.int64]) -> Tensor:
        """Class numbers 0 … C-1 of known labels."""
        return torch.from_numpy(np.searchsorted(self.classes, labels))

    def report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


def _as_float(array: npt.NDArray[np.generic] | None) -> Tensor | None:
    if array is None:
        return None
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


class _SecondPass(NamedTuple):
    """What does not depend on how covariance products are taken."""

    nearest_centre: NearestCentreCounts | None
    top_class_eigenvalues: Tensor | None
    weak_test_variance: float | None


def _inputs_of(
    split: str,
    source: FeatureSource,
    metrics: Sequence[Metric],
    setting: _Setting,
    train_means: Tensor | None,
    *,
    found: _SecondPass | None = None,
) -> MetricInputs:
    """Make the passes over one split that its metrics need.

    Args:
        train_means: class means of the train split, for the nearest-centre pass over test data.
        found: results of an earlier try, whose covariance products are now taken in float64.
    """
    needs: set[Need] = set().union(*(metric.needs for metric in metrics))
    labels = setting.index(source.labels)
    present = torch.bincount(labels, minlength=len(setting.classes)) > 0
    # A split's own statistics are over the classes it has.
    local = present.cumsum(0)[labels] - 1
    stats = _accumulate(split, source, local, needs, setting, exact=found is not None)
    inputs = MetricInputs(stats, weighting=setting.weighting, weight=setting.weight, rcond=setting.rcond)
    if not bool(present.all()):
        missing = setting.classes[~present.numpy()]
        inputs.warn(f"{len(missing)} of the training classes have no samples here, the first is {missing[0]}")
    single = int((stats.counts == 1).sum())
    if single:
        inputs.warn(f"{single} classes have one sample and so no variance within the class")
    if found is not None:
        inputs.nearest_centre = found.nearest_centre
        inputs.top_class_eigenvalues = found.top_class_eigenvalues
        inputs.weak_test_variance = found.weak_test_variance
        return inputs
    if "second pass" in needs:
        means = inputs.class_means if train_means is None else train_means
        inputs.nearest_centre = _nearest_centres(split, source, means, "decisions" in needs, setting)
    if "class covariances" in needs:
        inputs.top_class_eigenvalues = _class_eigenvalues(source, local, inputs)
    if "k-means" in needs:
        inputs.weak_test_variance = _weak_variance(split, source, inputs, setting)
    return inputs


def _accumulate(
    split: str, source: FeatureSource, labels: Tensor, needs: set[Need], setting: _Setting, *, exact: bool
) -> ClassStats:
    num_classes = int(labels.max()) + 1
    scatter: Scatter = "full" if setting.spectra or needs & {"covariance", "top eigenvalue"} else "trace"
    if "class covariances" in needs and scatter == "trace":
        scatter = "full"  # its rounding level comes with the scatter
    fits = num_classes * source.dim**2 <= MAX_PER_CLASS_ENTRIES
    if "class covariances" in needs and not source.in_memory and fits:
        scatter = "per_class"
    n = len(labels)
    # With p >= n - 1 every eigenvalue beyond rank n - 1 is rounding: it must be float64 rounding.
    exact = exact or source.dim >= n - 1
    stats = ClassStats(
        num_classes,
        source.dim,
        scatter,
        class_counts=torch.bincount(labels) if setting.weighting == "balanced" else None,
        product_dtype=torch.float64 if exact else setting.product_dtype,
    )
    done = 0
    for block in source.blocks():
        # In pieces, so that progress moves.
        for features, piece in zip(
            block.features.split(2**16), labels[done : done + len(block.labels)].split(2**16), strict=True
        ):
            stats.update(features, piece)
            done += len(piece)
            setting.report(f"{split}: class statistics", done, n)
    return stats


def _nearest_centres(
    split: str, source: FeatureSource, means: Tensor, decisions: bool, setting: _Setting
) -> NearestCentreCounts:
    correct = agreeing = done = 0
    known = decisions and (source.has_predictions or setting.weight is not None)
    nearest_to = nearest_centre_rule(means)
    decide = None
    if known and setting.weight is not None and not source.has_predictions:
        decide = network_rule(setting.weight, setting.bias)
    for block in source.blocks():
        decided = None
        if known and block.predictions is not None:
            decided = setting.index(block.predictions)
        labels = setting.index(block.labels)
        for start in range(0, len(labels), 2**16):
            rows = slice(start, start + 2**16)
            features = block.features[rows]
            nearest = nearest_to(features).cpu()
            correct += int((nearest == labels[rows]).sum())
            if known:
                other = decided[rows] if decided is not None else decide(features).cpu()  # pyright: ignore[reportOptionalCall] one of the two is known
                agreeing += int((nearest == other).sum())
            done += len(nearest)
            setting.report(f"{split}: nearest class centres", done, len(source.labels))
    return NearestCentreCounts(done, correct, agreeing if known else None)


def _class_eigenvalues(source: FeatureSource, labels: Tensor, inputs: MetricInputs) -> Tensor | None:
    if source.in_memory:
        (block,) = source.blocks()
        return top_eigenvalues_of_rows(block.features, labels, inputs.class_means)
    return None


def _weak_variance(
    split: str, source: FeatureSource, inputs: MetricInputs, setting: _Setting
) -> float | None:
    n, num_centres = len(source.labels), len(setting.classes)
    chosen = sample_rows(n)
    if chosen is not None:
        inputs.warn(kmeans_sampled(n))
    rows, start = [], 0
    for block in source.blocks():
        stop = start + len(block.labels)
        here = slice(None)
        if chosen is not None:
            here = chosen[(chosen >= start) & (chosen < stop)] - start
        rows.append(block.features[here].clone() if not source.in_memory else block.features[here])
        start = stop
    setting.report(f"{split}: k-means", 0, n)
    reference = fit_weak_reference(torch.cat(rows) if len(rows) > 1 else rows[0], num_centres)
    del rows
    if reference is None:
        inputs.warn(kmeans_undefined(num_centres))
        return None
    total, done = 0.0, 0
    for block in source.blocks():
        total += float(squared_distances_to_nearest(block.features, reference).sum())
        done += len(block.labels)
        setting.report(f"{split}: k-means", done, n)
    return inputs.ratio(total / n, reference.spread, "weak_test_variance", "all k-means centres coincide")


def _finite(values: dict[str, Number | None]) -> dict[str, Number | None]:
    """Null for whatever is not a finite number: JSON has no other way to say it."""
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in values.items()
    }
