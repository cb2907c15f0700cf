"""The two passes over a split: features of all probe points reduced at once, then compared with frozen means.

The first pass fills one `ClassStats` per source of features. The second finds nearest class centres, sharpens the
spectra of sketched scatters, and takes again in float64 the few covariances that float32 products proved too coarse
for. Features of a batch are gone when the next one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from collapselab.distributed import merged_over_ranks, raise_together, summed_over_ranks
from collapselab.errors import InputError
from collapselab.metrics import NearestCentreCounts
from collapselab.metrics.decision import DecisionRule, nearest_centre_rule
from collapselab.probes.batches import Batch, logits_of
from collapselab.probes.capture import Taps
from collapselab.probes.plan import Identity, ProbePoint
from collapselab.probes.reduce import Reduction
from collapselab.statistics import ClassStats, SketchRefinement

# (what is being done, samples done, samples in all or 0 where nobody knows)
ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Feed:
    """A split on its way through the network.

    Attributes:
        name: `train` or `test`.
        batches: this process's share; called once per pass.
        num_samples: of all processes together; 0 where unknown.
    """

    name: str
    batches: Callable[[], Iterator[Batch]]
    num_samples: int


@dataclass(frozen=True)
class Network:
    """A model with its probe points.

    Attributes:
        model: in evaluation mode.
        modules: those hooked, by name.
        points: by name of the call.
        reduction: of features with more than one axis.
        num_outputs: length of its class scores; None where it has none.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    points: dict[str, ProbePoint]
    reduction: Reduction
    num_outputs: int | None

    def read(
        self,
        feed: Feed,
        receive: Callable[[str, Tensor, Tensor], None],
        num_classes: int,
        progress: ProgressCallback,
        what: str,
        after: Callable[[Tensor, Tensor | None], None] = lambda *_: None,
    ) -> None:
        """One pass: `receive(source, features, classes)` for every source of features of every batch.

        Args:
            num_classes: labels are below.
            after: called after each batch with its classes and the network's decisions.

        Raises:
            InputError: in every process, whatever is wrong in any, with layer and batch.
        """
        try:
            self._read(feed, receive, num_classes, progress, what, after)
        except Exception as error:
            raise_together(error)
        raise_together(None)

    def _read(
        self,
        feed: Feed,
        receive: Callable[[str, Tensor, Tensor], None],
        num_classes: int,
        progress: ProgressCallback,
        what: str,
        after: Callable[[Tensor, Tensor | None], None],
    ) -> None:
        done = 0
        current: list[tuple[Batch, Tensor]] = []
        identities: dict[str, Identity] = {}
        ran: set[str] = set()

        def hook(name: str, _module: nn.Module, features: Tensor) -> None:
            batch, classes = current[0]
            place = f"{feed.name}, batch {batch.number}"
            point = self.points.get(name)
            if point is None:
                if name.split("#")[0] in self.points and "#" in name:
                    raise InputError(f"{place}: {name} ran more often than in the first batch")
                return
            ran.add(name)
            if point.source in self._shared:
                identity = Identity(features)
                if point.source == name:
                    identities[name] = identity
                elif identities.get(point.source) != identity:
                    raise InputError(
                        f"{place}: {name} no longer reads the same features as {point.source}, as it did in the "
                        f"first batch; measure it on its own with layers={name!r}"
                    )
            if point.source != name:
                return
            rows = rows_of(point, features, batch, self.reduction, place)
            try:
                receive(name, rows, classes)
            except ValueError as error:
                raise InputError(f"{place}, layer {name}: {error}") from error

        hooked = {point.module_name for point in self.points.values()}
        with Taps({name: self.modules[name] for name in self.modules if name in hooked}, hook) as taps:
            for batch in feed.batches():
                classes = self._classes_of(batch, num_classes, feed.name)
                current[:] = [(batch, classes)]
                identities.clear()
                ran.clear()
                taps.begin()
                decided = _decisions(batch.run(self.model), batch)
                if len(ran) < len(self.points):
                    silent = next(name for name in self.points if name not in ran)
                    raise InputError(
                        f"{feed.name}, batch {batch.number}: {silent} did not run, as it did in the first batch; "
                        "name the layers that always run with layers="
                    )
                after(classes, decided)
                done += len(classes)
                progress(f"{feed.name}: {what}", done, feed.num_samples)

    @property
    def _shared(self) -> set[str]:
        return {point.source for point in self.points.values() if point.source != point.name}

    def _classes_of(self, batch: Batch, num_classes: int, where: str) -> Tensor:
        classes = batch.classes
        limit = min(num_classes, self.num_outputs or num_classes)
        if len(classes):
            low, high = (int(value) for value in torch.aminmax(classes))
            if low < 0 or high >= limit:
                of = f"{limit} outputs of the model" if limit == self.num_outputs else f"{limit} classes"
                raise InputError(
                    f"{where}, batch {batch.number}: label {low if low < 0 else high} is outside the {of} "
                    f"(0 … {limit - 1}); mend the labels, or give class_counts= where there are more classes"
                )
        return classes


def _decisions(output: Any, batch: Batch) -> Tensor | None:
    """The highest of the class scores, one per label that counts; None where the model returns no scores."""
    logits = logits_of(output, batch.labels)
    if logits is None:
        return None
    decided, kept = logits.argmax(-1).flatten(), batch.kept
    return decided if kept is None else decided[kept]


