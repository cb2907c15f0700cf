"""Which axes of a tensor belong to the labels: how what a layer reads becomes one row per label.

Letters: n samples of a batch, r labels of one sample (tokens, pixels), p features.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Shape = tuple[int, ...]

# Values compared per sample, which tell one sample from another: fewer along axes with very many entries.
_NUM_PICKS, _MIN_PICKS, _MAX_VALUES = 32, 4, 2**18
# Kernels for other batch sizes round differently. Other samples differ by more than a fifth of the spread of samples.
_ROUNDINGS, _ROUNDINGS_OF_SPREAD, _CLEAR_DIFFERENCE = 20, 5000, 0.2


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

    def rest_axis(self, axis: int) -> int:
        """Return which axis of the features of one label an axis of the tensor is; both are counted from the last.

        An axis that belongs to the labels becomes the last: each of its entries is a sample.
        """
        after = [other for other in range(self.ndim + axis, self.ndim) if other not in self.axes]
        return -max(1, len(after))

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
        if self._are_samples and tensor.ndim == self.ndim and (tensor.shape[0],) == labels:
            return tensor
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

    @property
    def _are_samples(self) -> bool:
        """Whether rows are samples, in front as they are."""
        return self.axes == (0,) and self.fold == "none"

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
        picks: by axis, (length of the axis, up to 32) sums over the other axes, with fixed signs.
    """

    shape: Shape
    picks: dict[int, Tensor]


class Looks:
    """What is remembered of the tensors of one forward pass. An accelerator is asked for all values at once, at the end.

    Args:
        lengths: an axis of such a length could hold samples.
        signs: by device, the longest that were needed so far; looks may share them.
    """

    def __init__(self, lengths: tuple[int, ...], signs: dict[torch.device, Tensor]) -> None:
        self._lengths, self._signs = lengths, signs
        self._sums: list[Tensor] = []
        # Number of values behind each sum, and the dtype of these.
        self._kinds: list[tuple[int, torch.dtype]] = []
        self._seen: dict[Hashable, tuple[Shape, dict[int, int]]] = {}

    def look(self, key: Hashable, tensor: Tensor) -> None:
        """Look at a tensor, under a name of any kind."""
        shape = tuple(tensor.shape)
        try:
            sums = {
                axis: self._pick(tensor, axis) for axis, size in enumerate(shape) if size in self._lengths
            }
        except (RuntimeError, NotImplementedError):  # tensors that cannot be indexed, such as sparse ones
            sums = {}
        self._seen[key] = shape, sums

    def seen(self) -> dict[Any, Seen]:
        """Return what is remembered, by name."""
        found = [_scaled(sums, *kind) for sums, kind in zip(on_host(self._sums), self._kinds, strict=True)]
        return {
            key: Seen(shape, {axis: found[number] for axis, number in sums.items()})
            for key, (shape, sums) in self._seen.items()
        }

    def _pick(self, tensor: Tensor, axis: int) -> int:
        """Sum values along all axes but one; return the number of the sums."""
        moved = tensor.movedim(axis, 0) if axis else tensor
        if moved.is_complex():
            moved = torch.view_as_real(moved)
        count = max(_MIN_PICKS, min(_NUM_PICKS, _MAX_VALUES // max(len(moved), 1)))
        flat = moved.reshape(len(moved), -1)
        # Sums of all values with fixed signs: a few values alone can be equal in all rows, as those of one-hot vectors are.
        signed = flat * self._signs_of(flat.shape[1], flat.device)
        rest = -flat.shape[1] % _NUM_PICKS if flat.shape[1] > _NUM_PICKS else 0
        padded = torch.nn.functional.pad(signed, (0, rest)) if rest else signed
        groups = padded.unflatten(1, (-1, min(padded.shape[1], _NUM_PICKS)))
        self._sums.append(groups.sum(1)[:, :count])
        self._kinds.append((groups.shape[1], flat.dtype))
        return len(self._sums) - 1

    def _signs_of(self, count: int, device: torch.device) -> Tensor:
        known = self._signs.get(device)
        if known is None or len(known) < count:
            number = torch.arange(count, device=device)
            known = self._signs[device] = (1 - 2 * (number * 2654435761 // 65536 % 2)).float()
        return known[:count]


def _scaled(sums: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return sums in the dtype of the values, whose rounding they have; scaled where this could overflow."""
    if sums.dtype == dtype:
        return sums
    return (sums / math.sqrt(count)).to(dtype) if dtype.is_floating_point else sums.double()


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors as they are on the host; each device is asked once for those of one dtype."""
    out = list(tensors)
    elsewhere: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for number, tensor in enumerate(tensors):
        if tensor.device.type != "cpu":
            elsewhere.setdefault((tensor.device, tensor.dtype), []).append(number)
    for numbers in elsewhere.values():
        together = torch.cat([tensors[number].flatten() for number in numbers]).cpu()
        parts = together.split([tensors[number].numel() for number in numbers])
        for number, part in zip(numbers, parts, strict=True):
            out[number] = part.reshape(tensors[number].shape)
    return out


def same_values(one: Tensor, other: Tensor, *, roughly: bool = False) -> bool:
    """Return whether picks of the same samples agree up to rounding.

    Args:
        roughly: whether they only need to be nearer to each other than those of other samples.
    """
    if len(one) != len(other) or 0 in (one.numel(), other.numel()):
        return False
    count, rounding = min(one.shape[1], other.shape[1]), torch.finfo(one.dtype).eps
    # By numpy: for so few values, calls of torch take longer.
    a, b = (part[:, :count].double().nan_to_num().numpy() for part in (one, other))
    share = _CLEAR_DIFFERENCE if roughly else min(_CLEAR_DIFFERENCE, _ROUNDINGS_OF_SPREAD * rounding)
    with np.errstate(all="ignore"):  # infinite values are the largest of their dtype here
        spread, size = _root_mean_square(a - a.mean(0)), _root_mean_square(a)
        return bool(_root_mean_square(a - b) <= share * spread + _ROUNDINGS * rounding * size)


def _root_mean_square(values: npt.NDArray[np.float64]) -> float:
    flat = values.ravel()
    return math.sqrt(flat.dot(flat) / flat.size)


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
