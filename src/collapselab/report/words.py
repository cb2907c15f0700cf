"""A drawn chart for those who do not see it: alternative text, and the table of every number."""

from __future__ import annotations

import numpy as np
import pandas as pd

from collapselab.frames import groups
from collapselab.report.chart import Panel, Series
from collapselab.report.layout import Drawing, DrawnPanel, Stroke
from collapselab.report.seeds import over_seeds
from collapselab.text import number, percent

_MAX_TOLD = 8


def alternative_text(drawn: DrawnPanel) -> str:
    """Describe a panel in words: what is along its axes, where each line begins, ends and is lowest, or each point."""
    panel = drawn.panel
    if panel.heat is not None:
        return _heat_text(panel)
    if drawn.is_empty:
        return "Not measured."
    strokes = [stroke for stroke in drawn.strokes if not stroke.faint and np.isfinite(stroke.values).any()]
    told = strokes if len(strokes) <= _MAX_TOLD else [strokes[0], strokes[-1]]
    more = f" {len(strokes) - 2} more lines between." if len(strokes) > _MAX_TOLD else ""
    as_percent = (panel.x if panel.sideways else panel.y).percent
    scale = "logarithmic" if drawn.y.log else "linear"
    head = f"{panel.y.title or 'value'} ({scale}) over {panel.x.title or 'layers'}."
    marks = "".join(f" {mark.label}: {number(mark.at)}." for mark in panel.marks)
    return f"{head} {' '.join(_stroke_text(stroke, as_percent) for stroke in told)}{more}{marks}"


def _stroke_text(stroke: Stroke, as_percent: bool) -> str:
    told = [
        (point, value)
        for point, value in zip(stroke.points, stroke.values, strict=True)
        if np.isfinite(value)
    ]
    if stroke.kind == "line":
        lowest = min(told, key=lambda pair: pair[1])
        told = list(dict.fromkeys([told[0], lowest, told[-1]]))
    words = percent if as_percent else number
    return f"{stroke.name}: {'; '.join(f'{words(value)} at {point}' for point, value in told)}."


def _heat_text(panel: Panel) -> str:
    assert panel.heat is not None
    values = panel.heat.values
    lines = (
        f"{name}: {number(row.iloc[0])} at {values.columns[0]}, {number(row.iloc[-1])} at {values.columns[-1]}."
        for name, row in values.iterrows()
    )
    return f"Colours from {number(panel.heat.low)} to {number(panel.heat.high)}. {' '.join(lines)}"


def table_of(drawing: Drawing) -> pd.DataFrame:
    """Return every number of a chart: means, bounds and every seed, also of points before the start of an axis."""
    tables = []
    for panel, drawn in zip(drawing.chart.panels, drawing.panels, strict=True):
        log_x, log_y = (drawn.y.log, drawn.x.log) if panel.sideways else (drawn.x.log, drawn.y.log)
        if panel.heat is not None:
            table = panel.heat.values.rename_axis(panel.y.title or "row").reset_index()
        elif all(one.kind in ("line", "bars") for one in panel.series):
            table = _wide(panel, log_y)
        else:
            table = _long(panel, log_x, log_y)
        if len(drawing.panels) > 1:
            table.insert(0, "panel", panel.title)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _wide(panel: Panel, log: bool) -> pd.DataFrame:
    """A row per place, a column per series, bound and seed."""
    columns = [column for one in panel.series for column in _columns(one, log)]
    table = pd.concat(columns, axis=1).sort_index() if columns else pd.DataFrame()
    places = [panel.x.names[round(x)] for x in table.index] if panel.x.names else table.index
    table.insert(0, panel.x.title or "layer", places, allow_duplicates=True)
    return table


def _columns(one: Series, log: bool) -> list[pd.Series]:
    means = over_seeds(one, False, log).set_index("x")
    seeds = list(groups(one.points, "seed")) if "seed" in one.points else []
    columns = [means["mean"].rename(f"{one.name}, mean" if len(seeds) > 1 else one.name)]
    if means["low"].notna().any():
        columns += [
            means[end].rename(f"{one.name}, {words}") for end, words in (("low", "from"), ("high", "to"))
        ]
    if len(seeds) > 1:
        columns += [part.set_index("x")["y"].rename(f"{one.name}, seed {seed}") for seed, part in seeds]
    return columns


def _long(panel: Panel, log_x: bool, log_y: bool) -> pd.DataFrame:
    """A row per point and seed, and per mean."""
    parts = []
    for one in panel.series:
        rows = one.points.assign(series=one.name)
        if one.kind == "points":
            means = over_seeds(one, log_x, log_y).rename(columns={"mean": "y"})
            rows = pd.concat([rows.astype({"seed": object}), means.assign(series=one.name, seed="mean")])
        parts.append(rows)
    table = pd.concat(parts, ignore_index=True)
    if panel.x.names:
        table["x"] = [panel.x.names[round(x)] for x in table["x"]]
    table = table.filter(["series", "point", "seed", "x", "y", "low", "high"]).dropna(axis=1, how="all")
    return table.rename(
        columns={"x": panel.x.title or "x", "y": panel.y.title or "y", "low": "from", "high": "to"}
    )
