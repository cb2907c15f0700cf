"""Lay out a chart: means over seeds, positions, ticks, legend.

`paper` and `screen` draw a `Drawing` stroke by stroke, so that they cannot show different numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from collapselab.frames import finite, groups, numbers, rows_that
from collapselab.inference import SEEDS_FOR_INTERVAL, over_seeds
from collapselab.report.chart import NEUTRAL, Axis, Chart, Look, Panel, Series
from collapselab.report.scales import Scale, is_log, make_scale
from collapselab.text import number, percent

_MAX_ENTRIES = 12  # a longer legend would be larger than its panel
Floats = tuple[float, ...]


@dataclass(frozen=True)
class Stroke:
    """Points, and the line through them, as they are drawn and read.

    Attributes:
        name: in readouts.
        look: colour, dash, marker.
        kind: as of its series.
        x, y: positions; NaN is a gap.
        values: what is read: the value of each point.
        points: what a readout calls each point.
        hollow: whether each marker is empty.
        faint: a single seed beside the mean.
        small: whether markers are as small as those of lines, which pass by some points.
        bounds: lower and upper end of the interval at each point, as positions, drawn as a band behind a line and as error
            bars elsewhere; empty without.
    """

    name: str
    look: Look
    kind: Literal["line", "points", "dots", "bars"]
    x: Floats
    y: Floats
    values: Floats
    points: tuple[str, ...]
    hollow: tuple[bool, ...]
    faint: bool = False
    small: bool = False
    bounds: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One entry of the legend: its sample is a line, a marker or both."""

    text: str
    look: Look
    line: bool
    hollow: bool = False


@dataclass(frozen=True, eq=False)
class DrawnPanel:
    """A panel as it is drawn; its strokes in the order in which they are read, the first on top."""

    panel: Panel
    x: Scale
    y: Scale
    strokes: tuple[Stroke, ...]

    @property
    def is_empty(self) -> bool:
        return self.panel.heat is None and not any(len(finite(stroke.y)) for stroke in self.strokes)

    @property
    def values(self) -> Axis:
        """The axis along which values are read."""
        return self.panel.x if self.panel.sideways else self.panel.y


@dataclass(frozen=True, eq=False)
class Drawing:
    """A chart as it is drawn; `how` says what its lines, bands and bars are."""

    chart: Chart
    panels: tuple[DrawnPanel, ...]
    legend: tuple[Entry, ...]
    how: str

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of panels on paper."""
        rows, columns = zip(*(panel.place for panel in self.chart.panels), strict=True)
        return 1 + max(rows), 1 + max(columns)


def lay_out(chart: Chart) -> Drawing:
    """Compute everything that is drawn."""
    panels = [_started(panel) for panel in chart.panels]
    columns = 1 + max(panel.place[1] for panel in panels)
    most_x, most_y = 7 if columns == 1 else 4, 6 if len(panels) <= columns else 4
    xs = _along_axis([_given(panel, "x") for panel in panels], chart.share_x)
    ys = _along_axis([_given(panel, "y") for panel in panels], chart.share_y)
    logs = [(is_log(panel.x, x), is_log(panel.y, y)) for panel, x, y in zip(panels, xs, ys, strict=True)]
    with_logs = zip(panels, logs, strict=True)
    means = [[over_seeds(one.points, *log) for one in panel.series] for panel, log in with_logs]
    ys = _along_axis([_shown(*pair) for pair in zip(panels, means, strict=True)], chart.share_y)
    drawn = tuple(
        _drawn(panel, tables, make_scale(panel.x, x, most_x), make_scale(panel.y, y, most_y))
        for panel, tables, x, y in zip(panels, means, xs, ys, strict=True)
    )
    return Drawing(chart, drawn, _legend(chart, panels), _how_drawn(chart, {log for _, log in logs}))


def _started(panel: Panel) -> Panel:
    """Leave out the points before the axis starts."""
    if (start := panel.x.start) is None:
        return panel
    series = (replace(one, points=rows_that(one.points, one.points["x"] >= start)) for one in panel.series)
    return replace(panel, series=tuple(series))


def _along_axis(values: list[list[float]], shared: bool) -> list[list[float]]:
    """Return the values that each panel's axis must show: all of them where it is shared."""
    return [[value for part in values for value in part]] * len(values) if shared else values


def _given(panel: Panel, which: Literal["x", "y"]) -> list[float]:
    """Return the values of all points, and the thresholds that an axis of values must show."""
    levels = [mark.at for mark in panel.marks if mark.axis == which == "y"]
    return levels + [value for one in panel.series for value in numbers(one.points, which)]


def _shown(panel: Panel, means: Sequence[pd.DataFrame]) -> list[float]:
    """Return the values that are drawn: thresholds, means, bounds, and seeds where these are shown."""
    shown = [mark.at for mark in panel.marks if mark.axis == "y"]
    for one, table in zip(panel.series, means, strict=True):
        shown += [value for name in ("y", "low", "high") for value in numbers(table, name)]
        shown += numbers(one.points, "y") if one.kind == "dots" or _shows_seeds(one, table) else []
        shown += [0.0] if one.kind == "bars" else []
    return shown


