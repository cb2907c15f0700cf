"""Labels of points that cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Iterable
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


def move_labels_apart(axes: Axes) -> None:
    """Each label goes to the first place around its point where it covers no point, line or other label."""
    from matplotlib.text import Annotation

    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    taken: list[tuple[float, float, float, float]] = []
    for line in axes.lines:
        taken += [
            (x - 4, y - 4, x + 4, y + 4) for x, y in _dense(axes.transData.transform(line.get_xydata()))
        ]
    inside = axes.get_window_extent()
    for label in labels:
        best: tuple[float, tuple[float, float, float, float], tuple[int, int], str] | None = None
        for offset in _OFFSETS:
            side = "left" if offset[0] > 0 else "right"
            label.set(position=offset, horizontalalignment=side)
            box = label.get_window_extent()
            edges = (float(box.x0), float(box.y0), float(box.x1), float(box.y1))
            overlap = sum(_shared(edges, other) for other in taken)
            overlap += (edges[2] - edges[0]) * (edges[3] - edges[1]) - _shared(edges, inside.extents)
            if best is None or overlap < best[0] - 1e-9:
                best = (overlap, edges, offset, side)
        assert best is not None
        label.set(position=best[2], horizontalalignment=best[3])
        taken.append(best[1])


def _dense(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """Points of a line and what lies between them, a few pixels apart; separate points stay alone."""
    points = points[np.isfinite(points).all(axis=1)]
    between = [
        start + (end - start) * share for start, end in pairwise(points) for share in np.linspace(0, 1, 25)
    ]
    return np.array([*points, *between])


def _shared(a: Iterable[float], b: Iterable[float]) -> float:
    """Area of the overlap of two boxes."""
    (left, low, right, high), (x0, y0, x1, y1) = a, b
    return max(0.0, min(right, x1) - max(left, x0)) * max(0.0, min(high, y1) - max(low, y0))
