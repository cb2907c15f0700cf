"""A network as the engine of passes reads it: features of all probe points of a batch in one forward pass.

Letters: n samples of a batch, k labels of the label space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.distributed import run_together
from collapselab.errors import InputError
from collapselab.passes.stream import EndBatch, ReceiveRows
from collapselab.probes.batches import Batch, Readable
from collapselab.probes.capture import Taps
from collapselab.probes.forward import run_model
from collapselab.probes.plan import Identity, ProbePoint
from collapselab.probes.reduce import Reduction
from collapselab.probes.scores import Scores


@dataclass(frozen=True)
class Network:
    """A model with its probe points.

    Attributes:
        model: in evaluation mode.
        modules: modules to probe, by name.
        points: by name of the call.
        reduction: how features with several axes become rows.
        scores: where it returns its class scores; None where it has none.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    points: dict[str, ProbePoint]
    reduction: Reduction
    scores: Scores | None

    @cached_property
    def hooked(self) -> dict[str, nn.Module]:
        """Modules that have a probe point."""
        names = {point.module_name for point in self.points.values()}
        return {name: module for name, module in self.modules.items() if name in names}

    @cached_property
    def shared_sources(self) -> frozenset[str]:
        """Names of points whose features other points read too."""
        return frozenset(point.source for point in self.points.values() if point.source != point.name)


class NetworkStream:
    """The features of a network on one split.

    Args:
        split: `train` or `test`.
        network: the model and its probe points.
        loader: the batches of this process.
        num_labels: k; labels are 0 … k-1.
        declared_counts: (k,) samples of each label in all processes together, where known.
    """

    in_memory = None
    is_shared = True

    def __init__(
        self,
        split: str,
        network: Network,
        loader: Readable,
        num_labels: int,
        declared_counts: Tensor | None,
    ) -> None:
        self.split = self.where = split
        self.label_values = torch.arange(num_labels)
        self.declared_counts = declared_counts
        self._network, self._loader = network, loader

    @property
    def can_be_read_again(self) -> bool:
        return not self._loader.is_spent

    def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        """Make one pass.

        Raises:
            InputError: in every process, whatever is wrong in any of them, with split, batch and layer.
        """
        run_together(lambda: self._read(receive, end_batch))

    def _read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        network = self._network
        reader = _BatchReader(network, receive)
        with Taps(network.hooked, reader.hook) as taps:
            for batch in self._loader.read():
                labels = self._checked_labels(batch)
                reader.begin(batch, labels)
                output = run_model(network.model, batch, taps)
                reader.check_all_ran()
                end_batch(labels, partial(_decisions, network.scores, output, batch))
                del output  # it may contain features, which must not outlive their batch

    def _checked_labels(self, batch: Batch) -> Tensor:
        """Return the labels that count, one per row of features.

        Raises:
            InputError: a label outside the label space or the outputs of the model.
        """
        labels, scores = batch.counted_labels, self._network.scores
        outputs = None if scores is None else scores.num_classes
        limit = min(len(self.label_values), outputs or len(self.label_values))
        low, high = (int(value) for value in torch.aminmax(labels)) if len(labels) else (0, 0)
        if low < 0 or high >= limit:
            what = f"{limit} outputs of the model" if limit == outputs else f"{limit} classes"
            raise InputError(
                f"{batch.place}: label {low if low < 0 else high} is outside the {what} (0 … {limit - 1}); correct the "
                "labels, or give class_counts= if there are more classes"
            )
        return labels


class _BatchReader:
    """Turns what layers read into rows, and checks that every batch runs as the first one did."""

    def __init__(self, network: Network, receive: ReceiveRows) -> None:
        self._network, self._receive = network, receive
        self._identities: dict[str, Identity] = {}
        self._ran: set[str] = set()
        self._batch: Batch
        self._labels: Tensor

    def begin(self, batch: Batch, labels: Tensor) -> None:
        self._batch, self._labels = batch, labels
        self._identities.clear()
        self._ran.clear()

    def hook(self, name: str, _module: nn.Module, features: Tensor) -> None:
        """Receive what the call `name` reads.

        Raises:
            InputError: the call differs from the first batch, or its features cannot be measured.
        """
        point = self._network.points.get(name)
        if point is None:
            if "#" in name and name.split("#")[0] in self._network.points:
                raise InputError(f"{self._batch.place}: {name} ran more often than in the first batch")
            return
        self._ran.add(name)
        if point.source in self._network.shared_sources:
            self._check_shared(point, Identity(features))
        if point.source != name:
            return
        rows = rows_of(point, features, self._batch, self._network.reduction)
        try:
            self._receive(name, rows, self._labels)
        except ValueError as error:
            raise InputError(f"{self._batch.place}, layer {name}: {error}") from error

    def _check_shared(self, point: ProbePoint, identity: Identity) -> None:
        if point.source == point.name:
            self._identities[point.name] = identity
        elif self._identities.get(point.source) != identity:
            raise InputError(
                f"{self._batch.place}: {point.name} no longer reads the same features as {point.source}, as it did in "
                f"the first batch; measure it alone with layers={point.name!r}"
            )

    def check_all_ran(self) -> None:
        """Check that every probe point was reached.

        Raises:
            InputError: naming one that was not.
        """
        silent = next((name for name in self._network.points if name not in self._ran), None)
        if silent is not None:
            raise InputError(
                f"{self._batch.place}: {silent} did not run, as it did in the first batch; give layers= with layers "
                "that always run"
            )


def _decisions(scores: Scores | None, output: Any, batch: Batch) -> Tensor | None:
    """Return the class that the model decides for, for every label that counts; None without class scores."""
    return None if scores is None else scores.decisions(output, batch)


def rows_of(point: ProbePoint, features: Tensor, batch: Batch, reduction: Reduction) -> Tensor:
    """Return what a probe point reads as one row of features per label that counts.

    Raises:
        InputError: features and labels disagree, or features do not have the shape of the first batch.
    """
    labels, counted, mask = batch.labels, batch.counted, batch.mask
    found = point.axes.rows(features, tuple(labels.shape), point.shape)
    if found is None:
        raise InputError(
            f"{batch.place}: {point.name} reads {point.axes.count(features)} rows of features for {labels.numel()} labels"
        )
    features = found
    if labels.ndim > 1:
        mask = None
    if counted is not None:
        features, mask = features[counted], None if mask is None else mask[counted]
    rows = reduction(features, channels_first=point.channels_first, mask=mask)
    if rows.shape[1] != point.dim:
        raise InputError(
            f"{batch.place}: {point.name} reads features of shape {tuple(features.shape[1:])}, but {point.shape} in the "
            "first batch; pad inputs to one length, or reduce them (gap, mean, token)"
        )
    return rows if rows.is_floating_point() else rows.float()
