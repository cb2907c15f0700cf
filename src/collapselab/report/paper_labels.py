"""Labels of points that cover neither each other nor the points."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of a label from its point, in points, near ones first.
_OFFSETS = tuple(
    (side * x, y)
    for x, up, down in ((5, 4, -11), (9, 10, -18), (4, 16, -24), (15, -3, -3))
    for side in (1, -1)
    for y in (up, down)
)
_HALF_POINT = 4.0  # pixels of figures of 100 dots per inch, which they are while they are laid out


def move_labels_apart(axes: Axes) -> None:
    """Each label goes to the first place around its point where it covers no point, line or other label.

    Args:
        axes: of a figure that has been laid out; its annotations are moved.
    """
    from matplotlib.text import Annotation

    lines = [axes.transData.transform(np.asarray(line.get_xydata())) for line in axes.lines]
    points = np.concatenate([np.zeros((0, 2)), *(_dense(line) for line in lines)])
    taken = np.concatenate([points - _HALF_POINT, points + _HALF_POINT], axis=1)
    inside = np.array(axes.get_window_extent().extents, dtype=np.float64)
    for label in (text for text in axes.texts if isinstance(text, Annotation)):
        found: list[tuple[float, Float[np.ndarray, " 4"], tuple[int, int], str]] = []
        for offset in _OFFSETS:
            side = "left" if offset[0] > 0 else "right"
            label.set(position=offset, horizontalalignment=side)
            box = np.array(label.get_window_extent().extents, dtype=np.float64)
            outside = float((box[2] - box[0]) * (box[3] - box[1]) - _shared(box, inside[None])[0])
            found.append((float(_shared(box, taken).sum()) + outside, box, offset, side))
        _, box, offset, side = min(found, key=lambda place: round(place[0], 6))
        label.set(position=offset, horizontalalignment=side)
        taken = np.concatenate([taken, box[None]])


def _dense(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """The points of a line and what lies between them, a few pixels apart."""
    points = points[np.isfinite(points).all(axis=1)]
    shares = np.linspace(0, 1, 25)[:, None]
    return np.concatenate([points, *(start + (end - start) * shares for start, end in pairwise(points))])


def _shared(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Area that a box (left, low, right, high) shares with each of the others."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=1)
