"""Draw a chart with plotly: interactive, with keyboard navigation, in light and dark mode.

The only module that imports plotly. Text and grid take their colours from the page.
"""

from __future__ import annotations

import math
import textwrap
from base64 import b64encode
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy as np
import plotly.graph_objects as go

from collapselab.report.chart import Axis, Heat, Number
from collapselab.report.layout import DrawnPanel, Stroke
from collapselab.report.scales import Scale, colour_scale

# Others have plotly's names.
_SYMBOLS = {"triangle": "triangle-up", "cross": "x", "bar": "line-ns-open", "none": "circle"}
_BEHIND = -10_000
_HEIGHT, _ROW = 300, 34  # pixels: of a panel, and of a name beside it
_GRID, _CLEAR = "rgba(128,128,128,0.22)", "rgba(0,0,0,0)"


def plotly_script() -> str:
    """Return plotly.js as a page holds it, so that it works offline: gzipped, in base64.

    The package plotly contains only the complete library, of five megabytes. The bundle `cartesian` has the charts drawn here.
    """
    packed = files("collapselab.report").joinpath("templates/plotly-cartesian.min.js.gz")
    return b64encode(packed.read_bytes()).decode()


def draw(drawn: DrawnPanel) -> go.Figure:
    """Draw one panel, without the colours of text and ground.

    Each trace that is read has the name of its line in `meta.name`, whether values are shares in `meta.percent`, what
    points are called in `text` and what they stand for in `customdata`: positions along a logarithmic axis are not values.
    """
    figure = go.Figure()
    for order, stroke in enumerate(drawn.strokes):
        _add_stroke(figure, stroke, drawn, -order)
    if drawn.panel.heat is not None:
        _add_heat(figure, drawn.panel.heat)
    _add_marks(figure, drawn)
    names = len(drawn.y.ticks) if drawn.panel.y.names else 0
    figure.update_layout(
        template="none", paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR, showlegend=False, hovermode="closest",
        margin={"l": 8, "r": 8, "t": 8, "b": 8}, height=max(_HEIGHT, 90 + _ROW * names),
        font={"family": "system-ui, sans-serif", "size": 13},
        xaxis=_axis(drawn.panel.x, drawn.x, 34) | {"tickangle": -35 if drawn.x.slanted else 0},
        yaxis=_axis(drawn.panel.y, drawn.y, 30),
    )  # fmt: skip
    return figure


def _axis(axis: Axis, scale: Scale, letters: int) -> dict[str, Any]:
    title = "<br>".join(map(escaped, textwrap.wrap(axis.title, letters)))
    return {
        "title": {"text": title or None, "standoff": 8}, "range": [scale.low, scale.high], "automargin": True,
        "tickvals": [place for place, _ in scale.ticks], "ticktext": [escaped(text) for _, text in scale.ticks],
        "gridcolor": _GRID, "zeroline": False, "fixedrange": True,
    }  # fmt: skip


def _add_stroke(figure: go.Figure, stroke: Stroke, drawn: DrawnPanel, order: int) -> None:
    name, percent, y = escaped(stroke.name), drawn.values.percent, np.array(stroke.y)
    trace: dict[str, Any] = {
        "x": plain(stroke.x), "y": plain(y), "name": name, "customdata": plain(stroke.values),
        "text": list(map(escaped, stroke.points)), "meta": {"name": name, "percent": percent, "beside": stroke.faint},
        "hovertemplate": f"{name}<br>%{{text}}<br>%{{customdata:{'.1%' if percent else '.4g'}}}<extra></extra>",
    }  # fmt: skip
    if stroke.bounds and stroke.kind == "line":
        _add_band(figure, stroke)
    elif stroke.bounds:
        low, high = np.array(stroke.bounds).T
        bars = {"array": plain(high - y), "arrayminus": plain(y - low)}
        trace["error_y"] = bars | {"thickness": 1, "width": 3}
    if stroke.kind == "bars":
        base = float(drawn.y.place([0.0])[0])
        figure.add_bar(
            **trace | {"y": plain(y - base), "base": base, "marker": {"color": stroke.look.colour}}
        )
    else:
        figure.add_scatter(**trace, **_style(stroke), zorder=order)