def rows_of(point: ProbePoint, features: Tensor, batch: Batch, reduction: Reduction, place: str) -> Tensor:
    """What a probe point reads as one row of features per label that counts.

    Raises:
        InputError: features and labels disagree, or features are not shaped as in the first batch.
    """
    labels, kept, mask = batch.labels, batch.kept, batch.mask
    if labels.ndim > 1:
        if features.shape[: labels.ndim] == labels.shape:
            features = features.flatten(0, labels.ndim - 1)
        labels, mask = labels.flatten(), None
    if features.shape[:1] != labels.shape:
        raise InputError(
            f"{place}: {point.name} reads {features.shape[0]} rows of features for {labels.shape[0]} labels"
        )
    if kept is not None:
        features, mask = features[kept], None if mask is None else mask[kept]
    rows = reduction(features, channels_first=point.channels_first, mask=mask)
    if rows.shape[1] != point.dim:
        raise InputError(
            f"{place}: {point.name} reads features of shape {tuple(features.shape[1:])}, but "
            f"{point.shape} in the first batch; pad inputs to one length, or reduce them (gap, mean, token)"
        )
    return rows if rows.is_floating_point() else rows.float()


def first_pass(
    network: Network, feed: Feed, stats: dict[str, ClassStats], progress: ProgressCallback
) -> None:
    """Fill `stats`, by source of features; with several processes, of all their samples together.

    Raises:
        InputError: nothing came, or what came cannot be measured.
    """
    num_classes = next(iter(stats.values())).num_classes
    network.read(
        feed,
        lambda source, rows, classes: stats[source].update(rows, classes),
        num_classes,
        progress,
        "class statistics",
    )
    for source in stats:
        stats[source] = merged_over_ranks(stats[source])


@dataclass
class SecondPass:
    """What is looked for with frozen class means, by source of features, and what is found.

    Attributes:
        class_means: (C, p), of the train split.
        class_of_label: the row of `class_means` for each label; -1 for labels that are no class of it.
        fresh: empty statistics, to be filled on the way.
        refinements: of sketched spectra, about the split's own class means.
        own_class_of_label: the row of these for each label.
        nearest: what was found.
        num_samples: of the first pass, of all processes together; None where this is the first.
    """

    class_means: dict[str, Tensor]
    class_of_label: Int[Tensor, " k"]
    fresh: dict[str, ClassStats] = field(default_factory=dict)
    refinements: dict[str, SketchRefinement] = field(default_factory=dict)
    own_class_of_label: Int[Tensor, " k"] | None = None
    nearest: dict[str, NearestCentreCounts] = field(default_factory=dict)
    num_samples: int | None = None

    @property
    def is_needed(self) -> bool:
        return bool(self.class_means or self.fresh or self.refinements)

    def run(self, network: Network, feed: Feed, progress: ProgressCallback) -> None:
        """Read the split once more.

        Raises:
            InputError: as `Network.read`.
        """
        rules: dict[str, DecisionRule] = {
            source: nearest_centre_rule(means) for source, means in self.class_means.items()
        }
        found: dict[str, Tensor] = {}
        # correct and agreeing by source, then samples and those with a decision
        counts = {source: torch.zeros(2, dtype=torch.int64) for source in rules}
        samples = torch.zeros(2, dtype=torch.int64)

        def receive(source: str, rows: Tensor, labels: Tensor) -> None:
            if source in rules:
                found[source] = rules[source](rows)
            if source in self.fresh:
                self.fresh[source].update(rows, labels)
            if source in self.refinements:
                assert self.own_class_of_label is not None
                self.refinements[source].update(rows, self.own_class_of_label.to(labels.device)[labels])

        def after(labels: Tensor, decided: Tensor | None) -> None:
            classes = self._rows_of_means(labels)
            chosen = None if decided is None else self._rows_of_means(decided)
            for source, nearest in found.items():
                counts[source][0] += int((nearest == classes).sum())
                if chosen is not None:
                    counts[source][1] += int((nearest == chosen).sum())
            samples.add_(torch.tensor([len(labels), 0 if decided is None else len(labels)]))
            found.clear()

        network.read(feed, receive, len(self.class_of_label), progress, self._what, after)
        samples = summed_over_ranks(samples)
        if self.num_samples is not None and int(samples[0]) != self.num_samples:
            raise InputError(
                f"{feed.name}: {int(samples[0])} samples came the second time, but {self.num_samples} the first; give a "
                "loader that yields the same samples whenever it is read"
            )
        for source, values in counts.items():
            correct, agreeing = summed_over_ranks(values).tolist()
            known = int(samples[1]) == int(samples[0]) > 0
            self.nearest[source] = NearestCentreCounts(int(samples[0]), correct, agreeing if known else None)
        for source in self.fresh:
            self.fresh[source] = merged_over_ranks(self.fresh[source])
        for refinement in self.refinements.values():
            refinement.total = summed_over_ranks(refinement.total)

    @property
    def _what(self) -> str:
        return "nearest class centres" if self.class_means else "sharper spectra"

    def _rows_of_means(self, labels: Tensor) -> Tensor:
        """Numbers of classes that have a mean; -1 for decisions on what is no class of the train split."""
        table = self.class_of_label.to(labels.device)
        inside = labels < len(table)
        return torch.where(inside, table[labels.clamp_max(len(table) - 1)], -1)
