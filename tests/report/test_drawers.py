"""Paper and screen draw the same numbers of one chart; a figure for paper is legible and the same bytes every time."""

from __future__ import annotations

import gzip
import inspect
import math
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_up import chart, every_kind, falling, panel, series
from matplotlib.axes import Axes

from collapselab.report import paper, screen
from collapselab.report.chart import Axis, Heat, Panel
from collapselab.report.layout import Drawing, lay_out
from legible import check_is_legible

HOSTILE = "<b>&lt;$\\frac{a}$</b>"


def heat() -> Panel:
    values = pd.DataFrame(
        [[1.0, 0.1, 0.01], [0.5, math.nan, 0.001]], index=["first", "last"], columns=["a", "b", "c"]
    )
    return Panel(
        "heat",
        Axis("step", names=("a", "b", "c")),
        Axis(names=("first", "last"), reverse=True),
        heat=Heat(values, 1e-4, 1, log=True),
    )


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    return lay_out(every_kind())


def _on_screen(figure: Any) -> list[tuple[float, float]]:
    """Markers, tops of bars and ends of bars of errors, rounded."""
    out: list[tuple[float, float]] = []
    for trace in figure.data:
        if trace.hoverinfo == "skip" or trace.type == "heatmap":
            continue
        base = trace.base or 0.0 if trace.type == "bar" else 0.0
        y = [math.nan if value is None else value + base for value in trace.y]
        out += [(x, at) for x, at in zip(trace.x, y, strict=True)]
        if trace.error_y.array is not None:
            out += [(x, at + up) for x, at, up in zip(trace.x, y, trace.error_y.array, strict=True)]
            out += [(x, at - down) for x, at, down in zip(trace.x, y, trace.error_y.arrayminus, strict=True)]
    return sorted((round(x, 9), round(y, 9)) for x, y in out if math.isfinite(y))


