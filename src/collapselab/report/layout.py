"""From what a chart says to what is drawn: means over seeds, positions, ticks, legend, places of labels.

`paper` and `screen` draw a `Drawing` stroke by stroke, so that they cannot show different numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from collapselab.frames import finite, groups, numbers, rows_that
from collapselab.report.chart import NEUTRAL, Axis, Chart, Look, Panel, Series
from collapselab.report.labels import Label, place_labels
from collapselab.report.scales import Scale, is_log, make_scale
from collapselab.report.seeds import SEEDS_FOR_INTERVAL, over_seeds
from collapselab.text import number, percent

_MAX_ENTRIES = 12  # a longer legend would be larger than its panel
_Floats = tuple[float, ...]


@dataclass(frozen=True)
class Stroke:
    """Points, and the line through them, as they are drawn and read.

    Attributes:
        name: in readouts.
        look: colour, dash, marker.
        kind: as of the series: whether its points are joined, single, or bars.
        x, y: positions; NaN is a gap.
        values: what `y` stands for.
        points: what a readout calls each point.
        hollow: whether each marker is empty.
        faint: a single seed beside the mean.
        bars: lower and upper end of an error bar at each point, as positions; empty without.
    """

    name: str
    look: Look
    kind: Literal["line", "points", "dots", "bars"]
    x: _Floats
    y: _Floats
    values: _Floats
    points: tuple[str, ...]
    hollow: tuple[bool, ...]
    faint: bool = False
    bars: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Band:
    """The ground between two bounds, without gaps, as positions."""

    x: _Floats
    low: _Floats
    high: _Floats
    colour: str


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
    bands: tuple[Band, ...]
    labels: tuple[Label, ...]

    @property
    def is_empty(self) -> bool:
        return self.panel.heat is None and not any(len(finite(stroke.y)) for stroke in self.strokes)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A chart as it is drawn; `how` says what its lines, bands and bars are."""

    chart: Chart
    panels: tuple[DrawnPanel, ...]
    legend: tuple[Entry, ...]
    how: str


def lay_out(chart: Chart) -> Drawing:
    """Compute everything that is drawn."""
    panels = [_started(panel) for panel in chart.panels]
    columns = 1 + max(panel.place[1] for panel in panels)
    most_x, most_y = 7 if columns == 1 else 4, 6 if len(panels) <= columns else 4
    logs = list(zip(_logs(chart, panels, "x"), _logs(chart, panels, "y"), strict=True))
    means = [[over_seeds(one, *log) for one in panel.series] for panel, log in zip(panels, logs, strict=True)]
    values = [_values(panel, tables) for panel, tables in zip(panels, means, strict=True)]
    xs = _scales([panel.x for panel in panels], [x for x, _ in values], chart.share_x, most_x)
    ys = _scales([panel.y for panel in panels], [y for _, y in values], chart.share_y, most_y)
    drawn = tuple(_drawn(*parts) for parts in zip(panels, means, xs, ys, strict=True))
    return Drawing(chart, drawn, _legend(chart, panels), _how_drawn(chart, any(log for _, log in logs)))


def _started(panel: Panel) -> Panel:
    """Leave out the points before the axis starts."""
    if panel.x.start is None:
        return panel
    series = (
        replace(one, points=rows_that(one.points, one.points["x"] >= panel.x.start)) for one in panel.series
    )
    return replace(panel, series=tuple(series))


# ---------------------------------------------------------------- axes


def _logs(chart: Chart, panels: Sequence[Panel], which: Literal["x", "y"]) -> list[bool]:
    """Whether each panel's axis is logarithmic; all alike where it is shared."""
    values = [
        [value for one in panel.series for value in numbers(one.points, which)] + _levels(panel, which)
        for panel in panels
    ]
    if chart.share_x if which == "x" else chart.share_y:
        values = [[value for part in values for value in part]] * len(panels)
    return [
        is_log(panel.x if which == "x" else panel.y, part) for panel, part in zip(panels, values, strict=True)
    ]


def _levels(panel: Panel, which: str) -> list[float]:
    """Return the thresholds that the axis of values must show."""
    return [mark.at for mark in panel.marks if mark.axis == which == "y"]


