"""The same chart as plotly draws it: interactive, read by keyboard, in light and dark.

The one module that imports plotly. Text and grid take their colours from the page.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from collapselab.report.chart import Axis, Look
from collapselab.report.layout import DrawnPanel, Stroke
from collapselab.report.scales import Scale, colour_scale

_SYMBOLS = {
    "circle": "circle", "square": "square", "triangle": "triangle-up", "diamond": "diamond", "bar": "line-ns-open",
    "none": "circle",
}  # fmt: skip
_HEIGHT = 300


def plotly_script() -> str:
    """Return the library as a page holds it, so that it works offline."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def draw(drawn: DrawnPanel) -> go.Figure:
    """Draw one panel, without the colours of text and ground.

    Each trace that is read has the name of its line in `meta.name`, whether values are shares in `meta.percent`, what
    points are called in `text` and what they stand for in `customdata`: positions along a logarithmic axis are not values.
    """
    figure = go.Figure()
    for band in drawn.bands:
        figure.add_scatter(
            x=[*band.x, *band.x[::-1]], y=[*band.low, *band.high[::-1]], mode="lines", fill="toself", opacity=0.25,
            line={"color": band.colour, "width": 0.5}, hoverinfo="skip",
        )  # fmt: skip
    is_percent = (drawn.panel.x if drawn.panel.sideways else drawn.panel.y).percent
    for order, stroke in enumerate(drawn.strokes):
        _add_stroke(figure, stroke, drawn.y, is_percent, -order)
    if drawn.panel.heat is not None:
        _add_heat(figure, drawn)
    _add_marks(figure, drawn)
    names = len(drawn.y.ticks) if drawn.panel.sideways or drawn.panel.heat is not None else 0
    figure.update_layout(
        template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", showlegend=False,
        margin={"l": 8, "r": 8, "t": 8, "b": 8}, height=max(_HEIGHT, 90 + 34 * names), hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13},
        xaxis=_axis(drawn.panel.x, drawn.x, 44) | {"tickangle": -35 if drawn.x.slanted else 0},
        yaxis=_axis(drawn.panel.y, drawn.y, 30),
    )  # fmt: skip
    return figure


def _axis(axis: Axis, scale: Scale, letters: int) -> dict[str, Any]:
    return {
        "title": {"text": "<br>".join(map(escaped, textwrap.wrap(axis.title, letters))) or None, "standoff": 8}, "range": [scale.low, scale.high], "automargin": True,
        "tickvals": [place for place, _ in scale.ticks], "ticktext": [escaped(text) for _, text in scale.ticks],
        "gridcolor": "rgba(128,128,128,0.22)", "zeroline": False,
        "fixedrange": True,
    }  # fmt: skip


def _add_stroke(figure: go.Figure, stroke: Stroke, scale: Scale, percent: bool, order: int) -> None:
    name = escaped(stroke.name)
    trace: dict[str, Any] = {
        "x": plain(stroke.x), "y": plain(stroke.y), "name": name, "customdata": plain(stroke.values),
        "text": [escaped(point) for point in stroke.points], "meta": {"name": name, "percent": percent, "beside": stroke.faint},
        "hovertemplate": f"{name}<br>%{{text}}<br>%{{customdata:{'.1%' if percent else '.4g'}}}<extra></extra>",
    }  # fmt: skip
    if stroke.kind == "bars":
        base = float(scale.place([0.0])[0])
        figure.add_bar(
            **trace
            | {"y": plain(np.array(stroke.y) - base), "base": base, "marker": {"color": stroke.look.colour}}
        )
        return
    if stroke.bars:
        low, high = np.array(stroke.bars).T
        up, down = plain(high - np.array(stroke.y)), plain(np.array(stroke.y) - low)
        trace["error_y"] = {"array": up, "arrayminus": down, "thickness": 1, "width": 3}
    figure.add_scatter(**trace, **_style(stroke, stroke.look), zorder=order)


def _style(stroke: Stroke, look: Look) -> dict[str, Any]:
    if stroke.kind == "line":
        width, size, opacity = (0.9, 0, 0.6) if stroke.faint else (2.5, 6, 1.0)
        mode = "lines" if stroke.faint or look.marker == "none" else "lines+markers"
    else:
        mode, width, size, opacity = "markers", 0, *((6, 0.5) if stroke.faint else (10, 1.0))
    symbol = _SYMBOLS[look.marker]
    return {
        "mode": mode, "opacity": opacity, "line": {"color": look.colour, "dash": look.dash, "width": width},
        "marker": {
            "size": size, "color": look.colour,
            "symbol": [f"{symbol}-open" if hollow else symbol for hollow in stroke.hollow],
            "line": {"width": 2.5} if look.marker == "bar" else {},
        },
    }  # fmt: skip


def _add_heat(figure: go.Figure, drawn: DrawnPanel) -> None:
    heat = drawn.panel.heat
    assert heat is not None
    scale = colour_scale(heat)
    rows = [plain(row) for row in heat.values.to_numpy(dtype=np.float64)]
    figure.add_heatmap(
        z=[plain(scale.place(row)) for row in heat.values.to_numpy(dtype=np.float64)], customdata=rows,
        x=list(range(heat.values.shape[1])), y=list(range(heat.values.shape[0])), xgap=1, ygap=1,
        zmin=scale.low, zmax=scale.high, colorscale="RdBu_r" if heat.diverging else "Viridis_r",
        meta={"x": [escaped(str(name)) for name in heat.values.columns], "y": [escaped(str(name)) for name in heat.values.index]},
        colorbar={"tickvals": [at for at, _ in scale.ticks], "ticktext": [text for _, text in scale.ticks], "thickness": 12},
        hoverinfo="none",
    )  # fmt: skip


def _add_marks(figure: go.Figure, drawn: DrawnPanel) -> None:
    for mark in drawn.panel.marks:
        line = {"color": mark.look.colour, "dash": mark.look.dash, "width": 1.5}
        if (mark.axis == "x") != drawn.panel.sideways:
            figure.add_vline(x=float(drawn.x.place([mark.at])[0]), line=line, name=mark.label, layer="below")
        else:
            figure.add_hline(y=float(drawn.y.place([mark.at])[0]), line=line, name=mark.label, layer="below")
    for label in drawn.labels:
        (from_x, from_y), (to_x, to_y) = label.leader
        place: dict[str, Any] = {"xref": "x domain", "yref": "y domain"}
        figure.add_shape(
            type="line",
            x0=from_x,
            y0=from_y,
            x1=to_x,
            y1=to_y,
            line={"color": "#8b93a3", "width": 0.8},
            **place,
        )
        figure.add_annotation(
            x=label.corner[0], y=label.corner[1], text=escaped(label.text), showarrow=False, xanchor="left", yanchor="bottom",
            font={"size": 12}, borderpad=0, **place,
        )  # fmt: skip
    if drawn.is_empty:
        figure.add_annotation(
            x=0.5, y=0.5, xref="x domain", yref="y domain", text="not measured", showarrow=False
        )


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: whatever is not finite is null."""
    return [float(value) if math.isfinite(value) else None for value in values]


def escaped(text: str) -> str:
    """Text for a figure: plotly takes angle brackets and entities for markup of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
