"""Charts over depth: any number of lines by layer, with the first collapsed layer marked in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from collapselab.report.figures import (
    NEUTRAL,
    WEAK,
    Chart,
    escaped,
    log_axis,
    new_figure,
    plain,
)
from collapselab.report.profile_data import ProfileData

# Layer names stand at the axis while they are few and short enough for a phone; else depths do.
_MAX_NAMES, _MAX_NAME = 10, 14
_MAX_TICKS = 12
# Rounding of what is 0; blown up to the height of a chart it would look like a finding.
_NOISE = 1e-9
_FIRST = {"color": WEAK, "width": 2}


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in readouts and as the column of the table.
        values: by layer.
        colour, dash: as plotly names them.
        legend: what the legend calls it; its name if None.
        group: lines of one group share one entry of the legend, that of the first.
        low, high: bounds of the values, where these are estimates.
    """

    name: str
    values: pd.Series
    colour: str
    dash: str = "solid"
    legend: str | None = None
    group: str | None = None
    low: pd.Series | None = None
    high: pd.Series | None = None


@dataclass(frozen=True)
class Missing:
    """A chart that no layer has a value for.

    Attributes:
        title: that it would have.
        why: no layer has one.
    """

    title: str
    why: str


def layer_chart(
    data: ProfileData,
    lines: Sequence[Line],
    *,
    id: str,
    title: str,
    text: str,
    y_title: str,
    log_y: bool = False,
    percent: bool = False,
    level: tuple[float, str] | None = None,
    gaps: str = "",
) -> Chart | Missing:
    """Lines by layer.

    Args:
        data: tells the layers.
        lines: those without any value are left out.
        id, title, text: as in `Chart`.
        y_title: at the axis.
        log_y: whether the axis is logarithmic; it is not where no value is positive.
        percent: whether values are shares, written in percent.
        level: a value to compare with, drawn across, and its name.
        gaps: where values are missing, and why; said behind the text.
    """
    lines = [line for line in lines if line.values.notna().any()]
    if not lines:
        return Missing(title, gaps)
    figure = new_figure("", y_title)
    places = [f"{escaped(name)}, depth {depth}" for name, depth in zip(data.layers, data.depths, strict=True)]
    groups: set[str] = set()
    for line in lines:
        _add_band(figure, data.depths, line)
    for line in lines:
        figure.add_scatter(
            x=data.depths,
            y=plain(line.values),
            text=places if line.low is None else _with_bounds(places, line),
            # The legend may be shorter than what a readout says.
            name=line.legend or line.name,
            meta={"name": line.name, "percent": percent},
            legendgroup=line.group,
            showlegend=line.group not in groups,
            mode="lines+markers",
            line={"color": line.colour, "dash": line.dash, "width": 2.5},
            marker={"size": 7 if len(places) <= _MAX_TICKS else 5},
            hovertemplate=f"{line.name}<br>%{{text}}<br>%{{y:{'.1%' if percent else '.4g'}}}<extra></extra>",
        )
        groups |= {line.group} if line.group else set()
    values = [value for line in lines for value in line.values]
    if log_y and any(value > 0 for value in values):
        log_axis(figure, values)
    elif all(abs(value) < _NOISE for value in values if not math.isnan(value)):
        figure.update_yaxes(range=[-0.05, 1])
    if percent:
        figure.update_yaxes(tickformat=".0%")
    if level:
        figure.add_hline(
            y=level[0], line={"color": NEUTRAL, "dash": "dash", "width": 1.5}, name=level[1], showlegend=True
        )
    _mark_first(figure, data)
    entries = len({line.group or line.name for line in lines}) + bool(level) + bool(data.first_collapsed)
    # On a phone a long legend takes several rows.
    figure.update_layout(showlegend=True, height=340 + 12 * max(0, entries - 4))
    figure.update_xaxes(**_depth_axis(data))
    return Chart(id, title, f"{text} {gaps}".strip(), figure, _table(data, lines))


def _table(data: ProfileData, lines: Sequence[Line]) -> pd.DataFrame:
    columns: dict[str, Any] = {"layer": data.layers, "depth": data.depths}
    for line in lines:
        columns[line.name] = line.values.to_numpy()
        if line.low is not None and line.high is not None:
            columns[f"{line.name}, at least"] = line.low.to_numpy()
            columns[f"{line.name}, at most"] = line.high.to_numpy()
    return pd.DataFrame(columns)


def _mark_first(figure: go.Figure, data: ProfileData) -> None:
    depth = data.first_collapsed_depth
    if depth is not None:
        figure.add_vline(x=depth, line=_FIRST, name="first collapsed", showlegend=True, layer="below")


def _depth_axis(data: ProfileData) -> dict[str, Any]:
    names, depths = data.layers, data.depths
    # Half a step of air, so that neither end stands on the frame.
    axis: dict[str, Any] = {"range": [depths[0] - 0.5, depths[-1] + 0.5]}
    if len(names) <= _MAX_NAMES and max(map(len, names)) <= _MAX_NAME:
        return axis | {"tickvals": depths, "ticktext": [escaped(name) for name in names], "tickangle": -35}
    stride = math.ceil(len(depths) / _MAX_TICKS)
    return axis | {"tickvals": depths[::stride], "tickangle": 0, "title": {"text": "depth of the layer"}}


def _with_bounds(places: Sequence[str], line: Line) -> list[str]:
    assert line.low is not None
    assert line.high is not None
    return [
        f"{place}, between {low:.3g} and {high:.3g}" if low < high else place
        for place, low, high in zip(places, line.low, line.high, strict=True)
    ]


def _add_band(figure: go.Figure, depths: Sequence[int], line: Line) -> None:
    """The ground between the bounds: one closed shape for every stretch of layers that have them."""
    if line.low is None or line.high is None or not (line.low < line.high).any():
        return
    x: list[float | None] = []
    y: list[float | None] = []
    bounds = zip(depths, line.low, line.high, strict=True)
    stretch: list[tuple[int, float, float]] = []
    for depth, low, high in [*bounds, (0, math.nan, math.nan)]:
        if not math.isnan(low) and not math.isnan(high):
            stretch.append((depth, low, high))
        elif stretch:
            there, back = stretch, stretch[::-1]
            x += [depth for depth, _, _ in there] + [depth for depth, _, _ in back] + [None]
            y += [low for _, low, _ in there] + [high for _, _, high in back] + [None]
            stretch = []
    figure.add_scatter(
        x=x[:-1],
        y=y[:-1],
        name=f"{line.legend or line.name}, bounds",
        mode="lines",
        fill="toself",
        opacity=0.35,
        line={"color": line.colour, "width": 1},
        hoverinfo="skip",
    )
