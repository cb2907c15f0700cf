"""Content of a chart as plain data: series, axes, panels, marks. `paper` and `screen` draw it without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

# Spelt out: run-time checks of annotations take `float` to exclude whole numbers.
Number = int | float
Dash = Literal["solid", "dash", "dot", "dashdot"]
Marker = Literal["circle", "square", "triangle", "diamond", "cross", "bar", "none"]
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")
MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond")
# These stand out on light and on dark ground; text and grid take their colour from the page.
TRAIN, TEST, WEAK, NEUTRAL = "#3b82f6", "#f97316", "#10b981", "#8b93a3"
# An order of colours, from light to dark also in grey; no end is too dark or too pale for either ground.
_RAMP = ("#f59e0b", "#ef6c3a", "#e5488f", "#b04ae0", "#7c4df0")


@dataclass(frozen=True)
class Look:
    """How a series is drawn; its colour is `#rrggbb`."""

    colour: str
    dash: Dash = "solid"
    marker: Marker = "circle"


@dataclass(frozen=True)
class Axis:
    """One axis of a panel.

    Attributes:
        title: beside the axis.
        scale: `auto` is logarithmic where values, none of them negative, span a decade, and linear from 0 elsewhere; `tight` the
            same, but only as wide as the values; `log` and `linear` are always so.
        names: of a category axis: what stands at 0, 1, 2, …
        percent: values are shares of 1, written in percent.
        start: points before it are not drawn; the table has them.
        reverse: the first value stands at the top, or on the right.
    """

    title: str = ""
    scale: Literal["auto", "tight", "log", "linear"] = "auto"
    names: tuple[str, ...] = ()
    percent: bool = False
    start: Number | None = None
    reverse: bool = False


@dataclass(frozen=True, eq=False)
class Series:
    """Points that belong together.

    Attributes:
        name: in readouts and tables.
        points: a long table with columns `x` and `y` (NaN where undefined), one row per point and seed. Optional: `seed`;
            `group`, what a mean is taken over instead of all rows of one `x`; `point`, what a readout calls the point;
            `hollow`, points left out of the mean; `low` and `high`, bounds of an estimate;
            `trials`, where `y` is a share of that many trials.
        look: colour, dash and marker.
        kind: `line` through the means over seeds; `points` at the means and at every seed; `dots` at every row; `bars`.
        legend: entry of the legend, None for the name; series with the same entry share it.
        apart: `x` of the points that the line passes by.
    """

    name: str
    points: pd.DataFrame
    look: Look
    kind: Literal["line", "points", "dots", "bars"] = "line"
    legend: str | None = None
    apart: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Mark:
    """A straight line across a panel: `x` at a place (zero train error), `y` at a level (a threshold)."""

    axis: Literal["x", "y"]
    at: Number
    label: str
    look: Look = Look(NEUTRAL, "dash", "none")


@dataclass(frozen=True, eq=False)
class Heat:
    """A coloured cell for every row and column of a table, whose names stand along the axes.

    Colours go from `low` to `high`, by the logarithm where `log`, and over white in the middle where `diverging`; on paper
    their bar is labelled with what the `values` are.
    """

    values: pd.DataFrame
    low: Number
    high: Number
    log: bool = False
    diverging: bool = False
    label: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes.

    Attributes:
        title, subtitle: above it.
        x, y: along the axes.
        series: in order; the first is drawn on top.
        marks: lines across.
        heat: cells instead of series.
        place: row and column in the grid on paper; a page lets panels flow.
        sideways: `x` runs down and `y` to the right, so that long names of categories have room.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    marks: tuple[Mark, ...] = ()
    heat: Heat | None = None
    place: tuple[int, int] = (0, 0)
    sideways: bool = False
    subtitle: str = ""


@dataclass(frozen=True, eq=False)
class Chart:
    """One figure: what the paper shows and what the page shows.

    Attributes:
        id: of the element on the page.
        title: heading on the page.
        text: what a reader sees in it, with the numbers that matter.
        panels: in order; without any, the chart cannot be drawn and `text` says why.
        figure: name of the files FIGURE.pdf and FIGURE.png; empty if it is drawn on the page alone.
        share_x, share_y: whether all panels have the same axis (of panels that are `sideways`: before they are turned).
        notes: sentences a reader must know, under the figure.
        hollow: what hollow points are.
    """

    id: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    figure: str = ""
    share_x: bool = True
    share_y: bool = True
    notes: tuple[str, ...] = ()
    hollow: str = ""


def ordered_looks(count: int) -> list[Look]:
    """Return looks that are in order by colour, from light to dark, and told apart in grey by markers and dashes."""
    places = [(len(_RAMP) - 1) * index / max(count - 1, 1) for index in range(count)]
    return [Look(_between(at), DASHES[index % 4], MARKERS[index % 4]) for index, at in enumerate(places)]


def _between(place: Number) -> str:
    low, high = (_RAMP[min(int(place) + step, len(_RAMP) - 1)] for step in (0, 1))
    channels = ((int(low[at : at + 2], 16), int(high[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * (place % 1)):02x}" for a, b in channels)
