"""Which axes of a tensor belong to the labels: how what a layer reads becomes one row per label.

Letters: n samples of a batch, r labels of one sample (tokens, pixels), p features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shape = tuple[int, ...]

# Values compared per sample; they suffice to tell one sample from another.
_NUM_PICKS = 32
# Kernels for other batch sizes round differently, most of all with TF32; another sample differs by as much as samples do.
_TOLERANCE, _ROUNDINGS = 0.05, 20


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor that belong to the axes of the labels; all others are features.

    Attributes:
        axes: with fold `none`, one axis of the tensor for each axis of the labels.
        fold: `positions`: two axes, of samples and of all positions. `samples first`: one axis of length n * r in which
            the positions of one sample are neighbours; `positions first`: in which the samples of one position are.
        num_label_axes: number of axes of the labels.
        ndim: number of axes of the tensor.
    """

    axes: tuple[int, ...]
    fold: Literal["none", "positions", "samples first", "positions first"]
    num_label_axes: int
    ndim: int

    def rest(self, shape: Shape) -> Shape:
        """Return the shape of the features of one label."""
        return tuple(length for axis, length in enumerate(shape) if axis not in self.axes)

    def rows(self, tensor: Tensor, labels: Shape, rest: Shape) -> Tensor | None:
        """Return (labels, *features), one row per label in the order of the flattened labels.

        Args:
            tensor: what a layer reads, or class scores.
            labels: shape of the labels of this batch.
            rest: shape of the features in the first batch; restores the axes that a model squeezed away in a batch of
                one sample.

        Returns:
            None where the lengths are not those of the labels.
        """
        lengths = self._lengths(labels)
        if tensor.ndim != self.ndim and labels[0] == 1:
            free, taken = iter(rest), dict(zip(self.axes, lengths, strict=True))
            shape = [taken[axis] if axis in taken else next(free, 1) for axis in range(self.ndim)]
            tensor = tensor.reshape(shape) if math.prod(shape) == tensor.numel() else tensor
        if tensor.ndim != self.ndim or tuple(tensor.shape[axis] for axis in self.axes) != lengths:
            return None
        front = tensor.movedim(self.axes, tuple(range(len(self.axes))))
        if self.fold == "positions first":
            front = front.unflatten(0, (-1, labels[0])).transpose(0, 1).flatten(0, 1)
        return front.flatten(0, len(self.axes) - 1)

    def count(self, tensor: Tensor) -> int:
        """Return how many rows a tensor has."""
        return math.prod(tensor.shape[axis] for axis in self.axes if axis < tensor.ndim)

    def _lengths(self, labels: Shape) -> Shape:
        labels = (*labels, *[1] * (self.num_label_axes - len(labels)))
        if self.fold == "none":
            return labels
        return (labels[0], math.prod(labels[1:])) if self.fold == "positions" else (math.prod(labels),)


@dataclass(frozen=True)
class Seen:
    """What is remembered of a tensor: its shape and, along axes that could hold samples, a few values.

    Attributes:
        picks: by axis, (length of the axis, 32) values at fixed positions of the other axes.
    """

    shape: Shape
    picks: dict[int, Tensor]


def look(tensor: Tensor, lengths: tuple[int, ...]) -> Seen:
    """Return what is remembered of a tensor.

    Args:
        lengths: an axis of such a length could hold samples.
    """
    shape = tuple(tensor.shape)
    try:
        picks = {axis: _pick(tensor, axis) for axis, length in enumerate(shape) if length in lengths}
    except (RuntimeError, NotImplementedError):  # tensors that cannot be indexed, such as sparse ones
        picks = {}
    return Seen(shape, picks)


def _pick(tensor: Tensor, axis: int) -> Tensor:
    moved = tensor.detach().movedim(axis, 0)
    if moved.is_complex():
        moved = torch.view_as_real(moved)
    steps = torch.arange(1, _NUM_PICKS + 1, dtype=torch.float64)
    where = [
        (steps * math.sqrt(number + 2) % 1 * size).long().to(tensor.device)
        for number, size in enumerate(moved.shape[1:])
    ]
    found = moved[(slice(None), *where)] if where else moved[:, None]
    rounding = torch.finfo(found.dtype).eps if found.is_floating_point() else 0.0
    values = found.cpu().double()
    # The rounding of the tensor's own dtype goes along as a column, so that it is known when values are compared.
    return torch.cat([values, torch.full((len(values), 1), rounding, dtype=torch.float64)], 1)


def same_values(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of picks agree up to rounding."""
    rounding = float(one[0, -1]) if len(one) else 0.0
    a, b = one[:, :-1].nan_to_num(), other[:, :-1].nan_to_num()
    if a.shape != b.shape:
        return False
    spread, size = (a - a.mean(0)).square().mean().sqrt(), a.square().mean().sqrt()
    allowed = max(_TOLERANCE, _ROUNDINGS * rounding) * spread + _ROUNDINGS * rounding * size
    return bool((a - b).square().mean().sqrt() <= allowed)


def changed_axes(before: Shape, after: Shape) -> list[int]:
    """Return the axes whose lengths differ; all of them if the numbers of axes do."""
    if len(before) != len(after):
        return list(range(len(before)))
    return [axis for axis, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]


def scaled_axis(before: Shape, after: Shape, old: int, new: int) -> int | None:
    """Return the only axis that changed, if its length went from `old` to `new`; None otherwise."""
    changed = changed_axes(before, after)
    if len(changed) != 1 or len(before) != len(after):
        return None
    return changed[0] if (before[changed[0]], after[changed[0]]) == (old, new) else None
