"""Labels of points that cover neither each other nor what is drawn: places in shares of a panel, for paper and screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collapselab.report.scales import Floats

# Of a panel, generously: a character at the size of tick labels in the narrowest panel of either drawer.
_CHARACTER, _HEIGHT = 0.024, 0.07
_POINT = (0.014, 0.022)  # half the size of a marker
_DISTANCES = (0.03, 0.06, 0.1, 0.15, 0.21, 0.28)
_ANGLES = tuple(math.radians(angle) for angle in (45, 135, -45, -135, 90, -90, 0, 180, 20, 160, -20, -160))
_FAR = 1e-3  # cost of distance: between places that cover nothing, the nearest wins

Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """Text, its left lower corner, and the line from it to its point, in shares of the panel."""

    text: str
    corner: Point
    leader: tuple[Point, Point]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The room it takes: left, low, right, high."""
        left, low = self.corner
        return left, low, left + _CHARACTER * len(self.text), low + _HEIGHT


def place_labels(texts: Sequence[str], points: Floats, obstacles: Floats) -> tuple[Label, ...]:
    """Put each label where it covers least.

    Args:
        texts: the labels.
        points: (n, 2), what each belongs to.
        obstacles: (m, 2), further points that labels must not cover.
    """
    centres = np.concatenate([points, obstacles]).reshape(-1, 2)
    taken = np.concatenate([centres - _POINT, centres + _POINT], axis=1)
    labels: list[Label] = []
    for text, point in zip(texts, points, strict=True):
        best = min(_candidates(text, point), key=lambda label: _cost(label, point, taken))
        labels.append(best)
        taken = np.concatenate([taken, [best.box]])
    return tuple(labels)


def _candidates(text: str, point: Floats) -> list[Label]:
    """Return places around a point, near ones first."""
    width, height = _CHARACTER * len(text), _HEIGHT
    labels = []
    for distance in _DISTANCES:
        for angle in _ANGLES:
            x, y = math.cos(angle), math.sin(angle)
            end = (float(point[0] + distance * x), float(point[1] + 1.4 * distance * y))
            corner = (end[0] - width * (1 - x) / 2, end[1] - height * (1 - y) / 2)
            labels.append(Label(text, corner, ((float(point[0]), float(point[1])), end)))
    return labels


def _cost(label: Label, point: Floats, taken: Floats) -> float:
    box = np.array(label.box)
    size = np.prod(box[2:] - box[:2])
    inside = np.prod(np.clip(np.minimum(box[2:], 1) - np.maximum(box[:2], 0), 0, None))
    shared = np.clip(np.minimum(box[2:], taken[:, 2:]) - np.maximum(box[:2], taken[:, :2]), 0, None)
    away = np.linalg.norm((box[:2] + box[2:]) / 2 - point)
    return float(10 * (size - inside) + np.prod(shared, axis=1).sum() + _FAR * away * size)
