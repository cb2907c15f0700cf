"""The passes over one split's features that the wanted metrics need, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.checks import InputError, check_classifier
from collapselab.features.sources import FeatureSource
from collapselab.metrics import Metric, MetricInputs, NearestCentreCounts
from collapselab.metrics.decision import nearest_centre_rule, network_rule
from collapselab.metrics.generalization import (
    fit_weak_reference,
    kmeans_sampled,
    kmeans_undefined,
    sample_rows,
    squared_distances_to_nearest,
)
from collapselab.metrics.registry import Need
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES, top_eigenvalues_of_rows
from collapselab.statistics import ClassStats, Scatter, Weighting

# (what is being done, samples done, samples in all)
ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Setting:
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
    ) -> Setting:
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


class SecondPass(NamedTuple):
    """What does not depend on how covariance products are taken."""

    nearest_centre: NearestCentreCounts | None
    top_class_eigenvalues: Tensor | None
    weak_test_variance: float | None


def inputs_of(
    split: str,
    source: FeatureSource,
    metrics: Sequence[Metric],
    setting: Setting,
    train_means: Tensor | None,
    *,
    found: SecondPass | None = None,
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
    split: str, source: FeatureSource, labels: Tensor, needs: set[Need], setting: Setting, *, exact: bool
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
    split: str, source: FeatureSource, means: Tensor, decisions: bool, setting: Setting
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


def _weak_variance(split: str, source: FeatureSource, inputs: MetricInputs, setting: Setting) -> float | None:
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
