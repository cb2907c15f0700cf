"""`measure`: from features that exist already to a `Measurement` of every metric, or only of the requested ones.

Letters: n samples, p features, c classes, k labels of both splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from collapselab.checks import check_classifier
from collapselab.errors import InputError
from collapselab.features.from_stats import StatsSource, StatsSplit, common_weighting
from collapselab.features.measurement import Measurement
from collapselab.features.sources import ArraySource, FeatureSource
from collapselab.features.stream import FEATURES, Classifier, SourceStream, only_point
from collapselab.metrics import BY_NAME, Metric, select
from collapselab.metrics.per_class import class_details
from collapselab.metrics.registry import MATRICES, Need
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES
from collapselab.names import check_names
from collapselab.passes import (
    MeasuredSplit,
    PointWeight,
    ProgressCallback,
    SplitPlan,
    TrainReference,
    measure_split,
)
from collapselab.passes.estimate import Estimate
from collapselab.passes.labels import check_known, check_two_classes
from collapselab.statistics import WEIGHTINGS, ClassStats, Scatter, Weighting

# What is measured: features wherever they are, or their class statistics.
Source = FeatureSource | StatsSource

# What features come without, and what to do, by what metrics need.
_MISSING: dict[frozenset[Need], str] = {
    frozenset({"weight", "classifier"}): "no weight; add it",
    frozenset({"decisions"}): "neither weight nor predictions; add one of them",
}


def measure(
    features: Any,
    labels: Any = None,
    *,
    weight: Any = None,
    bias: Any = None,
    predictions: Any = None,
    test: ClassStats | Sequence[Any] | Mapping[str, Any] | None = None,
    weighting: Weighting = "balanced",
    metrics: Iterable[str] | None = None,
    spectra: bool = False,
    rcond: float | None = None,
    product_dtype: torch.dtype | None = None,
) -> Measurement:
    """Measure every metric of neural collapse of the given features, or compute only the requested metrics.

    Args:
        features: (n, p) training features: a tensor, an array, or anything that numpy can convert to an array. Or a
            `ClassStats` of them: metrics that need single samples, such as `ncc_accuracy`, then have no value.
        labels: (n,) non-negative whole numbers, not necessarily contiguous; None with a `ClassStats`.
        weight: (C, p) weight of the classifier, rows in the order of the sorted labels.
        bias: (C,) bias of the classifier.
        predictions: (n,) the network's decisions as labels; default argmax(W h + b).
        test: features and labels of test data, as `(features, labels)`, `(features, labels, predictions)` or a
            mapping with these names; or their `ClassStats`.
        weighting: `balanced` (every class counts the same, as in the papers) or `sample`.
        metrics: names; default all. See `collapselab.metrics.METRICS`.
        spectra: also return the eigenvalues of the covariances and the singular values of the weight.
        rcond: overrides the relative cut-offs of the pseudo-inverses of Sigma_B and Sigma_T.
        product_dtype: dtype of the covariance products. Default: that of the features, and float64 in a second pass
            where float32 proves too coarse. A `ClassStats` has its own.

    Returns:
        A `Measurement`: `train`, `test`, `to_frame()`, `to_dict()`; `print` and notebooks show it as a table.

    Raises:
        InputError: input that does not fit together, in one line that says what to do.

    Example:
        >>> import torch
        >>> labels = torch.arange(3).repeat_interleave(20)
        >>> features = torch.eye(3, 8)[labels] + 1e-3 * torch.randn(60, 8, generator=torch.manual_seed(0))
        >>> result = measure(features, labels, metrics=["normalized_within", "etf_distance"])
        >>> result.train["normalized_within"] < 1e-4
        True
    """
    if isinstance(features, ClassStats):
        if labels is not None or predictions is not None:
            raise InputError(
                "train: a ClassStats has its own labels and takes no predictions; leave them out"
            )
        train = StatsSource(features, weight, bias, where="train")
    else:
        train = ArraySource(
            features, labels, predictions=predictions, weight=weight, bias=bias, where="train"
        )
    return measure_sources(
        train,
        None if test is None else _test_source(test),
        weighting=weighting,
        metrics=metrics,
        spectra=spectra,
        rcond=rcond,
        product_dtype=product_dtype,
    )


def _test_source(test: ClassStats | Sequence[Any] | Mapping[str, Any]) -> ArraySource | StatsSource:
    if isinstance(test, ClassStats):
        return StatsSource(test, where="test")
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
    train: Source,
    test: Source | None = None,
    *,
    weighting: Weighting = "balanced",
    metrics: Iterable[str] | None = None,
    spectra: bool = False,
    rcond: float | None = None,
    product_dtype: torch.dtype | None = None,
    progress: ProgressCallback | None = None,
) -> Measurement:
    """Measure features wherever they are: see `measure`.

    Raises:
        InputError: input that does not fit together.
    """
    check_names([weighting], WEIGHTINGS, "weighting")
    if rcond is not None and not 0 <= rcond < 1:
        raise InputError(f"rcond={rcond}: give a relative cut-off in [0, 1)")
    if metrics is not None:
        metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    wanted = {split: select(metrics, split) for split in ("train", "test")}
    streams, classifier = _checked_streams(train, test)
    weighting, problems = common_weighting(streams, weighting)
    point, weight = only_point(train.dim), PointWeight(classifier.weight)
    plans = {
        split: SplitPlan(
            points=(point,),
            weights={FEATURES: weight},
            metrics=wanted[split],
            scatter={FEATURES: _scatter(wanted[split], stream, point.dim, spectra=spectra)},
            weighting=weighting,
            spectra=spectra,
            rcond=rcond,
            product_dtype=product_dtype,
        )
        for split, stream in streams.items()
    }
    measured = _measure(
        streams, plans, progress or Estimate(shorter="fewer metrics (metrics=) or samples make it shorter")
    )
    return Measurement(
        num_samples=int(streams["train"].declared_counts.sum()),
        num_classes=len(streams["train"].present),
        dim=train.dim,
        weighting=weighting,
        warnings=(
            *problems,
            *_warnings(measured),
            *([] if metrics is None else _missing_inputs(measured, weight)),
        ),
        splits={split: measured[split].metrics[FEATURES] if split in measured else {} for split in streams},
        spectra={split: found.spectra[FEATURES] for split, found in measured.items() if found.spectra},
        class_details={split: _class_details(found, streams[split]) for split, found in measured.items()},
    )


def _class_details(found: MeasuredSplit, stream: SourceStream | StatsSplit) -> pd.DataFrame:
    stats, labels = found.stats[FEATURES], stream.label_values[found.classes]
    return class_details(stats.class_means, stats.class_variances).to_frame(
        labels.tolist(), found.counts[found.classes]
    )


def _classes(source: Source) -> npt.NDArray[np.int64]:
    return source.classes if isinstance(source, StatsSource) else np.unique(source.labels)


def _stream(
    split: str, source: Source, values: npt.NDArray[np.int64], classifier: Classifier
) -> SourceStream | StatsSplit:
    if isinstance(source, StatsSource):
        return StatsSplit(split, source, values)
    return SourceStream(split, source, values, classifier)


def _checked_streams(
    train: Source, test: Source | None
) -> tuple[dict[str, SourceStream | StatsSplit], Classifier]:
    """Return the splits as streams, and the classifier; features are read once everything else is checked.

    Raises:
        InputError: labels, predictions, the classifier or the widths of the splits do not fit together.
    """
    classes = _classes(train)
    values = classes if test is None else np.union1d(classes, _classes(test))
    present = torch.from_numpy(classes)
    check_two_classes(torch.ones_like(present), present, train.where)
    weight, bias = train.classifier()
    classifier = Classifier(weight, bias)
    streams = {"train": _stream("train", train, values, classifier)}
    check_classifier(weight, bias, num_classes=len(classes), dim=train.dim, where=train.where)
    train.check_classes(classes)
    if test is not None:
        if test.dim != train.dim:
            raise InputError(
                f"{test.where}: {test.dim} features per sample, but train has {train.dim}; both must come from the "
                "same layer"
            )
        stream = streams["test"] = _stream("test", test, values, classifier)
        check_known(stream.declared_counts, streams["train"].present, stream.label_values, test.where)
        check_two_classes(stream.declared_counts, stream.label_values, test.where)
        test.check_classes(classes)
        test.load()
    train.load()
    return streams, classifier


def _scatter(
    metrics: Sequence[Metric], stream: SourceStream | StatsSplit, dim: int, *, spectra: bool
) -> Scatter:
    """Return the least scatter that the metrics need."""
    needs = frozenset().union(*(metric.needs for metric in metrics))
    fits = len(stream.label_values) * dim**2 <= MAX_PER_CLASS_ENTRIES
    if "class covariances" in needs and stream.in_memory is None and fits:
        return "per_class"
    # Per-class eigenvalues from rows in memory need the rounding level of the features, which comes with the scatter.
    return "full" if spectra or needs & MATRICES else "trace"


def _measure(
    streams: dict[str, SourceStream | StatsSplit], plans: dict[str, SplitPlan], progress: ProgressCallback
) -> dict[str, MeasuredSplit]:
    """Measure the splits for which anything is requested, and the train split if test data need its class means."""
    compared = "test" in plans and "second pass" in plans["test"].needs
    measured: dict[str, MeasuredSplit] = {}
    reference = None
    for split, plan in plans.items():
        if plan.metrics or plan.spectra or (split == "train" and compared):
            stream = streams[split]
            if isinstance(stream, StatsSplit):
                measured[split] = stream.measure(plan, reference)
            else:
                measured[split] = measure_split(stream, plan, reference, progress)
        if split == "train":
            means = measured[split].reference.class_means if compared else {}
            reference = TrainReference(streams[split].present, means)
    return measured


def _missing_inputs(measured: Mapping[str, MeasuredSplit], weight: PointWeight) -> Iterator[str]:
    """Say which metrics have no value because the features come without weight or predictions."""
    if weight.matrix is not None:
        return
    for split, found in measured.items():
        empty = [BY_NAME[name] for name, value in found.metrics[FEATURES].items() if value is None]
        for needs, remedy in _MISSING.items():
            names = [metric.name for metric in empty if metric.needs & needs]
            if names:
                yield f"{split}: no value for {', '.join(names)}, because the data contain {remedy}"


def _warnings(measured: Mapping[str, MeasuredSplit]) -> tuple[str, ...]:
    texts = [
        f"{split}: {text}"
        for split, found in measured.items()
        for text in (*found.warnings, *found.point_warnings[FEATURES])
    ]
    return tuple(dict.fromkeys(texts))
