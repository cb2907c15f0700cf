"""Draw a chart with matplotlib: PDF and PNG, readable at the width of a column, with reproducible bytes.

The only module that imports matplotlib.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from collapselab.report.chart import Chart, Heat, Look
from collapselab.report.layout import Drawing, DrawnPanel, Entry, Stroke, lay_out
from collapselab.report.scales import Scale, colour_scale
from collapselab.report.words import alternative_text
from collapselab.storage import replace_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMN, _PAGE = 3.4, 7.0  # inches: one column, both columns
_SOFT = "#5b6472"  # words beside the data, 4.5 : 1 on white
_DASHES = {"solid": "-", "dash": (0, (4, 1.6)), "dot": (0, (1, 1.4)), "dashdot": (0, (4, 1.4, 1, 1.4))}
_MARKERS = dict(circle="o", square="s", triangle="^", diamond="D", cross="X", bar="|", none="")


@contextmanager
def _paper_style() -> Iterator[None]:
    """The style of everything that is made inside; nothing outside changes, pyplot plays no part."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing figures needs matplotlib: pip install 'collapselab[plots]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        with as_file(files("collapselab.report").joinpath("templates/paper.mplstyle")) as style:
            matplotlib.rcParams.update(matplotlib.rc_params_from_file(style, use_default_template=False))
        yield


def save_figures(charts: Iterable[Chart], folder: Path) -> list[Path]:
    """Write FIGURE.pdf and FIGURE.png of every chart that has a `figure`; the same charts give the same bytes.

    Returns:
        The paths of the files.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written to.
    """
    paths = []
    for drawing in (lay_out(chart) for chart in charts if chart.figure):
        title, figure = drawing.chart.title, draw(drawing)
        alt = " ".join(f"{drawn.panel.title}: {alternative_text(drawn)}" for drawn in drawing.panels)
        # Without the date and the version of matplotlib, which say nothing about the figure.
        pdf = {"CreationDate": None, "Producer": None, "Creator": None, "Title": title, "Subject": alt}
        png = {"Software": None, "Title": title, "Description": alt}
        for ending, metadata in (("pdf", pdf), ("png", png)):
            content = io.BytesIO()
            with _paper_style():
                figure.savefig(content, format=ending, metadata=metadata)
            paths.append(folder / f"{drawing.chart.figure}.{ending}")
            replace_bytes(paths[-1], content.getvalue())
    return paths


def show(drawing: Drawing) -> list[Axes]:
    """Draw a chart as a figure of pyplot, so that notebooks and `plt.show()` show it; return the axes of its panels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with _paper_style():
        from matplotlib import pyplot

        return draw(drawing, pyplot.figure).axes[: len(drawing.panels)]


def draw(drawing: Drawing, make: Callable[..., Figure] | None = None) -> Figure:
    """Draw a chart; `make` creates the figure, by default one that pyplot does not know.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows, columns = drawing.grid
    width = _COLUMN if columns == 1 else _PAGE
    entries = _in_rows(drawing.legend, width)
    with _paper_style():
        from matplotlib.figure import Figure

        height = _height(drawing, rows, len(entries))
        figure = (make or Figure)(figsize=(width, height), layout="constrained")
        grid = figure.add_gridspec(rows, columns)
        if rows > 1 and len({drawn.panel.y.title for drawn in drawing.panels}) == 1:
            figure.supylabel(_wrapped(drawing.panels[0].panel.y.title, height * 0.8), fontsize=8)
        for drawn in drawing.panels:
            axes = figure.add_subplot(grid[drawn.panel.place])
            title = _wrapped(drawn.panel.title, width / columns - 0.4)
            axes.set_title("\n".join(filter(None, [title, drawn.panel.subtitle])))
            _draw_axes(axes, drawn, drawing)
            _draw_data(axes, drawn)
        _write_around(figure, drawing, entries, width)
    return figure


def _height(drawing: Drawing, rows: int, legend: int) -> float:
    """Room for the legend, notes and every row of panels: as high as its names need, or as is usual."""
    chart, panels = drawing.chart, [drawn.panel for drawn in drawing.panels]
    names = [
        max((len(one.x.names) for one in chart.panels if one.sideways and one.place[0] == row), default=0)
        for row in range(rows)
    ]
    titles = max(bool(panel.title) + bool(panel.subtitle) for panel in panels)
    x_titles = 0.35 * (1 if chart.share_x else rows)
    plots = sum(0.3 * count or (1.7 if rows == 1 else 1.0) for count in names)
    return 0.2 + 0.16 * legend + 0.14 * len(chart.notes) + 0.16 * rows * titles + x_titles + plots


# ---------------------------------------------------------------- one panel


def _draw_axes(axes: Axes, drawn: DrawnPanel, drawing: Drawing) -> None:
    """Ticks and titles; where panels share an axis, only the outer ones carry its numbers."""
    (row, column), chart = drawn.panel.place, drawing.chart
    places = {other.panel.place for other in drawing.panels}
    shared = (chart.share_y, chart.share_x) if drawn.panel.sideways else (chart.share_x, chart.share_y)
    is_bottom = not shared[0] or not any(other > row and at == column for other, at in places)
    is_left = not shared[1] or not any((row, left) in places for left in range(column))
    y_title = "" if axes.figure.get_supylabel() else drawn.panel.y.title
    for axis, scale, title, is_outer, room in (
        (axes.xaxis, drawn.x, drawn.panel.x.title, is_bottom, 2.6),
        (axes.yaxis, drawn.y, y_title, is_left, 1.6),
    ):
        texts = [_plain(text) if is_outer else "" for _, text in scale.ticks]
        axis.set_ticks([place for place, _ in scale.ticks], labels=texts)
        axis.set_label_text(_wrapped(title, room) if is_outer else "")
    axes.set(xlim=(drawn.x.low, drawn.x.high), ylim=(drawn.y.low, drawn.y.high))
    axes.tick_params(axis="x", rotation=35 if drawn.x.slanted else 0)


