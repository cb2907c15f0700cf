"""What must hold of every figure for paper: no text is cut off, no two tick labels or titles touch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.text import Text


def check_is_legible(figure: Figure) -> None:
    figure.draw_without_rendering()
    canvas = figure.bbox.padded(1)
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_text())):
        assert isinstance(text, Text)
        (left, low), (right, high) = text.get_window_extent().get_points()
        assert canvas.contains(left, low), text.get_text()
        assert canvas.contains(right, high), text.get_text()
    for axes in figure.axes:
        check_are_apart(axes.get_xticklabels())
        check_are_apart(axes.get_yticklabels())
    check_are_apart([axes.title for axes in figure.axes])


def check_are_apart(texts: Sequence[Text]) -> None:
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