def _values(panel: Panel, means: Sequence[pd.DataFrame]) -> tuple[list[float], list[float]]:
    """Return everything drawn along both axes."""
    x, y = [], _levels(panel, "y")
    for one, table in zip(panel.series, means, strict=True):
        x += numbers(one.points, "x")
        y += [value for name in ("mean", "low", "high") for value in numbers(table, name)]
        y += numbers(one.points, "y") if _shows_seeds(one, table) else []
        y += [0.0] if one.kind == "bars" else []
    return x, y


def _scales(axes: Sequence[Axis], values: Sequence[list[float]], shared: bool, most: int) -> list[Scale]:
    if not shared:
        return [make_scale(axis, part, most) for axis, part in zip(axes, values, strict=True)]
    return [make_scale(axes[0], [value for part in values for value in part], most)] * len(axes)


# ---------------------------------------------------------------- strokes


def _shows_seeds(series: Series, means: pd.DataFrame) -> bool:
    """Whether single seeds are drawn: always beside points, beside a line only while they are too few for an interval."""
    most = int(means["seeds"].max()) if len(means) else 0
    return (series.kind == "points" and "seed" in series.points) or (
        series.kind == "line" and 1 < most < SEEDS_FOR_INTERVAL
    )


def _drawn(panel: Panel, means: Sequence[pd.DataFrame], x: Scale, y: Scale) -> DrawnPanel:
    main: list[Stroke] = []
    faint: list[Stroke] = []
    for one, table in zip(panel.series, means, strict=True):
        if one.kind == "dots":
            main.append(_stroke(one, one.points, panel, x, y))
            continue
        main.append(_mean_stroke(one, table, panel, x, y))
        if _shows_seeds(one, table):
            faint += [
                replace(_stroke(one, part, panel, x, y), name=f"{one.name}, seed {seed}", faint=True)
                for seed, part in groups(one.points, "seed")
            ]
    bands = [
        band for one, table in zip(panel.series, means, strict=True) for band in _bands(one, table, x, y)
    ]
    labels = _labels([label for table in means for label in table["label"]], main, faint, x, y)
    drawn = DrawnPanel(panel, x, y, (*main, *faint), tuple(bands), labels)
    return _turned(drawn) if panel.sideways else drawn


def _turned(drawn: DrawnPanel) -> DrawnPanel:
    strokes = tuple(replace(stroke, x=stroke.y, y=stroke.x) for stroke in drawn.strokes)
    panel = replace(drawn.panel, x=drawn.panel.y, y=drawn.panel.x)
    return replace(drawn, panel=panel, x=drawn.y, y=drawn.x, strokes=strokes)


def _mean_stroke(one: Series, table: pd.DataFrame, panel: Panel, x: Scale, y: Scale) -> Stroke:
    stroke = _stroke(one, table.rename(columns={"mean": "y"}), panel, x, y)
    if one.kind == "line" or not table["low"].notna().any():
        return stroke
    return replace(stroke, bars=tuple(zip(y.place(table["low"]), y.place(table["high"]), strict=True)))


def _stroke(one: Series, table: pd.DataFrame, panel: Panel, x: Scale, y: Scale) -> Stroke:
    if one.kind == "line":
        table = table.sort_values("x", kind="stable")
    return Stroke(
        name=one.name,
        look=one.look,
        kind=one.kind,
        x=tuple((x.place(table["x"]) + one.shift * (x.high - x.low)).tolist()),
        y=tuple(y.place(table["y"]).tolist()),
        values=tuple(numbers(table, "y")),
        points=tuple(_point(row, panel) for row in table.to_dict("records")),
        hollow=tuple(map(bool, table["hollow"])) if "hollow" in table else (False,) * len(table),
    )