def _on_paper(axes: Axes) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    bars: Any = axes.containers
    caps = {
        line
        for container in bars
        if hasattr(container, "lines") and container.lines
        for line in container.lines[1]
    }
    for line in axes.lines:
        is_mark = line.get_transform() != axes.transData
        if not is_mark and line not in caps:
            out += [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
    for line in caps:
        out += [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
    for patch in axes.patches:
        box: Any = patch
        out.append((box.get_x() + box.get_width() / 2, box.get_y() + box.get_height()))
    return sorted((round(x, 9), round(y, 9)) for x, y in out if math.isfinite(y))


@pytest.mark.parametrize("at", range(4))
def test_paper_and_screen_draw_the_same_numbers(drawing: Drawing, at: int) -> None:
    axes = paper.draw(drawing).axes[at]
    figure: Any = screen.draw(drawing.panels[at])
    assert len(_on_paper(axes)) > 2
    assert _on_paper(axes) == _on_screen(figure)
    for axis, name in ((axes.xaxis, "xaxis"), (axes.yaxis, "yaxis")):
        layout = figure.layout[name]
        assert [text.get_text() for text in axis.get_ticklabels()] == list(layout.ticktext)
        assert list(axis.get_ticklocs()) == pytest.approx(list(layout.tickvals))
    assert axes.get_xlim() == pytest.approx(figure.layout.xaxis.range)
    assert axes.get_ylim() == pytest.approx(figure.layout.yaxis.range)
    assert [text.get_text() for text in axes.texts] == [note.text for note in figure.layout.annotations]


def test_bands_are_the_same(drawing: Drawing) -> None:
    figure: Any = screen.draw(drawing.panels[0])
    band = next(trace for trace in figure.data if trace.hoverinfo == "skip")
    path = paper.draw(drawing).axes[0].collections[0].get_paths()[0].vertices
    assert {round(float(y), 9) for y in band.y} <= {round(float(y), 9) for y in np.asarray(path)[:, 1]}
    assert band.zorder < min(trace.zorder for trace in figure.data if trace.hoverinfo != "skip")


def test_heat_maps_have_the_same_cells() -> None:
    drawing = lay_out(chart(heat()))
    figure: Any = screen.draw(drawing.panels[0])
    cells = np.array([[math.nan if value is None else value for value in row] for row in figure.data[0].z])
    mesh: Any = paper.draw(drawing).axes[0].collections[0]
    assert np.ma.filled(mesh.get_array(), math.nan) == pytest.approx(cells, nan_ok=True)
    assert list(figure.data[0].customdata[0]) == [1.0, 0.1, 0.01]
    assert figure.data[0].meta["y"] == ["first", "last"]


def test_what_is_read_on_screen_are_values_and_not_positions(drawing: Drawing) -> None:
    figure: Any = screen.draw(drawing.panels[0])
    first = next(trace for trace in figure.data if trace.hoverinfo != "skip")
    assert first.customdata[2] == 0.0
    assert first.y[2] < -0.3
    gap = next(trace for trace in figure.data if trace.name == "gap")
    assert gap.y[1] is None
    assert screen.draw(drawing.panels[1]).data[0].meta["percent"]  # pyright: ignore[reportAttributeAccessIssue] plotly types data loosely


def test_hostile_names_are_text_in_both(tmp_path: Path) -> None:
    one = chart(
        panel(series(falling(), HOSTILE), title=HOSTILE, x=Axis(HOSTILE, "log"), y=Axis(HOSTILE)), title=HOSTILE, figure="hostile",
        notes=(HOSTILE,),
    )  # fmt: skip
    assert HOSTILE not in str(screen.draw(lay_out(one).panels[0]).to_plotly_json())
    assert [path.exists() for path in paper.save_figures([one], tmp_path)] == [True, True]


# ---------------------------------------------------------------- paper alone


def test_the_same_chart_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths = paper.save_figures([every_kind(), chart(panel())], tmp_path / folder)
        assert [path.name for path in paths] == ["every.pdf", "every.png"], "the second has no figure"
    for ending in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"every.{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert b"CreationDate" not in (tmp_path / "a" / "every.pdf").read_bytes()
    assert b"points: 50% at" in (tmp_path / "a" / "every.png").read_bytes(), "alternative text"


def test_a_figure_is_legible(drawing: Drawing) -> None:
    check_is_legible(paper.draw(drawing))


def test_the_style_ends_with_the_figure(drawing: Drawing) -> None:
    before = dict(matplotlib.rcParams)
    paper.draw(drawing)
    assert dict(matplotlib.rcParams) == before


def test_legends_read_row_by_row() -> None:
    lines = [series([[1.0, 2.0, 3.0]], f"a line of some length {index}") for index in range(4)]
    (legend, *_) = paper.draw(lay_out(chart(panel(*lines)))).legends
    figure = legend.figure
    assert figure is not None
    figure.draw_without_rendering()  # pyright: ignore[reportAttributeAccessIssue] a figure, not a part of one
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    texts = [text.get_text() for text in legend.get_texts()]
    ordered = [
        text for _, text in sorted(zip([(-round(box.y0), box.x0) for box in boxes], texts, strict=True))
    ]
    assert ordered == [f"a line of some length {index}" for index in range(4)]


def test_inner_panels_of_shared_axes_have_no_numbers() -> None:
    parts = [panel(series([[1.0, 2.0, 3.0]]), place=place) for place in ((0, 0), (0, 1), (1, 1))]
    first, second, third = paper.draw(lay_out(chart(*parts))).axes

    def numbers(axes: Axes) -> tuple[bool, bool]:
        shown = [[text.get_text() for text in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)]
        return any(shown[0]), any(shown[1])

    assert numbers(first) == (True, True)
    assert numbers(second) == (False, False)
    assert numbers(third) == (True, True), "where a panel is missing, its neighbour carries the numbers"


def test_the_library_on_a_page_draws_every_kind_of_chart() -> None:
    """A bundle of plotly.js has some of its traces; what it lacks would be an empty chart."""
    library = gzip.decompress(b64decode(screen.plotly_script())).decode()
    kinds = set(re.findall(r"figure\.add_(\w+)\(", inspect.getsource(screen))) - {"annotation"}
    assert kinds == {"scatter", "bar", "heatmap"}
    assert kinds <= set(re.findall(r'moduleType:"trace",name:"(\w+)"', library))
    assert "Licensed under the MIT license" in library[:300]
