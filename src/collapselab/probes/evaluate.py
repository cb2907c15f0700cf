"""From the statistics of one split to the metrics of every probe point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.metrics import Metric, MetricInputs, NearestCentreCounts, evaluate
from collapselab.metrics.registry import Number
from collapselab.numerics import ThinSVD
from collapselab.probes.passes import SecondPass
from collapselab.probes.plan import ProbePoint
from collapselab.probes.results import SplitProfile
from collapselab.statistics import ClassStats, SketchedSpectrum, SketchRefinement, Weighting

# Beyond C, for a picture of how a weight's spectrum goes on.
_MIN_SINGULAR_VALUES = 20
_STABLE_RANKS = ("stable_rank", "stable_rank_low", "stable_rank_high")


@dataclass
class Reader:
    """The weight that reads a probe point's features, and its singular vectors, taken once for both splits."""

    weight: Float[Tensor, "out q"] | None
    svd: ThinSVD | None = None

    def singular_values(self, num_classes: int) -> tuple[float, ...]:
        if self.svd is None:
            return ()
        return tuple(self.svd.values[: max(num_classes, _MIN_SINGULAR_VALUES)].tolist())


@dataclass
class SplitEvaluation:
    """The metrics of every probe point on one split; matrices are dropped as soon as they have been used.

    Args:
        split: `train` or `test`.
        points: in order of depth.
        readers: by name of the point.
        stats: by source of features, over the classes that occur; emptied of matrices here.
        classes: labels of those classes, sorted.
        metrics: wanted on this split.
        weighting: of the covariances.
        spectra: whether eigenvalues are kept.
        empty_stats: new statistics of a source of features over the whole label space, with products in float64.
    """

    split: str
    points: tuple[ProbePoint, ...]
    readers: dict[str, Reader]
    stats: dict[str, ClassStats]
    classes: Int[Tensor, " c"]
    metrics: tuple[Metric, ...]
    weighting: Weighting
    spectra: bool
    empty_stats: Callable[[str], ClassStats]
    values: dict[str, dict[str, Number | None]] = field(default_factory=dict)
    eigenvalues: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sketched: dict[str, SketchedSpectrum] = {}
        self._coarse: set[str] = set()
        self._nearest: dict[str, NearestCentreCounts] = {}
        for source in list(self.stats):
            self._evaluate(source)

    @property
    def class_means(self) -> dict[str, Float[Tensor, "c p"]]:
        """By source of features."""
        return {source: stats.class_means for source, stats in self.stats.items()}

    def _evaluate(self, source: str) -> None:
        """All metrics but those of the second pass, at the points that share these features."""
        for point in self.points:
            if point.source != source:
                continue
            inputs = self._inputs(point)
            first = [metric for metric in self.metrics if "second pass" not in metric.needs]
            self.values[point.name] = evaluate(first, inputs)
            if self.spectra and inputs.stats.scatter in ("full", "per_class"):
                self.eigenvalues[point.name] = inputs.spectra()
            if inputs.wants_float64_products:
                self._coarse.add(source)
            if inputs.stats.scatter == "sketch" and self._wants_stable_rank:
                self._sketched[source] = inputs.sketched_spectrum
            if inputs.weight is not None and self._reads_weights:
                self.readers[point.name].svd = inputs.weight_svd
            self.warnings[point.name] = inputs.warnings
        if self.stats[source].scatter != "sketch":
            self.stats[source] = self.stats[source].without_scatter()

    @property
    def _wants_stable_rank(self) -> bool:
        return any(metric.name in _STABLE_RANKS for metric in self.metrics)

    @property
    def _reads_weights(self) -> bool:
        return any("weight" in metric.needs for metric in self.metrics)

    def _inputs(self, point: ProbePoint) -> MetricInputs:
        reader = self.readers[point.name]
        inputs = MetricInputs(
            self.stats[point.source],
            weighting=self.weighting,
            weight=reader.weight,
            is_classifier=point.is_classifier,
            channels_first=point.channels_first,
        )
        if reader.svd is not None:
            inputs.weight_svd = reader.svd
        return inputs

    # ---------------------------------------------------------------- the second pass

    def second_pass(self, train_means: dict[str, Tensor], num_labels: int) -> SecondPass:
        """What to look for in a second pass: nearest of `train_means`, and whatever the first left open here.

        Args:
            train_means: by source; empty where nearest centres are not wanted or known already.
            num_labels: K, size of the label space.
        """
        own = class_of_label(self.classes, num_labels)
        return SecondPass(
            train_means,
            own,
            own_class_of_label=own,
            fresh={source: self.empty_stats(source) for source in self._coarse},
            refinements={
                source: SketchRefinement(
                    spectrum.vectors,
                    self.stats[source].class_means,
                    self.stats[source].class_weights(self.weighting) / self.stats[source].counts,
                )
                for source, spectrum in self._sketched.items()
                if spectrum.vectors.shape[1]
            },
            num_samples=next(iter(self.stats.values())).num_samples,
        )

    def take(self, found: SecondPass) -> None:
        """Add what a second pass found."""
        for source, stats in found.fresh.items():
            self._coarse.discard(source)
            self.stats[source] = stats.of_seen_classes()
            self._evaluate(source)
        for source, refinement in found.refinements.items():
            self._refine(source, refinement)
        self.take_centres(found)

    def take_centres(self, found: SecondPass) -> None:
        """Add the nearest class centres that a pass found."""
        self._nearest |= found.nearest
        late = [metric for metric in self.metrics if "second pass" in metric.needs]
        for point in self.points:
            if point.source in self._nearest:
                inputs = self._inputs(point)
                inputs.nearest_centre = self._nearest[point.source]
                self.values[point.name] |= evaluate(late, inputs)

    def _refine(self, source: str, refinement: SketchRefinement) -> None:
        stats = self.stats[source]
        ranks = [metric for metric in self.metrics if metric.name in _STABLE_RANKS]
        for point in self.points:
            if point.source == source:
                inputs = self._inputs(point)
                inputs.sketched_spectrum = refinement.result(
                    inputs.within_trace,
                    product_eps=inputs.product_eps,
                    first=stats.within_sketch(self.weighting),
                )
                self.values[point.name] |= evaluate(ranks, inputs)

    # ---------------------------------------------------------------- results

    def result(self, point: ProbePoint, train_classes: Int[Tensor, " c"]) -> SplitProfile:
        """What was found at one point, in the order of the train split's classes."""
        stats = self.stats[point.source]
        rows = torch.searchsorted(train_classes, self.classes)

        def spread(values: Tensor, missing: int | float) -> Tensor:
            out = torch.full((len(train_classes), *values.shape[1:]), missing, dtype=values.dtype)
            out[rows] = values.cpu()
            return out

        order = [metric.name for metric in self.metrics]
        values = self.values[point.name]
        return SplitProfile(
            metrics={name: values.get(name) for name in order},
            counts=spread(stats.counts, 0),
            class_means=spread(stats.class_means, float("nan")),
            class_variances=spread(stats.class_variances, float("nan")),
            spectra=self.eigenvalues.get(point.name, {}),
            warnings=tuple(self.warnings[point.name]),
        )


def class_of_label(classes: Int[Tensor, " c"], num_labels: int) -> Int[Tensor, " k"]:
    """For each label its place among `classes`, -1 where it is none of them."""
    table = torch.full((num_labels,), -1)
    table[classes] = torch.arange(len(classes))
    return table
