"""Make charts accessible without seeing them: alternative text, and a table of all numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from collapselab.frames import groups, numbers
from collapselab.inference import over_seeds
from collapselab.report.chart import Heat, Panel
from collapselab.report.layout import Drawing, DrawnPanel, Stroke
from collapselab.text import number, percent

_MAX_LINES = 8
_COLUMNS = ("series", "point", "seed", "x", "y", "low", "high")


def alternative_text(drawn: DrawnPanel) -> str:
    """Describe a panel: its axes, the first, lowest and last value of each line, or each point, and its marks."""
    panel = drawn.panel
    if drawn.is_empty:
        return "Not measured."
    if panel.heat is not None:
        return _of_heat(panel.heat)
    strokes = [stroke for stroke in drawn.strokes if not stroke.faint and np.isfinite(stroke.values).any()]
    told = strokes if len(strokes) <= _MAX_LINES else [strokes[0], strokes[-1]]
    lines = [_of_stroke(stroke, drawn.values.percent) for stroke in told]
    lines += [f"{len(strokes) - 2} more lines in between."] if len(strokes) > _MAX_LINES else []
    lines += [f"{mark.label}: {number(mark.at)}." for mark in panel.marks]
    scale = "logarithmic" if drawn.y.log else "linear"
    return " ".join([f"{panel.y.title or 'value'} ({scale}) over {panel.x.title or 'layers'}.", *lines])


def _of_stroke(stroke: Stroke, as_percent: bool) -> str:
    told = [pair for pair in zip(stroke.points, stroke.values, strict=True) if np.isfinite(pair[1])]
    if stroke.kind == "line":
        told = list(dict.fromkeys([told[0], min(told, key=lambda pair: pair[1]), told[-1]]))
    say = percent if as_percent else number
    return f"{stroke.name}: {'; '.join(f'{say(value)} at {point}' for point, value in told)}."


def _of_heat(heat: Heat) -> str:
    first, last = heat.values.columns[0], heat.values.columns[-1]
    ends = zip(heat.values.index, numbers(heat.values, first), numbers(heat.values, last), strict=True)
    rows = [f"{name}: {number(start)} at {first}, {number(end)} at {last}." for name, start, end in ends]
    return " ".join([f"Colours from {number(heat.low)} to {number(heat.high)}.", *rows])


def table_of(drawing: Drawing) -> pd.DataFrame:
    """Return all numbers of a chart: means, bounds and every seed, including points before the start of an axis."""
    tables = []
    for panel, drawn in zip(drawing.chart.panels, drawing.panels, strict=True):
        logs = (drawn.y.log, drawn.x.log) if panel.sideways else (drawn.x.log, drawn.y.log)
        if panel.heat is not None:
            table = panel.heat.values.rename_axis(panel.y.title or "layer").reset_index()
        elif any(one.kind in ("points", "dots") for one in panel.series):
            table = _long(panel, *logs)
        else:
            table = _wide(panel, logs[1])
        if len(drawing.panels) > 1:
            table.insert(0, "panel", ", ".join(filter(None, [panel.title, panel.subtitle])))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _wide(panel: Panel, log: bool) -> pd.DataFrame:
    """A row per place, a column per series, bound and seed."""
    columns: dict[str, pd.Series] = {}
    for one in panel.series:
        means = over_seeds(one.points, False, log).set_index("x")
        seeds = list(groups(one.points, "seed")) if "seed" in one.points else []
        columns[f"{one.name}, mean" if len(seeds) > 1 else one.name] = means["y"]
        if means["low"].notna().any():
            columns |= {f"{one.name}, from": means["low"], f"{one.name}, to": means["high"]}
        if len(seeds) > 1:
            columns |= {f"{one.name}, seed {seed}": part.set_index("x")["y"] for seed, part in seeds}
    table = pd.DataFrame(columns).sort_index()
    places = [panel.x.names[round(x)] for x in table.index] if panel.x.names else table.index
    table.insert(0, panel.x.title or "layer", places, allow_duplicates=True)
    return table


def _long(panel: Panel, log_x: bool, log_y: bool) -> pd.DataFrame:
    """A row per point and seed, and per mean."""
    parts = []
    for one in panel.series:
        seed = one.points["seed"].astype(object) if "seed" in one.points else ""
        parts.append(one.points.assign(seed=seed, series=one.name))
        if one.kind == "points":
            parts.append(over_seeds(one.points, log_x, log_y).assign(series=one.name, seed="mean"))
    table = pd.concat(parts, ignore_index=True)
    if panel.x.names:
        table["x"] = [panel.x.names[round(x)] for x in table["x"]]
    known = {name: any(pd.notna(value) and value != "" for value in table[name]) for name in table}
    names = [name for name in _COLUMNS if known.get(name)]
    titles = {"x": panel.x.title or "x", "y": panel.y.title or "y", "low": "from", "high": "to"}
    return table.filter(names).rename(columns=titles)
