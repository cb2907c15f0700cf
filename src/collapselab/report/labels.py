"""Place labels of points so that they overlap neither each other nor other points; positions are fractions of a panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Upper bounds, as fractions of a panel: width and height of a character in tick labels of the narrowest panel.
_CHARACTER, _HEIGHT = 0.024, 0.07
_POINT = (0.014, 0.022)  # half the size of a marker
_DISTANCES = (0.03, 0.06, 0.1, 0.15, 0.21, 0.28)
_ANGLES = tuple(math.radians(angle) for angle in (45, 135, -45, -135, 90, -90, 0, 180, 20, 160, -20, -160))
_FAR = 1e-3  # cost of distance: of several positions without overlap, the nearest is chosen

Point = tuple[float, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """A text, its lower left corner, and the line from its point to it, as fractions of the panel."""

    text: str
    corner: Point
    leader: tuple[Point, Point]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The bounding box: left, low, right, high."""
        left, low = self.corner
        return left, low, left + _CHARACTER * len(self.text), low + _HEIGHT


def place_labels(texts: Sequence[str], points: Floats, obstacles: Floats) -> tuple[Label, ...]:
    """Place each label with the least overlap, given the labelled points (n, 2) and further obstacles (m, 2)."""
    centres = np.concatenate([points, obstacles]).reshape(-1, 2)
    taken = np.concatenate([centres - _POINT, centres + _POINT], axis=1)
    labels: list[Label] = []
    for text, point in zip(texts, points, strict=True):
        places = [_label(text, point, distance, angle) for distance in _DISTANCES for angle in _ANGLES]
        labels.append(min(places, key=lambda label: _cost(label, taken)))
        taken = np.concatenate([taken, [labels[-1].box]])
    return tuple(labels)


def _label(text: str, point: Floats, distance: float, angle: float) -> Label:
    x, y = math.cos(angle), math.sin(angle)
    end = (float(point[0] + distance * x), float(point[1] + 1.4 * distance * y))
    corner = (end[0] - _CHARACTER * len(text) * (1 - x) / 2, end[1] - _HEIGHT * (1 - y) / 2)
    return Label(text, corner, ((float(point[0]), float(point[1])), end))


def _cost(label: Label, taken: Floats) -> float:
    box = np.array(label.box)
    size = np.prod(box[2:] - box[:2])
    inside = np.prod(np.clip(np.minimum(box[2:], 1) - np.maximum(box[:2], 0), 0, None))
    shared = np.clip(np.minimum(box[2:], taken[:, 2:]) - np.maximum(box[:2], taken[:, :2]), 0, None)
    away = math.dist(*label.leader)
    return float(10 * (size - inside) + np.prod(shared, axis=1).sum() + _FAR * away * size)
