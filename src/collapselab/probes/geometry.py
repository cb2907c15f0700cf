"""The axes of samples and positions of everything that a network reads and returns.

An axis of samples has as many entries as samples were given, and its values for a sample do not depend on the others.
An axis of positions (tokens or pixels with a label each) follows the length of the sequence or the size of the map.

Letters: n samples of the first batch, m of the part, r labels of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from collapselab.probes.axes import Axes, Seen, Shape, changed_axes, same_values, scaled_axis
from collapselab.probes.batches import Batch
from collapselab.probes.inputs import Choice, Path


@dataclass
class Record:
    """What one forward pass did.

    Attributes:
        calls: what each call of a module read, by name.
        outputs: tensors that the model returned, by their path in the output.
    """

    calls: dict[str, Seen]
    outputs: dict[Path, Seen]

    @property
    def telling_outputs(self) -> list[Path]:
        """Outputs that must follow the samples: those named as logits, or else all that could hold samples."""
        outputs = [path for path, seen in self.outputs.items() if seen.picks]
        named = [path for path in outputs if path and str(path[-1]).startswith("logits")]
        return named or outputs


# Runs the model on a batch, where axes of the given lengths could hold samples.
Run = Callable[[Batch, tuple[int, ...]], Record]


@dataclass
class Geometry:
    """What the runs on parts of a batch told about its axes.

    Attributes:
        labels: shape of the labels of the first batch.
        full: the first batch.
        part: the samples `index` of it; None if the model takes no other batch.
        index: (m,) numbers of samples.
        by_values: whether the values of samples agree between both: they are independent of each other.
        cut: the part at other lengths; None if labels are one per sample, or if the model takes one size only.
        sizes: lengths of positions in `cut`.
        num_cut: number of samples in `cut`.
        choice: the axis of each input that holds samples, as far as it is known.
        assumed_axis: the axis of samples where `part` is None.
        notes: what is assumed.
        reordered: calls that read the samples of another batch in another order than they are given.
    """

    labels: Shape
    full: Record
    part: Record | None = None
    index: Tensor = field(default_factory=lambda: torch.arange(0))
    by_values: bool = False
    cut: Record | None = None
    sizes: Shape = ()
    num_cut: int = 0
    choice: Choice = field(default_factory=dict)
    assumed_axis: int = 0
    notes: list[str] = field(default_factory=list)
    reordered: frozenset[str] = frozenset()

    def of_call(self, name: str, channel_axis: int) -> Axes | str:
        """Return the axes of what a call reads, or why it has none of one row per label."""
        if name in self.reordered:
            return "samples in another order"
        three = [None if run is None else run.calls.get(name) for run in (self.part, self.cut)]
        return self._axes(self.full.calls[name], *three, channel_axes=(channel_axis,))

    def of_output(self, path: Path) -> Axes | str:
        """Return the axes of an output of the model, or why it has none of one row per label."""
        three = [None if run is None else run.outputs.get(path) for run in (self.part, self.cut)]
        return self._axes(self.full.outputs[path], *three, channel_axes=(-1, 1))

    def _axes(
        self, full: Seen, part: Seen | None, cut: Seen | None, channel_axes: tuple[int, ...]
    ) -> Axes | str:
        ndim, rank = len(full.shape), len(self.labels)
        fold = self.fold(full, part)
        if fold is not None:
            axis, order = fold
            if cut is not None and part is not None:
                r = math.prod(self.labels[1:])
                scaled = (len(self.index) * r, self.num_cut * math.prod(self.sizes))
                if scaled_axis(part.shape, cut.shape, *scaled) != axis:
                    return "at other positions than the labels"
            return Axes((axis,), order, rank, ndim) if order != "unknown" else "rows in an unknown order"
        samples = self.sample_axis(full, part)
        if isinstance(samples, str):
            return samples
        if self.cut is not None and cut is None:
            return "not reached by inputs of another size"
        if rank == 1:
            return Axes((samples,), "none", 1, ndim)
        if cut is not None and part is not None:
            return self._by_scaling(samples, part.shape, cut.shape)
        return self._by_layout(samples, full.shape, channel_axes)

    def sample_axis(self, full: Seen, part: Seen | None) -> int | str:
        """Return the axis that holds samples, or what is wrong."""
        n, m = self.labels[0], len(self.index)
        if self.part is None:
            fits = [axis for axis, length in enumerate(full.shape) if length == n]
            fits = [self.assumed_axis] if self.assumed_axis in fits else fits
            return fits[0] if fits and (len(fits) == 1 or fits[0] == 0) else "no axis of samples"
        if part is None:
            return "not reached by a part of the batch"
        if m == n:  # the same samples in another order
            axes = [axis for axis in full.picks if self._follows(full, part, axis)]
            return axes[0] if axes else "no axis of samples"
        axis = scaled_axis(full.shape, part.shape, n, m)
        if axis is None:
            return "no axis of samples"
        if self.by_values and not self._follows(full, part, axis):
            return "samples in another order, or that depend on each other"
        return axis

    def _follows(self, full: Seen, part: Seen, axis: int) -> bool:
        """Return whether an axis holds the samples of the part in their order, as far as rounding lets that be seen."""
        return axis in part.picks and same_values(
            full.picks[axis][self.index], part.picks[axis], roughly=True
        )

    def fold(self, full: Seen, part: Seen | None) -> tuple[int, Any] | None:
        """Return the axis that holds samples and positions together, and in which order."""
        n, m, r = self.labels[0], len(self.index), math.prod(self.labels[1:])
        if r == 1 or len(self.labels) == 1:
            return None
        if self.part is None:
            return (0, "samples first") if len(full.shape) == 2 and full.shape[0] == n * r else None
        axis = None if part is None else scaled_axis(full.shape, part.shape, n * r, m * r)
        if part is None or axis is None or axis not in part.picks:
            return None
        whole, some = full.picks[axis], part.picks[axis]
        if same_values(whole.unflatten(0, (n, r))[self.index].flatten(0, 1), some, roughly=True):
            return axis, "samples first"
        other = whole.unflatten(0, (r, n))[:, self.index].flatten(0, 1)
        return axis, "positions first" if same_values(other, some, roughly=True) else "unknown"

    def _by_scaling(self, samples: int, part: Shape, cut: Shape) -> Axes | str:
        rank, ndim = len(self.labels), len(part)
        if len(part) == len(cut) and cut[samples] == self.num_cut:
            cut = (*cut[:samples], part[samples], *cut[samples + 1 :])
        axes = changed_axes(part, cut)
        lengths = tuple((part[axis], cut[axis]) for axis in axes if len(part) == len(cut))
        if lengths == tuple(zip(self.labels[1:], self.sizes, strict=True)):
            return Axes((samples, *axes), "none", rank, ndim)
        if lengths == ((math.prod(self.labels[1:]), math.prod(self.sizes)),):
            return Axes((samples, *axes), "positions", rank, ndim)
        return "at other positions than the labels"

    def _by_layout(self, samples: int, shape: Shape, channel_axes: tuple[int, ...]) -> Axes | str:
        """Take the axes that are left beside samples and channels."""
        for channel in channel_axes:
            axes = [axis for axis in range(len(shape)) if axis not in (samples, channel % len(shape))]
            if tuple(shape[axis] for axis in axes[: len(self.labels) - 1]) == self.labels[1:]:
                return Axes((samples, *axes[: len(self.labels) - 1]), "none", len(self.labels), len(shape))
        return "at other positions than the labels"
