"""Charts by layer of a network: lines over depth, spectra, cosines between class means.

Titles, axes and texts are in templates/charts.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import yaml

from collapselab.frames import rows_where
from collapselab.metrics import BY_NAME
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
    Panel,
    Series,
    ordered_looks,
)  # fmt: skip
from collapselab.report.scales import names_fit
from collapselab.text import number, percent

START = "initialisation"
INITIALISATION = Look(NEUTRAL, "dot")
NOT_MEASURED = "It was not measured."  # the text of a chart of what was not asked for


@cache
def _texts() -> Mapping[str, Mapping[str, Any]]:
    path = files("collapselab.report").joinpath("templates/charts.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def value_axis(id: str) -> Axis:
    """Return the axis of a chart's values."""
    return Axis(**{"scale": "linear"} | _texts()[id].get("axis", {}))


def chart_of(id: str, panels: Sequence[Panel], gaps: str = "", **numbers: object) -> Chart:
    """Return a chart with its title and text; without panels, the reason why it cannot be drawn.

    Args:
        id: of the chart.
        panels: in order, beside each other.
        gaps: text about missing values.
        numbers: values for `{…}` in the text.
    """
    title, text = _texts()[id]["title"], _texts()[id]["text"]
    told = f"{text.format(**numbers).strip()} {gaps}".strip() if panels else gaps or NOT_MEASURED
    return Chart(id.replace("_", "-"), title, told, tuple(panels))


@dataclass(frozen=True, eq=False)
class Layers:
    """The metrics of a network by layer, and their charts.

    Attributes:
        end: columns layer, depth, split, and one per metric.
        start: the same network at initialisation; without rows if it was not measured.
        first_collapsed: the first collapsed layer, or None.
        beside: places of layers on another branch, which lines pass by.
    """

    end: pd.DataFrame
    start: pd.DataFrame
    first_collapsed: str | None
    beside: frozenset[int]

    @cached_property
    def names(self) -> list[str]:
        """The layers in order of depth."""
        return rows_where(self.end, split="train").sort_values("depth")["layer"].tolist()

    @cached_property
    def _tables(self) -> Mapping[tuple[str, bool], pd.DataFrame]:
        """By split, and whether at initialisation: a row per layer."""
        return {
            (split, at_start): rows_where(rows, split=split).set_index("layer").reindex(self.names)
            for at_start, rows in ((False, self.end), (True, self.start))
            for split in ("train", "test")
        }

    def values(self, metric: str, split: str = "train", *, at_start: bool = False) -> pd.Series:
        """Return a metric by layer; NaN if it is undefined or was not measured, or if the split does not exist."""
        table = self._tables[split, at_start]
        return (table[metric] if metric in table else pd.Series(np.nan, table.index)).astype("float64")

    def last(self, metric: str, split: str = "train") -> float:
        """Return a metric at the last layer."""
        return float(self.values(metric, split).iloc[-1])

    def table(self, split: str, *, at_start: bool = False) -> pd.DataFrame:
        """Return all metrics of a split, layers as columns."""
        rows = [self.values(name, split, at_start=at_start).rename(name) for name in BY_NAME]
        return pd.DataFrame([row for row in rows if row.notna().any()]).reset_index(names="metric")

    def gaps(self, *metrics: str) -> str:
        """Say where these metrics have no value, and why; nothing unless a page knows it."""
        return ""

    @property
    def passed_by(self) -> str:
        """A sentence about layers on other branches; nothing where there are none."""
        return " Points that no line joins are shortcuts and parallel branches." if self.beside else ""

    # ---------------------------------------------------------------- charts

    def line(
        self, name: str, metric: str, look: Look, split: str = "train", *, at_start: bool = False
    ) -> Series:
        """Return a line by layer, in order of depth. All at initialisation are named so, and share that entry of the legend."""
        values = self.values(metric, split, at_start=at_start).to_numpy()
        points = pd.DataFrame({"x": range(len(values)), "y": values})
        points["point"] = [f"depth {depth}" for depth in points["x"]]
        name = ", ".join(filter(None, [name, START * at_start]))
        return Series(name, points, look, legend=START if at_start else None, apart=self.beside)

    def usual(self, metric: str) -> list[Series]:
        """Lines of a metric on train and test data, and on train data at initialisation."""
        return [
            self.line("train", metric, Look(TRAIN)),
            self.line("test", metric, Look(TEST, "dash", "square"), "test"),
            self.line("train", metric, INITIALISATION, at_start=True),
        ]

    def metric(self, name: str, id: str = "", *, of: Sequence[str] = (), marks: Sequence[Mark] = ()) -> Chart:
        """Chart one metric on train and test data; its `id` is by default the name. See `chart`."""
        return self.chart(id or name, self.usual(name), name, of=of, marks=marks)

    def chart(
        self,
        id: str,
        lines: Sequence[Series],
        metric: str,
        *,
        of: Sequence[str] = (),
        marks: Sequence[Mark] = (),
        head: str = "On train data, it is",
        on_test: bool = True,
        **numbers: object,
    ) -> Chart:
        """Chart lines by layer, in order; `of` are the metrics that `metric` is computed from, if it is none itself.

        `{journey}` in the text is a sentence with the values of `metric` at the first layer, the first collapsed layer and the
        last layer: it begins with `head`, and ends with test data where `on_test`.
        """
        panel = self.panel(id, lines, marks=marks)
        told = self._journey(metric, value_axis(id).percent, head, on_test)
        return chart_of(
            id, [panel] if panel.series else [], self.gaps(*(of or [metric])), journey=told, **numbers
        )

    def panel(
        self, id: str, lines: Sequence[Series], title: str = "", marks: Sequence[Mark] = (), column: int = 0
    ) -> Panel:
        """Return a panel of lines by layer, with the first collapsed layer marked; lines without values are omitted."""
        names = self.names
        first: list[Mark] = []
        if self.first_collapsed is not None:
            at = names.index(self.first_collapsed)
            first.append(Mark("x", at, "first collapsed layer", Look(WEAK, "solid", "none")))
        x = Axis("" if names_fit(names) else "depth of the layer", names=tuple(names))
        series = tuple(one for one in lines if one.points["y"].notna().any())
        return Panel(title, x, value_axis(id), series, (*marks, *first), place=(0, column))

    def _journey(self, metric: str, as_percent: bool, head: str, on_test: bool) -> str:
        say, values = percent if as_percent else number, self.values(metric)
        places = {0: "at the first layer", len(values) - 1: "at the last layer"}
        if self.first_collapsed is not None:
            places.setdefault(self.names.index(self.first_collapsed), "at the first collapsed layer")
        known = [(at, place) for at, place in sorted(places.items()) if pd.notna(values.iloc[at])]
        told = [f"{say(values.iloc[at])} {place}" for at, place in known]
        sentence = " and ".join(filter(None, [", ".join(told[:-1]), *told[-1:]]))
        last = self.last(metric, "test")
        if told and on_test and pd.notna(last) and pd.notna(values.iloc[-1]):
            sentence += f"; on test data, it is {say(last)} at the last layer"
        return f"{head} {sentence}." if told else ""