def _draw_data(axes: Axes, drawn: DrawnPanel) -> None:
    if drawn.is_empty:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, color=_SOFT, ha="center")
    if drawn.panel.heat is not None:
        _draw_heat(axes, drawn.panel.heat)
    for mark in drawn.panel.marks:
        is_upright = (mark.axis == "x") != drawn.panel.sideways
        at = (drawn.x if is_upright else drawn.y).place([mark.at])[0]
        line = axes.axvline if is_upright else axes.axhline
        line(at, color=mark.look.colour, linestyle=_DASHES[mark.look.dash], linewidth=0.9)
    for stroke in reversed(drawn.strokes):
        _draw_stroke(axes, stroke, drawn.y)


def _draw_stroke(axes: Axes, stroke: Stroke, scale: Scale) -> None:
    x, y, hollow = np.array(stroke.x), np.array(stroke.y), np.array(stroke.hollow, dtype=bool)
    if stroke.kind == "bars":
        base = scale.place([0.0])[0]
        axes.bar(x, y - base, bottom=base, color=stroke.look.colour, width=0.7)
    if stroke.bounds and stroke.kind == "line":
        axes.fill_between(x, *np.array(stroke.bounds).T, color=stroke.look.colour, alpha=0.2, linewidth=0)
    elif stroke.bounds:
        ends = np.abs(np.array(stroke.bounds).T - y)
        axes.errorbar(x, y, yerr=ends, fmt="none", color=stroke.look.colour, elinewidth=0.8, capsize=2)
    if stroke.kind == "line":
        axes.plot(x, y, **_style(stroke.look, line=True, faint=stroke.faint))
    for is_hollow in (False, True) if stroke.kind in ("points", "dots") else ():
        if (hollow == is_hollow).any():
            style = _style(stroke.look, line=False, faint=stroke.faint, hollow=is_hollow)
            style |= {"markersize": 3} if stroke.small else {}
            axes.plot(x[hollow == is_hollow], y[hollow == is_hollow], **style)


def _style(look: Look, *, line: bool, faint: bool = False, hollow: bool = False) -> dict[str, Any]:
    style: dict[str, Any] = {
        "color": look.colour, "linestyle": _DASHES[look.dash] if line else "", "linewidth": 0.6 if faint else 1.4,
        "alpha": 0.55 if faint else 1.0, "marker": "" if line and faint else _MARKERS[look.marker],
        "markersize": 3 if line or faint else 5, "markeredgewidth": 0,
    }  # fmt: skip
    if look.marker == "bar":
        style |= {"markersize": 11, "markeredgewidth": 2}
    return style | ({"markerfacecolor": "white", "markeredgewidth": 0.9} if hollow else {})


def _draw_heat(axes: Axes, heat: Heat) -> None:
    scale = colour_scale(heat)
    cells = np.stack([scale.place(row) for row in heat.values.to_numpy(dtype=np.float64)])
    palette, grid = "RdBu_r" if heat.diverging else "viridis_r", np.arange
    edges = grid(cells.shape[1] + 1) - 0.5, grid(cells.shape[0] + 1) - 0.5
    image = axes.pcolormesh(*edges, cells, cmap=palette, vmin=scale.low, vmax=scale.high, edgecolor="white")
    bar = axes.figure.colorbar(image, ax=axes, label=heat.label)
    bar.set_ticks([place for place, _ in scale.ticks], labels=[text for _, text in scale.ticks])


# ---------------------------------------------------------------- around the panels


def _in_rows(entries: Sequence[Entry], width: float) -> list[Sequence[Entry]]:
    """Break the legend into the fewest rows that fit above the panels."""
    for per_row in range(len(entries), 0, -1):
        columns = [entries[at::per_row] for at in range(per_row)]
        if sum(0.47 + 0.053 * max(len(entry.text) for entry in column) for column in columns) <= width:
            return [entries[at : at + per_row] for at in range(0, len(entries), per_row)]
    return [[entry] for entry in entries]


def _write_around(figure: Figure, drawing: Drawing, entries: Sequence[Sequence[Entry]], width: float) -> None:
    """Write the legend above, with what lines and bands are, and the notes below."""
    from matplotlib.lines import Line2D

    per_row = max(map(len, entries), default=1)
    # Matplotlib fills columns first; readers read rows.
    ordered = [row[column] for column in range(per_row) for row in entries if column < len(row)]
    samples = [
        Line2D([], [], **_style(entry.look, line=entry.line, hollow=entry.hollow)) for entry in ordered
    ]
    texts = [_plain(entry.text) for entry in ordered]
    title, notes = _plain(drawing.how) or None, _wrapped(" ".join(drawing.chart.notes), width * 1.1)
    legend = figure.legend(samples, texts, loc="outside upper center", ncols=per_row, title=title)
    legend.get_title().set_color(_SOFT)
    figure.supxlabel(notes, fontsize=7, color=_SOFT)


def _wrapped(text: str, inches: float) -> str:
    """Break a line that is longer than its room at 8 points."""
    return _plain("\n".join(textwrap.wrap(text, max(math.floor(inches / 0.064), 12))))


def _plain(text: str) -> str:
    """Text for matplotlib, which takes dollars for the ends of formulas."""
    return text.replace("$", r"\$")
