"""Measuring one split: a first pass, the metrics that follow from it, and a second pass if it is needed.

Letters: c classes, k labels of the label space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Int
from torch import Tensor

from collapselab.errors import InputError
from collapselab.metrics.kmeans import (
    TRIMMED,
    WEAK,
    KMeansCentres,
    RestartCallback,
    fit_kmeans,
    kmeans_warnings,
)
from collapselab.metrics.registry import Need, Number
from collapselab.passes.evaluation import Evaluation
from collapselab.passes.labels import check_declared, check_known, check_two_classes, label_warnings
from collapselab.passes.plan import SplitPlan, TrainReference
from collapselab.passes.reading import PassFindings, PassRequest, run_pass
from collapselab.passes.stream import FeatureStream, ProgressCallback, no_progress
from collapselab.statistics import ClassStats, Scatter, SketchRefinement, Weighting

# Within-class scatter summed over classes, with weights that have to be known beforehand.
POOLED: tuple[Scatter, ...] = ("full", "sketch")


@dataclass(frozen=True)
class MeasuredSplit:
    """What was measured on one split.

    Attributes:
        counts: (k,) samples of each label.
        classes: (c,) label numbers that occur, in ascending order.
        weighting: weighting that was used for the covariances.
        stats: class statistics by source of features, over `classes`; without scatter matrices.
        scatter: which part of the within-class scatter was stored, by source: as planned, but `full` instead of
            `per_class` where more labels came than expected.
        metrics: by point, each metric of the plan by name, in its order; None where undefined.
        spectra: by point, eigenvalues by name, largest first.
        warnings: about the split as a whole.
        point_warnings: by point.
        from_rows: sources whose matrices were computed from the samples themselves, fewer than features.
    """

    counts: Int[Tensor, " k"]
    classes: Int[Tensor, " c"]
    weighting: Weighting
    stats: dict[str, ClassStats]
    scatter: dict[str, Scatter]
    metrics: dict[str, dict[str, Number | None]]
    spectra: dict[str, dict[str, list[float]]]
    warnings: tuple[str, ...]
    point_warnings: dict[str, tuple[str, ...]]
    from_rows: frozenset[str] = frozenset()

    def stored(self, source: str) -> str:
        """Return which part of the within-class scatter of a source was stored; `rows` for few samples, which say all."""
        return "rows" if source in self.from_rows else self.scatter[source]

    @property
    def reference(self) -> TrainReference:
        """What test data are compared with, if this is the train split."""
        return TrainReference(
            self.classes, {source: stats.class_means for source, stats in self.stats.items()}
        )


def measure_split(
    stream: FeatureStream,
    plan: SplitPlan,
    reference: TrainReference | None = None,
    progress: ProgressCallback = no_progress,
) -> MeasuredSplit:
    """Measure one split: at most two passes over its features.

    The first pass accumulates class statistics. A second one follows only where something is left open: nearest class
    means (for test data they are found in the first pass, since the means of the train split are known), stable
    ranks of sketched scatters, covariances for which float32 products are too coarse, k-means.

    Args:
        stream: the features.
        plan: what to measure.
        reference: classes and class means of the train split, for test data; None for the train split itself.
        progress: called after every batch.

    Raises:
        InputError: features or labels that cannot be measured, in one line that says what to do.
    """
    return _SplitRun(stream, plan, reference, progress).measure()


def possible_weighting(
    wanted: Weighting, counts: Int[Tensor, " c"], scatter: Scatter, *, sums_are_balanced: bool
) -> tuple[Weighting, str | None]:
    """Return the weighting that accumulated statistics allow, and a warning where it is not the one that was wanted.

    Args:
        wanted: weighting of the covariances.
        counts: samples of each class that occurs.
        scatter: which part of the within-class scatter is stored; only pooled scatter has one weighting.
        sums_are_balanced: whether pooled scatter was summed with balanced weights.
    """
    possible: Weighting = "balanced" if sums_are_balanced else "sample"
    if wanted == possible or scatter not in POOLED or bool((counts == counts[0]).all()):
        return wanted, None
    if sums_are_balanced:
        return possible, (
            "balanced weighting is used: class_counts= was given, so that every class counts the same; accumulate "
            "without it for sample weighting"
        )
    return possible, (
        "sample weighting is used: the classes are unbalanced and their counts were not known beforehand; give "
        "class_counts= for balanced weighting"
    )


class _SplitRun:
    """The measurement of one split: see `measure_split`."""

    def __init__(
        self,
        stream: FeatureStream,
        plan: SplitPlan,
        reference: TrainReference | None,
        progress: ProgressCallback,
    ) -> None:
        self.stream, self.plan, self.reference, self.progress = stream, plan, reference, progress
        self.needs = plan.needs
        self.warnings: list[str] = []
        self.kmeans: dict[str, dict[str, KMeansCentres]] = {}

    def measure(self) -> MeasuredSplit:
        first = run_pass(self.stream, self._first_request(), self.progress)
        counts = self._checked_counts(first)
        stored = {source: stats.scatter for source, stats in first.statistics.items()}
        self.plan = replace(self.plan, scatter=stored)
        weighting = self._possible_weighting(counts[counts > 0])
        stats = {source: part.drop_empty_classes() for source, part in first.statistics.items()}
        first.statistics.clear()  # the evaluation releases matrices as it goes
        tell = partial(self.progress, f"{self.stream.split}: metrics")
        evaluation = Evaluation(self.plan, stats, weighting, self._late_needs(), tell)
        classes = (counts > 0).nonzero()[:, 0]
        self._fit_kmeans(first, classes)
        second = self._second_pass(self._second_request(evaluation, classes, weighting, first.num_samples))
        if second is not None:
            for source in tuple(second.statistics):
                evaluation.replace(source, second.statistics.pop(source).drop_empty_classes())
            for source, refinement in second.refinements.items():
                evaluation.refine(source, refinement)
        nearest = first.nearest | (second.nearest if second else {})
        evaluation.finish(nearest, second, self.kmeans)
        return MeasuredSplit(
            counts=counts,
            classes=classes,
            weighting=weighting,
            stats=evaluation.stats,
            scatter=self.plan.scatter,
            from_rows=frozenset(evaluation.from_rows),
            metrics=evaluation.metrics,
            spectra=evaluation.spectra,
            warnings=tuple(self.warnings),
            point_warnings={point: tuple(texts) for point, texts in evaluation.warnings.items()},
        )

    # ---------------------------------------------------------------- requests

    def _first_request(self) -> PassRequest:
        """Class statistics; for test data also what does not depend on them."""
        request = PassRequest(statistics=self._empty_stats(tuple(self.plan.scatter), exact=False))
        if self.reference is not None and "second pass" in self.needs:
            request = self._with_centres(request, self.reference)
        if "k-means" in self.needs:
            request = replace(request, kmeans_rows=tuple(self.plan.scatter))
        return request

    def _second_request(
        self, evaluation: Evaluation, classes: Tensor, weighting: Weighting, num_samples: int
    ) -> PassRequest:
        """Whatever the first pass left open."""
        wants_centres = self.reference is None and "second pass" in self.needs
        means: dict[str, Tensor] = {}
        if wants_centres or self._finds_class_eigenvalues:
            means = {source: stats.class_means for source, stats in evaluation.stats.items()}
        request = PassRequest(
            statistics=self._empty_stats(tuple(evaluation.coarse), exact=True),
            refinements={
                source: partial(
                    SketchRefinement,
                    spectrum.vectors,
                    means[source] if source in means else evaluation.stats[source].class_means,
                    evaluation.stats[source].class_weights(weighting) / evaluation.stats[source].counts,
                )
                for source, spectrum in evaluation.sketched.items()
                if spectrum.vectors.shape[1]
            },
            own_classes=classes,
            class_means=means if self._finds_class_eigenvalues else {},
            kmeans_centres=self.kmeans,
            num_samples=num_samples,
        )
        return self._with_centres(request, TrainReference(classes, means)) if wants_centres else request

    def _second_pass(self, request: PassRequest) -> PassFindings | None:
        if request.is_empty:
            return None
        if request.needs_reading and not self.stream.can_be_read_again:
            self.warnings.append(
                f"{request.description} need a second pass, but an iterator can be read once; give a loader"
            )
            return None
        return run_pass(self.stream, request, self.progress)

    def _with_centres(self, request: PassRequest, reference: TrainReference) -> PassRequest:
        return replace(
            request,
            train_means=reference.class_means,
            train_classes=reference.classes,
            decisions="decisions" in self.needs,
        )

    def _empty_stats(self, sources: tuple[str, ...], *, exact: bool) -> dict[str, partial[ClassStats]]:
        stream = self.stream
        expected, known = stream.expected_labels, len(stream.label_values)
        num_labels, growing = (known, False) if expected is None else (max(expected, known), True)
        create = partial(self.plan.create_stats, exact=exact, growing=growing)
        return {source: partial(create, source, num_labels, stream.declared_counts) for source in sources}

    @property
    def _finds_class_eigenvalues(self) -> bool:
        """Whether the largest eigenvalue of each class's covariance is computed from rows in memory."""
        return (
            "class covariances" in self.needs
            and self.stream.in_memory is not None
            and "per_class" not in self.plan.scatter.values()
        )

    def _late_needs(self) -> frozenset[Need]:
        rows_wanted: set[Need] = {"class covariances"} if self._finds_class_eigenvalues else set()
        return frozenset[Need]({"second pass", "k-means"}) | rows_wanted

    # ---------------------------------------------------------------- what came

    def _checked_counts(self, found: PassFindings) -> Tensor:
        """Return the samples of each label.

        Raises:
            InputError: labels that cannot be measured.
        """
        stream = self.stream
        stats = next(iter(found.statistics.values()))
        if not stats.has_samples:
            raise InputError(f"{stream.where}: the loader yields no labelled samples")
        counts, values = stats.counts.cpu(), stream.label_values
        if stream.declared_counts is not None:
            check_declared(counts, stream.declared_counts, values, stream.split)
        if self.reference is not None:
            check_known(counts, self.reference.classes, values, stream.where)
        check_two_classes(counts, values, stream.where)
        classes = None if self.reference is None else self.reference.classes
        self.warnings += label_warnings(counts, classes, values)
        return counts

    def _possible_weighting(self, counts: Tensor) -> Weighting:
        """Return the weighting of the plan, or `sample` where pooled scatter could not be balanced.

        Args:
            counts: samples of each class that occurs.
        """
        kinds: list[Scatter] = [kind for kind in POOLED if kind in self.plan.scatter.values()]
        stored: Scatter = kinds[0] if kinds else "trace"
        if self.stream.declared_counts is not None:  # the plan decides how rows are scaled
            return self.plan.weighting
        weighting, problem = possible_weighting(self.plan.weighting, counts, stored, sums_are_balanced=False)
        self.warnings += [] if problem is None else [problem]
        return weighting

    def _fit_kmeans(self, found: PassFindings, classes: Tensor) -> None:
        """Fit as many k-means centres as there are training classes, for each metric that needs its own."""
        num_centres = len(classes if self.reference is None else self.reference.classes)
        names = {metric.name for metric in self.plan.metrics if "k-means" in metric.needs}
        # The smallest cluster is one of the fit for weak_test_variance.
        wanted = [WEAK] * bool(names - {TRIMMED}) + [TRIMMED] * (TRIMMED in names)
        for source, rows in found.kmeans_rows.items():
            self.kmeans[source] = {}
            for name in wanted:
                centres = fit_kmeans(
                    rows,
                    num_centres,
                    trimmed=name == TRIMMED,
                    progress=self._restarts(name, found.num_samples),
                )
                if centres is not None:
                    self.kmeans[source][name] = centres
                for text in kmeans_warnings(found.num_samples, num_centres, centres):
                    self.warnings += [text] if text not in self.warnings else []
        found.kmeans_rows.clear()

    def _restarts(self, name: str, num_samples: int) -> RestartCallback:
        """Return a callback that reports restarts of k-means as shares of the samples."""
        what = f"{self.stream.split}: k-means" + (", trimmed" if name == TRIMMED else "")
        self.progress(what, 0, num_samples)
        return lambda done, total: self.progress(what, num_samples * done // total, num_samples)