def _point(row: Mapping[Any, Any], panel: Panel) -> str:
    """What a readout calls a point: its name, where it stands, its seed, its bounds."""
    point = str(row.get("point", ""))
    if panel.x.names:
        parts = [panel.x.names[round(row["x"])], point]
    else:
        parts = [point, f"{panel.x.title} {number(row['x'])}"]
    if "seed" in row and "mean" not in row and panel.x.names:
        parts.append(f"seed {row['seed']}")
    if math.isfinite(low := row.get("low", math.nan)) and low < row["high"]:
        words = percent if panel.y.percent else number
        parts.append(f"between {words(low)} and {words(row['high'])}")
    return ", ".join(filter(None, parts))


def _bands(one: Series, table: pd.DataFrame, x: Scale, y: Scale) -> list[Band]:
    """The ground between the bounds of a line: one closed shape for every stretch of points that have them."""
    if one.kind != "line" or not (table["low"] < table["high"]).any():
        return []
    bounds = np.stack([x.place(table["x"]), y.place(table["low"]), y.place(table["high"])])
    gaps = np.flatnonzero(~np.isfinite(bounds).all(axis=0))
    stretches = np.split(bounds, np.sort(np.concatenate([gaps, gaps + 1])), axis=1)
    return [
        Band(*(tuple(row) for row in part.tolist()), colour=one.look.colour)
        for part in stretches
        if part.shape[1] > 1 and np.isfinite(part).all()
    ]


def _labels(
    texts: Sequence[str], main: Sequence[Stroke], faint: Sequence[Stroke], x: Scale, y: Scale
) -> tuple[Label, ...]:
    if not any(texts):
        return ()
    means = np.stack(
        [x.share(at for one in main for at in one.x), y.share(at for one in main for at in one.y)], axis=1
    )
    wanted = np.isfinite(means).all(axis=1) & np.array([bool(text) for text in texts])
    names = [text for text, is_wanted in zip(texts, wanted, strict=True) if is_wanted]
    others = [(at, up) for one in (*main, *faint) for at, up in zip(one.x, one.y, strict=True)]
    others += [
        (at, low + (high - low) * part / 8)
        for one in main
        for at, (low, high) in zip(one.x, one.bars or [(math.nan, math.nan)] * len(one.x), strict=True)
        for part in range(9)
    ]
    obstacles = np.stack([x.share(at for at, _ in others), y.share(up for _, up in others)], axis=1)
    return place_labels(names, means[wanted], obstacles[np.isfinite(obstacles).all(axis=1)])


# ---------------------------------------------------------------- words


def _legend(chart: Chart, panels: Sequence[Panel]) -> tuple[Entry, ...]:
    """Each entry once, in order; of very many the first and the last."""
    drawn = [one for panel in panels for one in panel.series if len(finite(one.points["y"]))]
    entries: dict[str, Entry] = {}
    for one in drawn:
        text = one.name if one.legend is None else one.legend
        entries.setdefault(text, Entry(text, one.look, one.kind == "line"))
    shown = list(entries.values())
    if len(shown) > _MAX_ENTRIES:
        between = Entry(
            f"{len(shown) - 2} between, in this order of colours", shown[len(shown) // 2].look, shown[0].line
        )
        shown = [shown[0], between, shown[-1]]
    marks = {mark.label: Entry(mark.label, mark.look, True) for panel in panels for mark in panel.marks}
    if any("hollow" in one.points and one.points["hollow"].any() for one in drawn):
        shown.append(Entry(chart.hollow, Look(NEUTRAL), False, hollow=True))
    return (*shown, *marks.values())


def _how_drawn(chart: Chart, is_log: bool) -> str:
    """What lines, points, bands and bars are, in words."""
    series = [
        one for panel in chart.panels for one in panel.series if "seed" in one.points and len(one.points)
    ]
    counts = sorted({one.points["seed"].nunique() for one in series})
    if not counts or counts[-1] == 1:
        return "one seed" if counts else ""
    seeds = f"{counts[-1]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    mean = "geometric mean" if is_log else "mean"
    kinds = {one.kind for one in series}
    if kinds == {"dots"}:
        return f"each point is one of {seeds}"
    if "points" in kinds:
        return f"large: {mean} of {seeds}, small: each seed"
    few = counts[-1] < SEEDS_FOR_INTERVAL
    return f"{mean} of {seeds}, {'thin lines: each seed' if few else 'band: its 95 % interval'}"
