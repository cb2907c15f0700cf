"""From class statistics to the metrics of every probe point; matrices are released as soon as they have been used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from collapselab.metrics import Metric, MetricInputs, NearestCentreCounts, evaluate
from collapselab.metrics.kmeans import WEAK, KMeansCentres
from collapselab.metrics.registry import Need, Number
from collapselab.passes.plan import SplitPlan
from collapselab.passes.reading import PassFindings
from collapselab.passes.stream import Point
from collapselab.statistics import ClassStats, SketchedSpectrum, SketchRefinement, Weighting

_STABLE_RANKS = ("stable_rank", "stable_rank_low", "stable_rank_high")


class Evaluation:
    """The metrics of every probe point on one split.

    Metrics that class statistics suffice for are evaluated at once, the late ones by `finish`.

    Args:
        plan: what to measure.
        stats: by source of features, over the classes that occur.
        weighting: weighting of the covariances.
        late: needs of metrics that wait for findings of a pass over the features.
        progress: called with the number of sources done and of all.

    Attributes:
        stats: as given, without matrices that have been used.
        spectra: eigenvalues by name, by point; only where the plan asks for them.
        warnings: by point.
        coarse: sources whose float32 products are too coarse for a metric, in the same order in every process.
        from_rows: sources whose matrices were computed from the samples themselves, which are few.
        sketched: leading spectra of sketched sources, if stable ranks are requested.
    """

    def __init__(
        self,
        plan: SplitPlan,
        stats: dict[str, ClassStats],
        weighting: Weighting,
        late: frozenset[Need],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self.stats = stats
        self._values: dict[str, dict[str, Number | None]] = {}
        self.spectra: dict[str, dict[str, list[float]]] = {}
        self.warnings: dict[str, list[str]] = {}
        self.coarse: list[str] = []
        self.from_rows: set[str] = set()
        self.sketched: dict[str, SketchedSpectrum] = {}
        self._plan, self._late = plan, late
        self._weighting: Weighting = weighting
        for done, source in enumerate(list(stats), start=1):
            self._evaluate(source)
            progress(done, len(stats))

    @property
    def metrics(self) -> dict[str, dict[str, Number | None]]:
        """By point, every metric of the plan in its order; None where undefined or not found."""
        names = [metric.name for metric in self._plan.metrics]
        return {point: {name: values.get(name) for name in names} for point, values in self._values.items()}

    def replace(self, source: str, stats: ClassStats) -> None:
        """Evaluate a source again, with statistics whose products are float64."""
        self.stats[source] = stats
        self._evaluate(source)
        self.coarse.remove(source)

    def refine(self, source: str, refinement: SketchRefinement) -> None:
        """Evaluate stable ranks again, with the sharper spectrum of a second pass."""
        ranks = [metric for metric in self._plan.metrics if metric.name in _STABLE_RANKS]
        for point in self._points_of(source):
            inputs = self._inputs(point)
            inputs.sketched_spectrum = refinement.result(
                inputs.within_trace,
                product_eps=inputs.product_eps,
                first=self.stats[source].within_sketch(self._weighting),
            )
            self._add(point, ranks, inputs)

    def finish(
        self,
        nearest: dict[str, NearestCentreCounts],
        found: PassFindings | None,
        kmeans: dict[str, dict[str, KMeansCentres]],
    ) -> None:
        """Evaluate the late metrics, and release sketches: nothing else is evaluated afterwards.

        Args:
            nearest: nearest class means, by source; without the sources for which they were not found.
            found: of the second pass, if there was one.
            kmeans: fitted centres, by source and metric.
        """
        late = [metric for metric in self._plan.metrics if metric.needs & self._late]
        for point in self._plan.points if late else ():
            inputs, source = self._inputs(point), point.source
            inputs.nearest_centre = nearest.get(source)
            if found is not None:
                inputs.top_class_eigenvalues = found.top_eigenvalues.get(source)
                for name, distance2 in found.kmeans_distances.get(source, {}).items():
                    centres = kmeans[source][name]
                    inputs.kmeans[name] = inputs.ratio(
                        distance2, centres.spread, name, "all k-means centres coincide"
                    )
                    if name == WEAK:
                        inputs.kmeans["smallest_cluster"] = centres.smallest_cluster
            self._add(point, late, inputs)
        self.stats = {source: stats.without_scatter() for source, stats in self.stats.items()}

    def _evaluate(self, source: str) -> None:
        early = [metric for metric in self._plan.metrics if not metric.needs & self._late]
        for point in self._points_of(source):
            inputs = self._inputs(point)
            self._values[point.name], self.warnings[point.name] = {}, []
            if inputs.few is not None:
                self.from_rows.add(source)
            if self._plan.spectra and (
                inputs.stats.scatter in ("full", "per_class") or inputs.few is not None
            ):
                self.spectra[point.name] = inputs.spectra()
            self._add(point, early, inputs)
            if inputs.wants_float64_products and self._plan.product_dtype is None:
                self.coarse += [source] if source not in self.coarse else []
            if inputs.is_sketched and any(metric.name in _STABLE_RANKS for metric in early):
                self.sketched[source] = inputs.sketched_spectrum
            if inputs.weight is not None and "weight" in self._plan.needs:
                self._plan.weights[point.name].svd = inputs.weight_svd
        if self.stats[source].scatter != "sketch":
            self.stats[source] = self.stats[source].without_scatter()

    def _add(self, point: Point, metrics: Sequence[Metric], inputs: MetricInputs) -> None:
        for name, value in evaluate(metrics, inputs).items():
            # JSON has no NaN and no infinity: such a value is undefined.
            self._values[point.name][name] = value if value is not None and math.isfinite(value) else None
        warnings = self.warnings[point.name]
        warnings += [text for text in inputs.warnings if text not in warnings]

    def _points_of(self, source: str) -> Iterator[Point]:
        return (point for point in self._plan.points if point.source == source)

    def _inputs(self, point: Point) -> MetricInputs:
        weight = self._plan.weights[point.name]
        inputs = MetricInputs(
            self.stats[point.source],
            weighting=self._weighting,
            weight=weight.matrix,
            is_classifier=point.is_classifier,
            channels_first=point.channels_first,
            rcond=self._plan.rcond,
        )
        if weight.svd is not None:
            inputs.weight_svd = weight.svd.on(inputs.stats.device)
        return inputs
