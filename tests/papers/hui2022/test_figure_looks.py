"""How the paper's figures look: nothing covered or cut off, the same bytes every time."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from figure_rows import FIGURES, charts, drawing
from matplotlib.text import Text

from collapselab.report.paper import draw, save_figures


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_no_text_is_cut_off_or_covered_and_no_panel_is_empty(name: str, seeds: int) -> None:
    figure = draw(drawing(name, seeds))
    figure.draw_without_rendering()
    canvas = figure.bbox.padded(1)
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_text())):
        assert isinstance(text, Text)
        (left, low), (right, high) = text.get_window_extent().get_points()
        assert canvas.contains(left, low), text.get_text()
        assert canvas.contains(right, high), text.get_text()
    for axes in figure.axes:
        assert axes.lines
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert not [pair for pair in combinations(titles, 2) if pair[0].overlaps(pair[1])]


def test_step_labels_of_figure_5_cover_neither_each_other_nor_points() -> None:
    figure = draw(drawing("fig5"))
    figure.draw_without_rendering()
    for axes, panel in zip(figure.axes, drawing("fig5").panels, strict=True):
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 3
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        means = [stroke for stroke in panel.strokes if not stroke.faint]
        points = axes.transData.transform(np.concatenate([np.stack([one.x, one.y], 1) for one in means]))
        assert not any(box.contains(*point) for box in boxes for point in points)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    experiment, rows = FIGURES["fig6"]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_figures(charts(experiment, rows(3)).values(), tmp_path / folder)
    for ending in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"fig6.{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fig6.pdf", "fig6.png"]


def test_a_page_of_panels_stays_small(tmp_path: Path) -> None:
    save_figures([drawing("fig2").chart], tmp_path)
    assert 30_000 < (tmp_path / "fig2.png").stat().st_size < 300_000
