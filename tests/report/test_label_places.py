"""Labels cover neither each other nor points, wherever these are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapselab.report.labels import Label, place_labels


def _overlap(a: Label, b: Label) -> bool:
    (left, low, right, high), (left2, low2, right2, high2) = a.box, b.box
    return left < right2 and left2 < right and low < high2 and low2 < high


def _covers(label: Label, x: float, y: float) -> bool:
    left, low, right, high = label.box
    return left < x < right and low < y < high


@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=1, max_size=6))
def test_labels_cover_neither_each_other_nor_points(points: list[tuple[float, float]]) -> None:
    labels = place_labels(
        [f"step {1000 * at:,}" for at in range(len(points))], np.array(points), np.zeros((0, 2))
    )
    assert not [pair for pair in combinations(labels, 2) if _overlap(*pair)]
    assert not [label for label in labels for point in points if _covers(label, *point)]
    for label in labels:
        left, low, right, high = label.box
        assert min(left, low) >= -1e-9
        assert max(right, high) <= 1 + 1e-9


@pytest.mark.parametrize("right", [1, -1])
@pytest.mark.parametrize("up", [1, -1])
def test_a_label_stands_where_nothing_is_drawn(right: int, up: int) -> None:
    grid = np.linspace(-0.3, 0.3, 31)
    taken = np.array([(0.5 + x, 0.5 + y) for x in grid for y in grid if not (x * right > 0 and y * up > 0)])
    (label,) = place_labels(["500"], np.array([[0.5, 0.5]]), taken)
    left, low, right_end, high = label.box
    assert ((left + right_end) / 2 - 0.5) * right > 0
    assert ((low + high) / 2 - 0.5) * up > 0


def test_a_clump_of_points_has_all_its_labels_apart() -> None:
    points = np.array([(0.10, 0.50), (0.11, 0.51), (0.115, 0.49), (0.12, 0.505)])
    labels = place_labels(
        ["step 2,000", "step 6,000", "step 12,000", "step 20,000"], points, np.zeros((0, 2))
    )
    assert not [pair for pair in combinations(labels, 2) if _overlap(*pair)]
    for label, point in zip(labels, points, strict=True):
        assert label.leader[0] == pytest.approx(tuple(point))