def _shows_seeds(one: Series, means: pd.DataFrame) -> bool:
    """Whether single seeds are drawn: always beside points, beside a line while they are too few for an interval."""
    few = 1 < max(numbers(means, "seeds"), default=0) < SEEDS_FOR_INTERVAL
    return "seed" in one.points and (one.kind == "points" or (one.kind == "line" and few))


# ---------------------------------------------------------------- strokes


def _drawn(panel: Panel, means: Sequence[pd.DataFrame], x: Scale, y: Scale) -> DrawnPanel:
    main: list[Stroke] = []
    faint: list[Stroke] = []
    for one, table in zip(panel.series, means, strict=True):
        shown, is_apart = one.points if one.kind == "dots" else table, table["x"].isin(one.apart)
        if is_apart.any():
            main.append(_stroke(replace(one, kind="points"), rows_that(table, is_apart), panel, x, y))
            shown = rows_that(table, ~is_apart)
        main.append(_stroke(one, shown, panel, x, y))
        for seed, part in groups(one.points, "seed") if _shows_seeds(one, table) else ():
            own = _stroke(replace(one, name=f"{one.name}, seed {seed}"), part, panel, x, y)
            faint.append(replace(own, faint=True))
    drawn = DrawnPanel(panel, x, y, (*main, *faint))
    if not panel.sideways:
        return drawn
    turned = tuple(replace(stroke, x=stroke.y, y=stroke.x) for stroke in drawn.strokes)
    return replace(drawn, panel=replace(panel, x=panel.y, y=panel.x), x=y, y=x, strokes=turned)


def _stroke(one: Series, table: pd.DataFrame, panel: Panel, x: Scale, y: Scale) -> Stroke:
    table = table.sort_values("x", kind="stable") if one.kind == "line" else table
    has_bounds = "seeds" in table and (table["low"] < table["high"]).any()
    return Stroke(
        one.name,
        one.look,
        one.kind,
        tuple(x.place(table["x"]).tolist()),
        tuple(y.place(table["y"]).tolist()),
        tuple(numbers(table, "y")),
        tuple(_point(row, panel) for row in table.to_dict("records")),
        tuple(map(bool, table["hollow"])) if "hollow" in table else (False,) * len(table),
        small=bool(one.apart),
        bounds=tuple(zip(y.place(table["low"]), y.place(table["high"]), strict=True)) if has_bounds else (),
    )


def _point(row: Mapping[Any, Any], panel: Panel) -> str:
    """What a readout calls a point: its name, where it stands, its seed, its bounds."""
    name, place = str(row.get("point", "")), f"{panel.x.title} {number(row['x'])}"
    parts = [panel.x.names[round(row["x"])], name] if panel.x.names else [name, place]
    if panel.x.names and "seed" in row:
        parts.append(f"seed {row['seed']}")
    if math.isfinite(low := row.get("low", math.nan)) and low < row["high"]:
        say = percent if panel.y.percent else number
        parts.append(f"between {say(low)} and {say(row['high'])}")
    return ", ".join(filter(None, parts))


# ---------------------------------------------------------------- words


def _legend(chart: Chart, panels: Sequence[Panel]) -> tuple[Entry, ...]:
    """Each entry once, in order; of very many the first and the last."""
    series = [one for panel in panels for one in panel.series if len(finite(one.points["y"]))]
    entries: dict[str, Entry] = {}
    for one in series:
        text = one.name if one.legend is None else one.legend
        entries.setdefault(text, Entry(text, one.look, one.kind == "line"))
    shown = list(entries.values())
    if len(shown) > _MAX_ENTRIES:
        words = f"{len(shown) - 2} between, in this order of colours"
        shown = [shown[0], replace(shown[len(shown) // 2], text=words), shown[-1]]
    if any("hollow" in one.points and one.points["hollow"].any() for one in series):
        shown.append(Entry(chart.hollow, Look(NEUTRAL), False, hollow=True))
    marks = {mark.label: Entry(mark.label, mark.look, True) for panel in panels for mark in panel.marks}
    return (*shown, *marks.values())


def _how_drawn(chart: Chart, logs: set[bool]) -> str:
    """What lines, points and bands are, in words."""
    series = [
        one for panel in chart.panels for one in panel.series if "seed" in one.points and len(one.points)
    ]
    counts = sorted({one.points["seed"].nunique() for one in series})
    if not counts or counts[-1] == 1:
        return "one seed" if counts else ""
    seeds = f"{counts[-1]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    kinds = {one.kind for one in series}
    if kinds == {"dots"}:
        return f"each point is one of {seeds}"
    mean = "geometric mean" if logs == {True} else "mean (geometric on log axes)" if True in logs else "mean"
    if "points" in kinds:
        return f"large: {mean} of {seeds}, small: each seed"
    each = "thin lines: each seed" if counts[-1] < SEEDS_FOR_INTERVAL else "band: its 95% interval"
    return f"{mean} of {seeds}, {each}"
