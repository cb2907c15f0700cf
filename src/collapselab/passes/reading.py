"""One pass over a split: the request and its findings.

Features of a batch are released before the next batch. Where they are on an accelerator, rows are gathered first (32 MiB
for each source): all accumulators of a source take the same chunk, and no value is read back for a batch.

Letters: n samples, p features, c classes of the train split, o classes of this split, k labels of the label space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from collapselab.distributed import merged_over_ranks, run_together, summed_over_ranks
from collapselab.errors import InputError
from collapselab.metrics import NearestCentreCounts
from collapselab.metrics.decision import nearest_centre_rule
from collapselab.metrics.kmeans import KMeansCentres, sample_rows
from collapselab.metrics.spectrum import top_eigenvalues_of_rows
from collapselab.passes.stream import Decide, FeatureStream, ProgressCallback
from collapselab.statistics import (
    Chunk,
    ClassStats,
    RefusedBatch,
    RowGatherer,
    SketchRefinement,
    is_deferred,
)


@dataclass(frozen=True)
class PassRequest:
    """What to look for in one pass, by source of features.

    Attributes:
        statistics: functions that create the empty statistics to fill.
        train_means: (c, p) class means of the train split, to find the nearest class mean of every sample.
        train_classes: (c,) label numbers of these means.
        decisions: whether nearest class means are compared with the network's decisions.
        refinements: functions that create the refinements of sketched spectra, over the classes of this split.
        own_classes: (o,) label numbers of the classes of this split, for `refinements` and `class_means`.
        class_means: (o, p) class means of this split, to find the largest eigenvalue of each class's own covariance.
            Only features in memory have them.
        kmeans_rows: sources whose rows k-means is fitted on: all of them, or a seeded sample of many.
        kmeans_centres: fitted centres by name of the metric, to find the mean squared distance of the samples from the
            nearest one.
        num_samples: of an earlier pass; None for the first.
    """

    statistics: Mapping[str, Callable[[], ClassStats]] = field(default_factory=dict)
    train_means: Mapping[str, Tensor] = field(default_factory=dict)
    train_classes: Int[Tensor, " c"] | None = None
    decisions: bool = False
    refinements: Mapping[str, Callable[[], SketchRefinement]] = field(default_factory=dict)
    own_classes: Int[Tensor, " o"] | None = None
    class_means: Mapping[str, Tensor] = field(default_factory=dict)
    kmeans_rows: tuple[str, ...] = ()
    kmeans_centres: Mapping[str, Mapping[str, KMeansCentres]] = field(default_factory=dict)
    num_samples: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self.class_means or self.needs_reading)

    @property
    def needs_reading(self) -> bool:
        """Whether the features have to be read, batch by batch."""
        return bool(
            self.statistics or self.train_means or self.refinements or self.kmeans_rows or self.kmeans_centres
        )

    @property
    def description(self) -> str:
        """What the pass does, for progress reports."""
        if self.train_means:
            return "nearest class means"
        if self.kmeans_centres:
            return "k-means"
        return "class statistics" if self.num_samples is None else "sharper spectra"


@dataclass(frozen=True)
class PassFindings:
    """What a pass found, by source of features; of all processes together.

    Attributes:
        num_samples: samples read.
        statistics: class statistics over the label space.
        nearest: how often the nearest class mean is the label's, and the network's decision.
        refinements: products of the data with the directions that a sketch found.
        top_eigenvalues: (c,) largest eigenvalue of each class's own covariance.
        kmeans_rows: rows to fit k-means on.
        kmeans_distances: mean squared distance of the samples from the nearest k-means centre, by name of the metric.
    """

    num_samples: int
    statistics: dict[str, ClassStats]
    nearest: dict[str, NearestCentreCounts]
    refinements: dict[str, SketchRefinement]
    top_eigenvalues: dict[str, Tensor]
    kmeans_rows: dict[str, Tensor]
    kmeans_distances: dict[str, dict[str, float]]


def run_pass(stream: FeatureStream, request: PassRequest, progress: ProgressCallback) -> PassFindings:
    """Read a split once and return what was looked for.

    Raises:
        InputError: see `FeatureStream.read`; or other samples came than in the pass before.
    """
    reading = _Reading(stream, request, progress)
    if request.needs_reading:
        stream.read(reading.receive, reading.end_batch)
    return reading.findings()


class _Reading:
    """The accumulators of one pass. Each has a method that takes rows (n, p) and label numbers (n,)."""

    def __init__(self, stream: FeatureStream, request: PassRequest, progress: ProgressCallback) -> None:
        self._stream, self._request, self._progress = stream, request, progress
        declared = stream.declared_counts
        self._total = 0 if declared is None else int(declared.sum())
        self._num_samples = 0
        self._stats = {source: make() for source, make in request.statistics.items()}
        self._refinements = {source: make() for source, make in request.refinements.items()}
        train_rows = row_of_label(request.train_classes, stream)
        self._nearest = {
            source: _NearestCentres(means, train_rows) for source, means in request.train_means.items()
        }
        self._samples = {source: _RowSample(self._total) for source in request.kmeans_rows}
        self._distances = {
            source: _NearestDistances(centres) for source, centres in request.kmeans_centres.items()
        }
        self._own_rows = row_of_label(request.own_classes, stream)
        self._gatherers: dict[str, RowGatherer] = {}
        self._refused: tuple[str, RefusedBatch] | None = None

    def receive(self, source: str, rows: Tensor, labels: Tensor) -> None:
        if not is_deferred("auto", rows.device):
            self._add(source, rows, labels)
            return
        if source not in self._gatherers:
            self._gatherers[source] = RowGatherer(rows.device, self._total or None)
        self._gatherers[source].update(rows, labels, partial(self._add_chunk, source))

    def _add(self, source: str, rows: Tensor, labels: Tensor) -> None:
        if source in self._stats:
            self._stats[source].update(rows, labels)
        if source in self._samples:
            self._samples[source].update(rows)
        self._compare(source, rows, labels)

    def _compare(self, source: str, rows: Tensor, labels: Tensor) -> None:
        """Hand rows to what compares them with the findings of an earlier pass."""
        if source in self._nearest:
            self._nearest[source].update(rows, labels)
        if source in self._distances:
            self._distances[source].update(rows)
        if source in self._refinements:
            self._refinements[source].update(rows, self._own_rows.to(labels.device)[labels])

    def _add_chunk(self, source: str, chunk: Chunk) -> None:
        """Add rows that were gathered; what is wrong with them is kept for the end of the batch."""
        if source in self._stats:
            try:
                self._stats[source].add_chunk(chunk)
            except RefusedBatch as error:
                self._refused = self._refused or (source, error)
        if source in self._samples:
            self._samples[source].update(chunk.rows.clone())  # the chunk is filled again
        self._compare(source, chunk.rows, chunk.labels)

    def _flush(self) -> None:
        """Add the rows that wait.

        Raises:
            InputError: see `_report_refused`.
        """
        for source, gatherer in self._gatherers.items():
            gatherer.flush(partial(self._add_chunk, source))
        self._report_refused()
        for nearest in self._nearest.values():
            nearest.match()

    def _report_refused(self) -> None:
        """Raise the first error of a gathered batch.

        Raises:
            InputError: naming batch and layer.
        """
        if self._refused is not None:
            source, error = self._refused
            raise InputError(f"{self._stream.split}, batch {error.batch}, layer {source}: {error.problem}")

    def end_batch(self, labels: Tensor, decide: Decide) -> None:
        self._report_refused()
        decided = decide() if self._nearest and self._request.decisions else None
        for nearest in self._nearest.values():
            nearest.end_batch(decided, len(labels))
        self._num_samples += len(labels)
        self._progress(f"{self._stream.split}: {self._request.description}", self._num_samples, self._total)

    def findings(self) -> PassFindings:
        if self._stream.is_shared:
            run_together(self._flush)  # an error in one process must not leave the others waiting
        else:
            self._flush()
        num_samples = int(self._summed(torch.tensor(self._num_samples)))
        expected = self._request.num_samples
        if self._request.needs_reading and expected is not None and num_samples != expected:
            raise InputError(
                f"{self._stream.split}: {num_samples} samples came the second time, but {expected} the first; give a "
                "loader that yields the same samples each time it is read"
            )
        numbers = self._stream.settle_labels() if self._stats else None
        if numbers is not None:
            self._stats = {source: stats.renumbered(numbers) for source, stats in self._stats.items()}
        if self._stream.is_shared:
            self._stats = {source: merged_over_ranks(stats) for source, stats in self._stats.items()}
        for refinement in self._refinements.values():
            refinement.total = self._summed(refinement.total)
        return PassFindings(
            num_samples,
            self._stats,
            {source: found.counts(self._summed) for source, found in self._nearest.items()},
            self._refinements,
            self._top_eigenvalues(),
            {source: sample.rows() for source, sample in self._samples.items()},
            {source: found.means() for source, found in self._distances.items()},
        )

    def _summed(self, values: Tensor) -> Tensor:
        return summed_over_ranks(values) if self._stream.is_shared else values

    def _top_eigenvalues(self) -> dict[str, Tensor]:
        if not self._request.class_means:
            return {}
        assert self._stream.in_memory is not None
        rows, labels = self._stream.in_memory
        return {
            source: top_eigenvalues_of_rows(rows, self._own_rows[labels], means)
            for source, means in self._request.class_means.items()
        }


class _NearestCentres:
    """How often the nearest class mean is the label's, and the network's decision.

    Args:
        means: (c, p).
        row_of_label: row of `means` for each label, -1 for labels without one.
    """

    def __init__(self, means: Tensor, row_of_label: Tensor) -> None:
        self._rule, self._row_of_label = nearest_centre_rule(means), row_of_label
        # Of rows whose counterpart has not come: gathered rows come after the decisions for them.
        self._nearest: list[Tensor] = []
        self._decided: list[Tensor] = []
        # samples, correct, agreeing, samples with a decision
        self._counts = torch.zeros(4, dtype=torch.int64)

    def update(self, rows: Tensor, labels: Tensor) -> None:
        nearest = self._rule(rows).to(labels.device)
        self._counts[1] += int((nearest == self._rows(labels)).sum())
        self._nearest.append(nearest)

    def end_batch(self, decided: Tensor | None, num_samples: int) -> None:
        """Add the network's decisions for the rows of the batch, as label numbers."""
        self._counts[0] += num_samples
        if decided is None:  # one missing decision leaves the agreement undefined
            self._nearest, self._decided = [], []
            return
        self._counts[3] += num_samples
        self._decided.append(decided)
        self.match()

    def match(self) -> None:
        """Compare nearest class means with the decisions for the same rows, as far as both are known."""
        number = min(sum(map(len, self._nearest)), sum(map(len, self._decided)))
        if number:
            nearest, decided = torch.cat(self._nearest), torch.cat(self._decided)
            agreeing = nearest[:number] == self._rows(decided[:number]).to(nearest.device)
            self._counts[2] += int(agreeing.sum())
            self._nearest, self._decided = [nearest[number:]], [decided[number:]]

    def counts(self, summed: Callable[[Tensor], Tensor]) -> NearestCentreCounts:
        total, correct, agreeing, decided = summed(self._counts).tolist()
        return NearestCentreCounts(total, correct, agreeing if decided == total > 0 else None)

    def _rows(self, labels: Tensor) -> Tensor:
        """Rows of the means for labels; -1 for decisions that are no class of the train split."""
        table = self._row_of_label.to(labels.device)
        return torch.where(labels < len(table), table[labels.clamp_max(len(table) - 1)], -1)


