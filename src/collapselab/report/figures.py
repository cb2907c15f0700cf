"""What every chart is made of: a figure without the colours of text and ground, its words, its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

# These stand out on light and on dark ground; whatever is text or grid takes its colour from the page.
TRAIN, TEST, WEAK, NEUTRAL = "#3b82f6", "#f97316", "#10b981", "#8b93a3"
# From the first layer to the classifier; no end is too dark or too pale for either ground.
_LAYERS = ("#f59e0b", "#ef4444", "#d946ef", "#8b5cf6", "#3b82f6", "#06b6d4", "#10b981", "#84cc16")
# A legend of more layers than this would be longer than its chart.
_MAX_LEGEND = 12


@dataclass(frozen=True)
class Chart:
    """A figure, what it shows in a sentence, and its numbers.

    Attributes:
        id: of the element on the page.
        title: above the chart.
        text: what a reader sees in it, with the numbers that matter; also its alternative text.
        figure: the plotly figure, without colours of text and ground.
        table: every number that is drawn.
    """

    id: str
    title: str
    text: str
    figure: go.Figure
    table: pd.DataFrame


def number(value: float | None) -> str:
    """A number for a reader: three digits."""
    return "undefined" if value is None or pd.isna(value) else f"{value:.3g}"


def new_figure(x_title: str, y_title: str, *, log_y: bool = False) -> go.Figure:
    figure = go.Figure()
    axis = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "automargin": True, "fixedrange": True}
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        height=340,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13},
        xaxis=axis | {"title": {"text": x_title}},
        yaxis=axis | {"title": {"text": y_title}},
    )
    if log_y:
        figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure


def spectra_figure(table: pd.DataFrame) -> go.Figure:
    """One falling line per layer, relative to its largest value.

    Args:
        table: a column per layer in order of depth, indexed by rank; NaN behind the last value.
    """
    figure = new_figure("rank", "share of the largest")
    many = table.shape[1] > _MAX_LEGEND
    for (layer, column), colour in zip(table.items(), shades(table.shape[1]), strict=True):
        values, name = column.dropna(), escaped(str(layer))
        largest = values.iloc[0] if len(values) else 0.0
        figure.add_scatter(
            x=values.index.tolist(),
            y=plain(values / largest) if largest > 0 else [0.0] * len(values),
            text=[f"number {index}" for index in values.index],
            customdata=plain(values),
            name=name,
            mode="lines" if many else "lines+markers",
            line={"color": colour, "width": 1.5 if many else 2},
            marker={"size": 5},
            hovertemplate=f"{name}<br>%{{text}}<br>%{{y:.3f}} of the largest, %{{customdata:.3g}}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    if many:
        _depth_bar(figure, table.shape[1])
    return figure


def _depth_bar(figure: go.Figure, count: int) -> None:
    """What the colours mean where a legend of all layers would be longer than the chart."""
    figure.update_layout(showlegend=False)
    figure.add_scatter(
        x=[None],
        y=[None],
        name="depth",
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [0],
            "cmin": 0,
            "cmax": count - 1,
            "colorscale": list(_LAYERS),
            "showscale": True,
            "colorbar": {"title": {"text": "depth"}, "thickness": 12, "outlinewidth": 0},
        },
    )


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: whatever is not finite is null."""
    return [float(value) if math.isfinite(value) else None for value in values]


def shades(count: int) -> list[str]:
    """One colour per layer by depth: the palette's own where it suffices, else what lies between them."""
    if count <= len(_LAYERS):
        return [_LAYERS[round(index * (len(_LAYERS) - 1) / max(count - 1, 1))] for index in range(count)]
    return [
        str(colour)
        for colour in sample_colorscale(list(_LAYERS), [index / (count - 1) for index in range(count)])
    ]


def log_axis(figure: go.Figure, values: Iterable[float]) -> None:
    """A logarithmic y axis with two to eight ticks, however little or much of it the values span."""
    positive = [value for value in values if math.isfinite(value) and value > 0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    decades = range(math.floor(low) - 1, math.ceil(high) + 2)
    if high - low < 1.5:
        steps = (1, 2, 5) if high - low > 0.5 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
    else:
        stride = math.ceil((high - low) / 7)
        ticks = [10.0**decade for decade in decades if decade % stride == 0]
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[_tick(value) for value in ticks])


def _tick(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    decade = math.floor(math.log10(value) + 1e-9)
    times = value / 10.0**decade
    return f"{'' if abs(times - 1) < 1e-6 else f'{times:g}×'}10<sup>{decade}</sup>"


def escaped(text: str) -> str:
    """Text for a figure: plotly takes angle brackets and entities for markup of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
