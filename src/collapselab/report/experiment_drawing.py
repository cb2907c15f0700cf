"""Lines through means over seeds, the range behind them, and logarithmic axes that have a place for 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from collapselab.report.experiment_data import (
    defined,
    log_ticks,
    over_seeds,
    place_of_zero,
    placed,
    said_seeds,
    spans_decades,
)
from collapselab.report.figures import Chart, escaped, new_figure, plain

_STEP = "SGD step"


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: in the legend, in readouts and in the table.
        rows: one per seed and place along the horizontal axis.
        column: what is drawn.
        colour, dash: as plotly names them.
    """

    name: str
    rows: pd.DataFrame
    column: str
    colour: str
    dash: str = "solid"


def curve_chart(
    series: Sequence[Series],
    *,
    x: str,
    id: str,
    title: str,
    text: str,
    y_title: str,
    x_title: str = _STEP,
    percent: bool = False,
) -> Chart:
    """Lines through means over seeds, with their range; the table holds every seed.

    Args:
        series: those without any value are left out.
        x: the column along the logarithmic horizontal axis.
        id, title, text: as in `Chart`.
        y_title, x_title: at the axes.
        percent: whether values are shares, written in percent; else the axis is logarithmic where they span decades.
    """
    series = [one for one in series if len(defined(one.rows[one.column]))]
    figure = new_figure(x_title, y_title)
    values = np.concatenate([defined(one.rows[one.column]) for one in series]) if series else np.zeros(0)
    logarithmic = not percent and spans_decades(values)
    places = [place for one in series for place in one.rows[x]]
    zero_x, zero_y = place_of_zero(places), place_of_zero(values) if logarithmic else None
    tables = [over_seeds(one.rows, x, one.column, geometric=logarithmic) for one in series]
    for one, table in zip(series, tables, strict=True):
        _add_range(figure, one, table, x, zero_x, zero_y)
    for one, table in zip(series, tables, strict=True):
        add_line(figure, one, table, x, zero_x, zero_y, percent=percent)
    _axes(figure, places, values, logarithmic, percent)
    figure.update_layout(height=340 + 12 * max(0, len(series) - 4))
    said = said_seeds(pd.concat([one.rows for one in series])) if series else "not measured"
    return Chart(id, title, f"{text} Lines: {said}.".strip(), figure, _table(series, tables, x))


def add_line(
    figure: go.Figure,
    one: Series,
    table: pd.DataFrame,
    x: str,
    zero_x: float | None,
    zero_y: float | None,
    *,
    percent: bool,
) -> None:
    """The line through the means; gaps where a value is undefined."""
    name = escaped(one.name)
    said = [
        f"{x.replace('_', ' ')} {place:g}" + (f", {low:.3g} to {high:.3g}" if count > 1 else "")
        for place, low, high, count in zip(table[x], table["low"], table["high"], table["seeds"], strict=True)
    ]
    figure.add_scatter(
        x=placed(table[x], zero_x),
        y=plain(placed(table["mean"], zero_y)),
        text=said,
        customdata=plain(table["mean"]),
        # What stands at a place of its own on a logarithmic axis is read as what it is.
        meta={"name": name, "percent": percent, "exact": True},
        name=name,
        mode="lines+markers",
        line={"color": one.colour, "dash": one.dash, "width": 2.5},
        marker={"size": 6},
        hovertemplate=f"{name}<br>%{{text}}<br>%{{customdata:{'.1%' if percent else '.3g'}}}<extra></extra>",
    )


def log_axis_with_zero(
    figure: go.Figure, which: Literal["x", "y"], values: Iterable[int | float], *, most: int
) -> None:
    """A logarithmic axis with a few readable ticks; 0, where it occurs, has one of its own."""
    values = list(values)
    ticks, texts = log_ticks(values, most)
    axis = {"type": "log", "dtick": None, "tickvals": ticks, "ticktext": texts, "tickangle": 0}
    figure.update_layout({f"{which}axis": axis})


def _axes(
    figure: go.Figure, places: Sequence[int | float], values: np.ndarray, logarithmic: bool, percent: bool
) -> None:
    if places:
        log_axis_with_zero(figure, "x", places, most=7)
    if logarithmic:
        log_axis_with_zero(figure, "y", values, most=8)
    elif percent:
        figure.update_yaxes(tickformat=".0%")
    elif len(values):
        figure.update_yaxes(range=[0, 1.08 * float(values.max()) or 1.0])


def _add_range(
    figure: go.Figure, one: Series, table: pd.DataFrame, x: str, zero_x: float | None, zero_y: float | None
) -> None:
    """The ground between the lowest and the highest seed: one closed shape for every stretch that has values."""
    if not (table["high"] > table["low"]).any():
        return
    bounds = zip(
        placed(table[x], zero_x), placed(table["low"], zero_y), placed(table["high"], zero_y), strict=True
    )
    xs: list[float | None] = []
    ys: list[float | None] = []
    stretch: list[tuple[float, float, float]] = []
    for place, low, high in [*bounds, (0.0, math.nan, math.nan)]:
        if not math.isnan(low):
            stretch.append((place, low, high))
        elif stretch:
            xs += [at for at, _, _ in stretch] + [at for at, _, _ in stretch[::-1]] + [None]
            ys += [low for _, low, _ in stretch] + [high for _, _, high in stretch[::-1]] + [None]
            stretch = []
    figure.add_scatter(
        x=xs[:-1],
        y=ys[:-1],
        mode="lines",
        fill="toself",
        opacity=0.3,
        line={"color": one.colour, "width": 0.5},
        hoverinfo="skip",
        showlegend=False,
    )


def _table(series: Sequence[Series], tables: Sequence[pd.DataFrame], x: str) -> pd.DataFrame:
    """Every number that is drawn, and every seed's."""
    if not series:
        return pd.DataFrame({x: []})
    columns = []
    for one, table in zip(series, tables, strict=True):
        means = table.set_index(x)["mean"].rename(one.name)
        seeds = one.rows.pivot_table(index=x, columns="seed", values=one.column, dropna=False)
        if seeds.shape[1] == 1:
            columns.append(means)
            continue
        columns.append(means.rename(f"{one.name}, mean"))
        columns += [seeds[seed].rename(f"{one.name}, seed {seed}") for seed in seeds.columns]
    return pd.concat(columns, axis=1).sort_index().reset_index(names=x)
