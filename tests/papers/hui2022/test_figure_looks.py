"""How the paper's figures look: nothing covered or cut off, the same bytes every time."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from figure_rows import (
    EVERY,
    curves,
    drawn_once,
)
from matplotlib.axes import Axes
from matplotlib.text import Text

from collapselab.papers.hui2022 import figures
from collapselab.report.paper_style import paper_style, save_figure


def _ticks_out_of_view(axes: Axes) -> list[Text]:
    return [
        tick.label1
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seeds", [1, 3])
def test_no_text_is_cut_off_and_no_panel_is_empty(name: str, seeds: int) -> None:
    figure = drawn_once(name, seeds)
    canvas = figure.bbox.padded(1)
    unseen = {text for axes in figure.axes for text in _ticks_out_of_view(axes)}
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_text())):
        assert isinstance(text, Text)
        if text.get_visible() and text not in unseen:
            (left, low), (right, high) = text.get_window_extent().get_points()
            assert canvas.contains(left, low), text.get_text()
            assert canvas.contains(right, high), text.get_text()
    assert all(axes.lines for axes in figure.axes)


@pytest.mark.parametrize("name", EVERY)
def test_ticks_do_not_touch_each_other(name: str) -> None:
    figure = drawn_once(name)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            unseen = _ticks_out_of_view(axes)
            labels = [
                tick.label1.get_window_extent()
                for tick in axis.get_major_ticks()
                if tick.label1.get_visible() and tick.label1 not in unseen
            ]
            assert not [pair for pair in combinations(labels, 2) if pair[0].overlaps(pair[1])]


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig6", "footnote2", "fig3, rising"])
def test_what_is_said_of_full_collapse_covers_no_point(name: str) -> None:
    if name == "fig3, rising":
        rising = curves()
        rising["weak_test_variance"] = 1e-9 * (rising["step"] + 1.0)
        figure = figures.figure_3(rising)
        figure.draw_without_rendering()
    else:
        figure = drawn_once(name)
    axes = figure.axes[0]
    (said,) = axes.texts
    assert said.get_text() == "full collapse: 0 ↓"
    points = np.concatenate([axes.transData.transform(np.asarray(line.get_xydata())) for line in axes.lines])
    assert not any(said.get_window_extent().contains(*point) for point in points)


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    figure = figures.figure_1(curves(dataset="$\\frac{", model="a_b$"))
    save_figure(figure, tmp_path / "figure")
    assert (tmp_path / "figure.png").exists()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_figure(figures.figure_6(curves("mnist", "mlp", depths=4)), tmp_path / folder / "fig6")
    for ending in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"fig6.{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert b"CreationDate" not in (tmp_path / "a" / "fig6.pdf").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fig6.pdf", "fig6.png"]


def test_a_page_of_panels_stays_small(tmp_path: Path) -> None:
    save_figure(drawn_once("fig2"), tmp_path / "fig2")
    assert 30_000 < (tmp_path / "fig2.png").stat().st_size < 300_000


def test_the_style_ends_with_the_figure() -> None:
    before = dict(matplotlib.rcParams)
    with paper_style():
        assert matplotlib.rcParams["font.size"] == 8
    assert dict(matplotlib.rcParams) == before
