"""Class statistics in place of features: measured without reading any row.

Letters: p features, c classes, k labels of both splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from collapselab.errors import InputError
from collapselab.features.arrays import numpy_array
from collapselab.features.sources import ClassifierArrays
from collapselab.features.stream import FEATURES
from collapselab.metrics.registry import Need
from collapselab.passes import MeasuredSplit, SplitPlan, TrainReference
from collapselab.passes.evaluation import Evaluation
from collapselab.passes.labels import label_warnings
from collapselab.passes.split import possible_weighting
from collapselab.statistics import WEIGHTINGS, ClassStats, Weighting
from collapselab.text import listed

# What only the features themselves answer, sample by sample.
_ROWS: frozenset[Need] = frozenset({"second pass", "k-means"})


class StatsSource:
    """The class statistics of one split, as a `ClassStats` has accumulated them.

    Args:
        stats: classes without samples are left out.
        weight: (C, p) weight of the classifier, one row for each class with samples, or for each class of `stats`.
        bias: (C,) its bias.
        where: name of the split in messages.

    Attributes:
        classes: (c,) class numbers with samples.
        in_memory: None: there are no rows.

    Raises:
        InputError: statistics without samples; a weight that is no array of numbers.
    """

    in_memory = None

    def __init__(self, stats: ClassStats, weight: Any = None, bias: Any = None, *, where: str) -> None:
        if not stats.has_samples:
            raise InputError(f"{where}: this ClassStats has seen no samples; update it first")
        self.stats, self.where, self.dim = stats, where, stats.dim
        self.counts = stats.counts.cpu()
        self.classes = (self.counts > 0).nonzero()[:, 0].numpy()
        self._classifier = self._of_present(weight, "weight"), self._of_present(bias, "bias")

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    def classifier(self) -> ClassifierArrays:
        """Return weight and bias of the classes that have samples; None where there is none."""
        return self._classifier

    def check_classes(self, classes: npt.NDArray[np.int64]) -> None:
        """Do nothing: statistics hold no predictions."""

    def load(self) -> None:
        """Do nothing: everything is in memory."""

    def _of_present(self, value: Any, name: str) -> npt.NDArray[np.generic] | None:
        if value is None:
            return None
        array = numpy_array(value, name, self.where)
        is_of_all = array.ndim > 0 and len(array) == len(self.counts)
        return array[self.classes] if is_of_all else array


class StatsSplit:
    """A split of which only class statistics are known.

    Args:
        split: `train` or `test`.
        source: its statistics.
        label_values: (k,) all labels of both splits, sorted.
    """

    in_memory = None

    def __init__(self, split: str, source: StatsSource, label_values: npt.NDArray[np.int64]) -> None:
        self.split, self.where, self._source = split, source.where, source
        self.label_values = torch.from_numpy(label_values)
        self.declared_counts = torch.zeros(len(label_values), dtype=torch.int64)
        self.declared_counts[np.searchsorted(label_values, source.classes)] = source.counts[source.classes]

    @property
    def present(self) -> Int[Tensor, " c"]:
        """Label numbers that occur in this split, in ascending order."""
        return (self.declared_counts > 0).nonzero()[:, 0]

    def possible_weighting(self, wanted: Weighting) -> tuple[Weighting, str | None]:
        """Return the weighting that the statistics allow, and a warning where it is not the one that was wanted."""
        stats, counts = self._source.stats, self.declared_counts
        sums_are_balanced = stats.class_counts is not None
        return possible_weighting(
            wanted, counts[counts > 0], stats.scatter, sums_are_balanced=sums_are_balanced
        )

    def measure(self, plan: SplitPlan, reference: TrainReference | None) -> MeasuredSplit:
        """Return every metric that class statistics are enough for; the others have no value, and a warning says so.

        Args:
            plan: what to measure, with a weighting that is possible.
            reference: classes of the train split, for test data.
        """
        stats, counts = self._source.stats.drop_empty_classes(), self.declared_counts
        classes = None if reference is None else reference.classes
        pooled = frozenset[Need]({"class covariances"} if stats.scatter == "full" else ())
        without = {
            "class statistics do not contain single samples; measure the features": _ROWS,
            'the covariances of all classes are pooled; accumulate with scatter="per_class"': pooled,
        }
        warnings = label_warnings(counts, classes, self.label_values)
        for reason, needs in without.items():
            names = [metric.name for metric in plan.metrics if metric.needs & needs]
            warnings += [f"no value for {listed(names, 3)}: {reason}"] if names else []
        answered = tuple(metric for metric in plan.metrics if not metric.needs & (_ROWS | pooled))
        evaluation = Evaluation(
            replace(plan, metrics=answered), {FEATURES: stats}, plan.weighting, frozenset()
        )
        found = evaluation.metrics[FEATURES]
        return MeasuredSplit(
            counts=counts,
            classes=self.present,
            weighting=plan.weighting,
            stats=evaluation.stats,
            scatter={FEATURES: stats.scatter},
            metrics={FEATURES: {metric.name: found.get(metric.name) for metric in plan.metrics}},
            spectra=evaluation.spectra,
            warnings=tuple(warnings),
            point_warnings={point: tuple(texts) for point, texts in evaluation.warnings.items()},
        )


def common_weighting(streams: Mapping[str, object], wanted: Weighting) -> tuple[Weighting, list[str]]:
    """Return the weighting that all splits allow, with warnings where it is not the one that was wanted.

    Args:
        streams: the splits by name; only those of class statistics can lack a weighting.
        wanted: weighting of the covariances.

    Raises:
        InputError: no weighting is possible in all of them.
    """
    problems: dict[Weighting, list[str]] = {}
    for weighting in sorted(WEIGHTINGS, key=lambda one: one != wanted):
        found = {
            split: stream.possible_weighting(weighting)[1]
            for split, stream in streams.items()
            if isinstance(stream, StatsSplit)
        }
        problems[weighting] = [f"{split}: {problem}" for split, problem in found.items() if problem]
        if not problems[weighting]:
            return weighting, problems[wanted]
    raise InputError(
        "train and test: one ClassStats was given class_counts= and the other was not, and the classes are unbalanced; "
        "accumulate both alike"
    )
