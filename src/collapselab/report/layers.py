"""Charts by layer of a network: lines over depth, spectra, cosines between class means.

Titles, axes and texts are in templates/charts.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import yaml

from collapselab.report.chart import (
    NEUTRAL,
    TEST,
    TRAIN,
    WEAK,
    Axis,
    Chart,
    Heat,
    Look,
    Mark,
    Missing,
    Panel,
    Series,
    ordered_looks,
)  # fmt: skip
from collapselab.report.scales import names_fit
from collapselab.text import number, percent

INITIALISATION = Look(NEUTRAL, "dot")


@cache
def _texts() -> Mapping[str, Mapping[str, str]]:
    path = files("collapselab.report").joinpath("templates/charts.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def value_axis(id: str) -> Axis:
    """Return the axis of a chart's values."""
    scale: Any = _texts()[id].get("scale", "linear")
    is_share = scale == "percent"
    return Axis(_texts()[id].get("axis", ""), "linear" if is_share else scale, percent=is_share)


def chart_or_missing(id: str, panels: Sequence[Panel], gaps: str = "", **numbers: object) -> Chart | Missing:
    """Return a chart with its title and text, or the reason why it cannot be drawn.

    Args:
        id: of the chart.
        panels: in order, beside each other.
        gaps: text about missing values.
        numbers: values for `{…}` in the text.
    """
    title, text = _texts()[id]["title"], _texts()[id]["text"]
    if not panels:
        return Missing(title, gaps or "It was not measured.")
    return Chart(
        id.replace("_", "-"), title, f"{text.format(**numbers).strip()} {gaps}".strip(), tuple(panels)
    )


@dataclass(frozen=True, eq=False)
class Line:
    """Values by layer.

    Attributes:
        name: name in readouts, and of the column in the table.
        values: in order of depth; NaN if undefined.
        look: colour, dash, marker.
        legend: legend entry; default: the name.
        low, high: bounds of estimated values.
    """

    name: str
    values: pd.Series
    look: Look
    legend: str | None = None
    low: pd.Series | None = None
    high: pd.Series | None = None


def usual_lines(train: pd.Series, test: pd.Series, start: pd.Series) -> list[Line]:
    """Lines of a metric on train and test data, and on train data at initialisation."""
    beside = Line("train, initialisation", start, INITIALISATION, "initialisation")
    return [Line("train", train, Look(TRAIN)), Line("test", test, Look(TEST, "dash", "square")), beside]


@dataclass(frozen=True)
class Layers:
    """The layers of a network, along the horizontal axis of charts.

    Attributes:
        names: in order of depth.
        first_collapsed: the first collapsed one, or None.
    """

    names: Sequence[str]
    first_collapsed: str | None

    def panel(
        self, id: str, lines: Sequence[Line], title: str = "", marks: Sequence[Mark] = (), column: int = 0
    ) -> Panel:
        """Return a panel of lines by layer, with the first collapsed layer marked; lines without values are omitted."""
        first: list[Mark] = []
        if self.first_collapsed is not None:
            at = list(self.names).index(self.first_collapsed)
            first.append(Mark("x", at, "first collapsed layer", Look(WEAK, "solid", "none")))
        x = Axis("" if names_fit(self.names) else "depth of the layer", names=tuple(self.names))
        series = tuple(self._series(line) for line in lines if line.values.notna().any())
        return Panel(title, x, value_axis(id), series, (*marks, *first), place=(0, column))

    def _series(self, line: Line) -> Series:
        depths = range(len(self.names))
        texts = [f"depth {depth}" for depth in depths]
        points = pd.DataFrame({"x": depths, "y": line.values.to_numpy(), "point": texts})
        if line.low is not None and line.high is not None:
            points = points.assign(low=line.low.to_numpy(), high=line.high.to_numpy())
        return Series(line.name, points, line.look, legend=line.legend)

    def chart(
        self, id: str, lines: Sequence[Line], gaps: str = "", marks: Sequence[Mark] = (), **numbers: object
    ) -> Chart | Missing:
        """Return a chart of one such panel; see `chart_or_missing`."""
        panel = self.panel(id, lines, marks=marks)
        return chart_or_missing(id, [panel] if panel.series else [], gaps, **numbers)

    def journey(
        self,
        values: pd.Series,
        on_test: pd.Series | None = None,
        as_percent: bool = False,
        head: str = "On train data, it is",
    ) -> str:
        """Return a sentence with the values at the first layer, the first collapsed layer and the last layer."""
        say = percent if as_percent else number
        places = {0: "at the first layer", len(values) - 1: "at the last layer"}
        if self.first_collapsed is not None:
            places.setdefault(list(self.names).index(self.first_collapsed), "at the first collapsed layer")
        known = [(at, place) for at, place in sorted(places.items()) if pd.notna(values.iloc[at])]
        told = [f"{say(values.iloc[at])} {place}" for at, place in known]
        sentence = " and ".join(filter(None, [", ".join(told[:-1]), *told[-1:]]))
        if told and on_test is not None and pd.notna(on_test.iloc[-1]) and pd.notna(values.iloc[-1]):
            sentence += f"; on test data, it is {say(on_test.iloc[-1])} at the last layer"
        return f"{head} {sentence}." if told else ""


def spectra_chart(
    id: str, table: pd.DataFrame, marks: Sequence[Mark] = (), **numbers: object
) -> Chart | Missing:
    """Return a chart of sorted values, one line per layer, each relative to its largest value.

    Args:
        id: of the chart.
        table: a column per layer in order of depth, indexed by rank from 1; NaN after the last value.
        marks: marked ranks.
        numbers: see `chart_or_missing`.
    """
    series = []
    for (layer, column), look in zip(table.items(), ordered_looks(table.shape[1]), strict=True):
        values = column.dropna()
        largest = values.iloc[0] if len(values) and values.iloc[0] > 0 else np.inf
        texts = [f"number {rank}, {number(value)}" for rank, value in zip(values.index, values, strict=True)]
        points = pd.DataFrame({"x": values.index, "y": (values / largest).to_numpy(), "point": texts})
        series.append(Series(str(layer), points, Look(look.colour)))
    panel = Panel("", Axis("rank", "linear"), value_axis(id), tuple(series), tuple(marks))
    return chart_or_missing(id, [panel] if series else [], "", **numbers)


def cosine_chart(cosines: Mapping[str, pd.DataFrame]) -> Chart | Missing:
    """Return heat maps of the cosines between centred class means of the last layer (C, C), a panel per split."""
    panels, ranges, count = [], [], 2
    for split, table in cosines.items():
        count = len(table)
        names = tuple(map(str, range(count)))
        between = table.to_numpy()[~np.eye(count, dtype=bool)]
        low, high = number(np.nanmin(between)), number(np.nanmax(between))
        ranges.append(f"on {split} data, they are between {low} and {high}")
        heat = Heat(table.add_prefix("class ").add_prefix("class ", axis=0), -1, 1, diverging=True)
        axes = Axis("class", names=names), Axis("class", names=names, reverse=True)
        panels.append(Panel(f"{split} data", *axes, heat=heat, place=(0, len(panels))))
    simplex = number(-1 / (count - 1))
    return chart_or_missing("cosines", panels, simplex=simplex, classes=count, ranges="; ".join(ranges))