class _RowSample:
    """Rows to fit k-means on: all, or a seeded sample.

    Args:
        total: samples of the split.
    """

    def __init__(self, total: int) -> None:
        self._chosen = sample_rows(total)
        self._start = 0
        self._pieces: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        stop = self._start + len(rows)
        if self._chosen is not None:
            chosen = self._chosen[(self._chosen >= self._start) & (self._chosen < stop)]
            rows = rows[(chosen - self._start).to(rows.device)]
        self._pieces.append(rows)
        self._start = stop

    def rows(self) -> Tensor:
        return self._pieces[0] if len(self._pieces) == 1 else torch.cat(self._pieces)


class _NearestDistances:
    """Squared distances from the nearest of fitted centres, summed for each metric."""

    def __init__(self, centres: Mapping[str, KMeansCentres]) -> None:
        self._centres = centres
        self._totals = {name: (0.0, 0) for name in centres}

    def update(self, rows: Tensor) -> None:
        for name, centres in self._centres.items():
            distances, (total, number) = centres.squared_distances(rows), self._totals[name]
            self._totals[name] = total + float(distances.sum()), number + len(distances)

    def means(self) -> dict[str, float]:
        return {name: total / number for name, (total, number) in self._totals.items()}


def row_of_label(classes: Int[Tensor, " c"] | None, stream: FeatureStream) -> Int[Tensor, " k"]:
    """Return for each label its place among `classes`, -1 where it is none of them."""
    table = torch.full((len(stream.label_values),), -1)
    if classes is not None:
        table[classes] = torch.arange(len(classes))
    return table