def _add_band(figure: go.Figure, stroke: Stroke) -> None:
    """The ground between the bounds of a line: one closed shape for every stretch of points that have them."""
    bounds = np.column_stack([stroke.x, np.array(stroke.bounds)])
    gaps = np.flatnonzero(~np.isfinite(bounds).all(axis=1))
    style = {"fill": "toself", "opacity": 0.25, "line": {"color": stroke.look.colour, "width": 0.5}}
    for part in np.split(bounds, np.sort(np.concatenate([gaps, gaps + 1]))):
        if len(part) > 1 and np.isfinite(part).all():
            x, y = [*part[:, 0], *part[::-1, 0]], [*part[:, 1], *part[::-1, 2]]
            figure.add_scatter(x=x, y=y, mode="lines", hoverinfo="skip", zorder=_BEHIND, **style)


def _style(stroke: Stroke) -> dict[str, Any]:
    look, is_line = stroke.look, stroke.kind == "line"
    symbol = _SYMBOLS.get(look.marker, look.marker)
    has_marker = not (is_line and (stroke.faint or look.marker == "none"))
    return {
        "mode": "+".join(["lines"] * is_line + ["markers"] * has_marker), "opacity": 0.55 if stroke.faint else 1.0,
        "line": {"color": look.colour, "dash": look.dash, "width": 0.9 if stroke.faint else 2.5},
        "marker": {
            "size": 18 if look.marker == "bar" else 6 if is_line or stroke.faint or stroke.small else 10, "color": look.colour,
            "symbol": [f"{symbol}-open" if hollow else symbol for hollow in stroke.hollow],
            "line": {"width": 2.5} if look.marker == "bar" else {},
        },
    }  # fmt: skip


def _add_heat(figure: go.Figure, heat: Heat) -> None:
    scale, cells = colour_scale(heat), heat.values.to_numpy(dtype=np.float64)
    names = {"x": heat.values.columns, "y": heat.values.index}
    figure.add_heatmap(
        z=[plain(scale.place(row)) for row in cells], customdata=[plain(row) for row in cells],
        x=list(range(cells.shape[1])), y=list(range(cells.shape[0])), xgap=1, ygap=1, hoverinfo="none",
        zmin=scale.low, zmax=scale.high, colorscale="RdBu_r" if heat.diverging else "Viridis_r",
        meta={axis: [escaped(str(name)) for name in along] for axis, along in names.items()},
        colorbar={"tickvals": [at for at, _ in scale.ticks], "ticktext": [text for _, text in scale.ticks], "thickness": 12},
    )  # fmt: skip


def _add_marks(figure: go.Figure, drawn: DrawnPanel) -> None:
    for mark in drawn.panel.marks:
        is_upright = (mark.axis == "x") != drawn.panel.sideways
        place = float((drawn.x if is_upright else drawn.y).place([mark.at])[0])
        line = {"color": mark.look.colour, "dash": mark.look.dash, "width": 1.5}
        add = figure.add_vline if is_upright else figure.add_hline
        add(place, line=line, name=escaped(mark.label), layer="below")
    if drawn.is_empty:
        middle = {"x": 0.5, "y": 0.5, "xref": "x domain", "yref": "y domain"}
        figure.add_annotation(text="not measured", showarrow=False, **middle)


def plain(values: Iterable[Number]) -> list[float | None]:
    """Return numbers as JSON has them: whatever is not finite is null."""
    return [float(value) if math.isfinite(value) else None for value in values]


def escaped(text: str) -> str:
    """Return text for a figure: plotly takes angle brackets and entities for markup of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
