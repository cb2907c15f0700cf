"""A network as the engine of passes reads it: features of all probe points of a batch in one forward pass.

Letters: n samples of a batch, k labels of the label space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from collapselab.distributed import Split, differing_over_ranks, largest_over_ranks, run_together
from collapselab.errors import InputError
from collapselab.passes.stream import EndBatch, ReceiveRows
from collapselab.probes.batches import Batch, Readable
from collapselab.probes.capture import Taps
from collapselab.probes.forward import run_model, uncompiled
from collapselab.probes.kept import KeptFeatures
from collapselab.probes.label_space import LabelSpace
from collapselab.probes.performance import Tally
from collapselab.probes.plan import ProbePoint, check_means_fit
from collapselab.probes.reduce import Reduction
from collapselab.probes.runner import Identity
from collapselab.probes.scores import Scores

Result = TypeVar("Result")


@dataclass(frozen=True)
class Network:
    """A model with its probe points.

    Attributes:
        model: in evaluation mode.
        modules: modules to probe, by name.
        points: by name of the call.
        reduction: how features with several axes become rows.
        scores: where it returns its class scores; None where it has none.
        stats_device: where rows of features are put; None to leave them where they are.
        splits: what of the model is split over processes: see `collapselab.distributed.splits_of`.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    points: dict[str, ProbePoint]
    reduction: Reduction
    scores: Scores | None
    stats_device: torch.device | None = None
    splits: Split = None

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
        labels: the label space, with the counts of all processes together where they are known.
        is_shared: whether other processes read other batches.
        keeps: whether features of the first pass are kept for the second, if they fit.
    """

    in_memory = None

    def __init__(
        self,
        split: str,
        network: Network,
        loader: Readable,
        labels: LabelSpace,
        *,
        is_shared: bool = True,
        keeps: bool = False,
    ) -> None:
        # Where processes run parts of one model, all must make the same passes.
        num_labels = None if labels.counts is None else int(labels.counts.sum())
        self._kept = KeptFeatures(num_labels) if keeps and network.splits is None else None
        self.split = self.where = split
        self.is_shared = is_shared
        self.declared_counts = labels.counts
        self._network, self._loader, self._labels = network, loader, labels
        self._tally = Tally(network.scores)

    @property
    def label_values(self) -> Tensor:
        return self._labels.values

    @property
    def expected_labels(self) -> int | None:
        return self._labels.room

    def settle_labels(self) -> Tensor | None:
        return self._labels.settle()

    @property
    def can_be_read_again(self) -> bool:
        possible = bool(self._kept) or not self._loader.is_spent
        # Features may fit in one process and not in another.
        return possible if self._kept is None else not largest_over_ranks(int(not possible))

    def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        """Make one pass.

        Raises:
            InputError: in every process, whatever is wrong in any of them, with split, batch and layer.
        """
        run_together(
            lambda: self._read_kept(receive, end_batch) if self._kept else self._read(receive, end_batch)
        )

    def _read_kept(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        assert self._kept is not None
        for rows, labels, decisions in self._kept.read():
            numbers = self._labels.numbers(labels)
            for source, part in rows.items():
                receive(source, part, numbers)
            end_batch(numbers, partial(self._numbers_of, decisions))

    def _read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        network = self._network
        kept = self._kept

        def keeping(source: str, rows: Tensor, labels: Tensor) -> None:
            receive(source, rows, labels)
            if kept is not None:
                kept.add(source, rows)

        reader = _BatchReader(network, receive if kept is None else keeping)
        # Processes that gather parameters for each other must all end a forward pass before one of them gives up.
        in_step = self.is_shared and network.splits == "parameters"
        together = run_together if in_step else _at_once
        taps = Taps(network.hooked, reader.hook, defers_failures=in_step)
        with uncompiled(), taps:
            for batch in self._loader.read():
                labels = together(partial(self._numbered_labels, batch))
                reader.begin(batch, labels)
                output = run_model(network.model, batch, taps)
                together(partial(reader.check, taps))
                together(partial(self._tally.add, output, batch))
                if kept is not None and kept.fits:
                    kept.end_batch(batch.counted_labels, self._decisions(output, batch))
                end_batch(labels, partial(self._numbered_decisions, output, batch))
                del output  # it may contain features, which must not outlive their batch
            together(network.reduction.check)
        self._tally.close()
        if kept is not None:
            kept.complete()

    def performance(self) -> tuple[float, float] | None:
        """Return loss and accuracy of the network in the first pass; None if it has no class scores. All processes ask."""
        return run_together(lambda: self._tally.performance(is_shared=self.is_shared))

    def _numbered_labels(self, batch: Batch) -> Tensor:
        """Return the numbers of the labels that count, one per row of features.

        Raises:
            InputError: a label outside the label space or the outputs of the model, or too many labels.
        """
        labels, scores, space = batch.counted_labels, self._network.scores, self._labels
        outputs = None if scores is None else scores.num_classes
        if len(labels) == 0:
            return labels
        # As an array of numpy: the host has the labels, and reads them without asking an accelerator.
        given = labels.numpy()
        low, high = int(given.min()), int(given.max())
        if low < 0:
            raise InputError(
                f"{batch.place}: label {low} is negative; number the classes from 0, or give ignore_index={low} if it "
                "marks padding"
            )
        if outputs is not None and high >= outputs:
            raise InputError(
                f"{batch.place}: label {high} is outside the {outputs} outputs of the model (0 … {outputs - 1}); number the "
                f"classes from 0, or give ignore_index={high} if it marks padding, or scores=False if the outputs are no "
                "class scores (an embedding)"
            )
        if space.is_range and high < len(space):  # each label is its number
            return labels
        numbers = space.numbers(labels)
        unknown = numbers.numpy() == len(space)
        if not unknown.any():
            return numbers
        if space.room is None:
            raise InputError(
                f"{batch.place}: label {given[unknown][0]} is outside the {len(space)} classes known beforehand; "
                "give class_counts= as the loader yields them"
            )
        space.add(labels)
        for point in self._network.points.values():
            check_means_fit(point, len(space))
        return space.numbers(labels)

    def _decisions(self, output: Any, batch: Batch) -> Tensor | None:
        """Return the label that the model decides for, for every label that counts, if it has scores."""
        scores = self._network.scores
        return None if scores is None else scores.decisions(output, batch)

    def _numbered_decisions(self, output: Any, batch: Batch) -> Tensor | None:
        return self._numbers_of(self._decisions(output, batch))

    def _numbers_of(self, decisions: Tensor | None) -> Tensor | None:
        scores = self._network.scores
        if decisions is None or scores is None:
            return None
        return self._labels.numbers_below(decisions, scores.num_classes)


def _at_once(work: Callable[[], Result]) -> Result:
    return work()


class _BatchReader:
    """Turns what layers read into rows, and checks that every batch runs as the first one did."""

    def __init__(self, network: Network, receive: ReceiveRows) -> None:
        self._network, self._receive = network, receive
        self._identities: dict[str, Identity] = {}
        self._ran: set[str] = set()
        self._sums: list[Tensor] = []
        self._batch: Batch
        self._labels: Tensor
        self._mask: Tensor | None = None

    def begin(self, batch: Batch, labels: Tensor) -> None:
        self._batch, self._labels = batch, labels
        self._mask = self._network.reduction.mask_of(batch.inputs) if batch.labels.ndim == 1 else None
        self._identities.clear()
        self._ran.clear()
        self._sums.clear()

    def hook(self, name: str, _module: nn.Module, features: Tensor) -> None:
        """Receive what the call `name` reads.

        Raises:
            InputError: the call differs from the first batch, or its features cannot be measured.
        """
        point = self._network.points.get(name)
        if point is None:
            if "#" in name and name.split("#")[0] in self._network.points:
                raise InputError(
                    f"{self._batch.place}: {name} ran, which did not run in the first batch; {_without(name)}"
                )
            return
        self._ran.add(name)
        if point.source in self._network.shared_sources:
            self._check_shared(point, Identity(features))
        if point.source != name:
            return
        rows = rows_of(point, features, self._batch, self._network.reduction, self._mask)
        rows = rows if self._network.stats_device is None else rows.to(self._network.stats_device)
        if self._network.splits == "layers":
            self._sums.append(rows.double().sum())
        try:
            self._receive(name, rows, self._labels)
        except ValueError as error:
            raise InputError(
                f"{self._batch.place}, layer {name}: {error}; check the inputs and the weights of the model"
            ) from error

    def _check_shared(self, point: ProbePoint, identity: Identity) -> None:
        if point.source == point.name:
            self._identities[point.name] = identity
        elif self._identities.get(point.source) != identity:
            raise InputError(
                f"{self._batch.place}: {point.name} no longer reads the same features as {point.source}, as it did in "
                f"the first batch; measure it alone with layers={point.name!r}"
            )

    def check(self, taps: Taps) -> None:
        """Check that every probe point was reached, and that all processes of a split layer read the same.

        Raises:
            InputError: naming a point where this is not so.
            Exception: what a hook raised before.
        """
        if taps.failure is not None:
            raise taps.failure
        self._check_all_ran(taps.unreadable)
        if self._network.splits == "layers":
            sources = [point.name for point in self._network.points.values() if point.source == point.name]
            name = next(
                (sources[at] for at in differing_over_ranks([float(total) for total in self._sums])), None
            )
            if name is not None:
                raise InputError(
                    f"{self._batch.place}: {name} reads other features in every process: a part of a split layer, or "
                    "other batches; leave it out with layers=, or give a loader that yields the same batches everywhere"
                )

    def _check_all_ran(self, unreadable: Mapping[str, str]) -> None:
        if len(self._ran) == len(self._network.points):
            return
        silent = next(name for name in self._network.points if name not in self._ran)
        if silent in unreadable:
            raise InputError(f"{self._batch.place}: {silent} reads {unreadable[silent]}")
        raise InputError(
            f"{self._batch.place}: {silent} did not run, as it did in the first batch; {_without(silent)}"
        )


def _without(call: str) -> str:
    name = call.split("#")[0]
    return f"leave it out with layers='!{name}'"


def rows_of(
    point: ProbePoint, features: Tensor, batch: Batch, reduction: Reduction, mask: Tensor | None
) -> Tensor:
    """Return what a probe point reads as one row of features per label that counts.

    Complex features become their real parts, then their imaginary parts: distances are those of complex vectors.

    Args:
        point: where they are read.
        features: what is read.
        batch: the labels.
        reduction: how features become rows.
        mask: (n, tokens), true where a token is not padding.

    Raises:
        InputError: features and labels disagree, or features do not have the shape of the first batch.
    """
    labels = batch.labels
    found = point.axes.rows(features, tuple(labels.shape), point.shape)
    if found is None:
        raise InputError(
            f"{batch.place}: {point.name} reads {point.axes.count(features)} rows of features for {labels.numel()} labels, "
            f"unlike in the first batch; {_without(point.name)}"
        )
    features = batch.rows_that_count(found)
    # A model may be spread over devices.
    mask = None if mask is None else batch.rows_that_count(mask.to(found.device))
    if features.is_complex():
        parts = (features.real, features.imag)
        rows = torch.cat([reduction(part, channel_axis=point.channel_axis, mask=mask) for part in parts], 1)
    else:
        rows = reduction(features, channel_axis=point.channel_axis, mask=mask)
    if rows.shape[1] != point.dim:
        raise InputError(
            f"{batch.place}: {point.name} reads features of shape {tuple(features.shape[1:])}, but {point.shape} in the "
            "first batch; pad inputs to one length, or reduce them (gap, mean, token)"
        )
    return rows if rows.is_floating_point() else rows.float()