def spectra_chart(id: str, table: pd.DataFrame, marks: Sequence[Mark] = (), **numbers: object) -> Chart:
    """Return a chart of sorted values, one line per layer, each relative to its largest value.

    Args:
        id: of the chart.
        table: a column per layer in order of depth, indexed by rank from 1; NaN after the last value.
        marks: marked ranks.
        numbers: see `chart_of`.
    """
    series = []
    for (layer, column), look in zip(table.items(), ordered_looks(table.shape[1]), strict=True):
        values = column.dropna()
        largest = values.iloc[0] if len(values) and values.iloc[0] > 0 else np.inf
        texts = [f"number {rank}, {number(value)}" for rank, value in zip(values.index, values, strict=True)]
        points = pd.DataFrame({"x": values.index, "y": (values / largest).to_numpy(), "point": texts})
        series.append(Series(str(layer), points, Look(look.colour)))
    panel = Panel("", Axis("rank", "linear"), value_axis(id), tuple(series), tuple(marks))
    return chart_of(id, [panel] if series else [], "", **numbers)


def cosine_chart(cosines: Mapping[str, pd.DataFrame]) -> Chart:
    """Return heat maps of the cosines between centred class means of the last layer (C, C), a panel per split."""
    panels, ranges, count = [], [], 2
    for split, table in cosines.items():
        count = len(table)
        names = tuple(map(str, range(count)))
        between = table.to_numpy()[~np.eye(count, dtype=bool)]
        low, high = number(np.nanmin(between)), number(np.nanmax(between))
        ranges.append(f"between {low} and {high} on {split} data")
        heat = Heat(table.add_prefix("class ").add_prefix("class ", axis=0), -1, 1, diverging=True)
        axes = Axis("class", names=names), Axis("class", names=names, reverse=True)
        panels.append(Panel(f"{split} data", *axes, heat=heat, place=(0, len(panels))))
    simplex = number(-1 / (count - 1))
    return chart_of("cosines", panels, simplex=simplex, classes=count, ranges=" and ".join(ranges))
