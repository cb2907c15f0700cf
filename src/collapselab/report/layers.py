"""Charts over the layers of a network: any number of lines by depth, spectra, cosines between class means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

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
    ramp,
)
from collapselab.report.scales import names_fit
from collapselab.text import number, percent

INITIALISATION = Look(NEUTRAL, "dot")
FIRST_COLLAPSED = "first collapsed layer"


@dataclass(frozen=True, eq=False)
class Line:
    """Values by layer.

    Attributes:
        name: in readouts and as the column of the table.
        values: in order of depth; NaN where undefined.
        look: colour, dash, marker.
        legend: its entry there, None for the name.
        low, high: bounds of values that are estimates.
    """

    name: str
    values: pd.Series
    look: Look
    legend: str | None = None
    low: pd.Series | None = None
    high: pd.Series | None = None


@dataclass(frozen=True)
class Layers:
    """The layers of a network, along the horizontal axis of charts.

    Attributes:
        names: in order of depth.
        first_collapsed: the first collapsed one, or None.
    """

    names: Sequence[str]
    first_collapsed: str | None

    def chart(
        self,
        lines: Sequence[Line] | Mapping[str, Sequence[Line]],
        *,
        id: str,
        title: str,
        text: str,
        y_title: str,
        log: bool = False,
        percent: bool = False,
        level: tuple[float, str] | None = None,
        gaps: str = "",
    ) -> Chart | Missing:
        """Return a chart of lines by layer, with the first collapsed one marked.

        Args:
            lines: or those of several panels, by title; lines without any value are left out.
            id, title, text: as in `Chart`.
            y_title: beside the axis.
            log: whether it is logarithmic.
            percent: whether values are shares.
            level: a threshold and its name.
            gaps: where values are missing, and why.
        """
        marks = [Mark("y", level[0], level[1])] if level else []
        if self.first_collapsed is not None:
            at = list(self.names).index(self.first_collapsed)
            marks.append(Mark("x", at, FIRST_COLLAPSED, Look(WEAK, "solid", "none")))
        y = Axis(y_title, "log" if log else "linear", percent=percent)
        x = Axis("" if names_fit(self.names) else "depth of the layer", names=tuple(self.names))
        panels = []
        for name, part in (lines if isinstance(lines, Mapping) else {"": lines}).items():
            series = tuple(self._series(line) for line in part if line.values.notna().any())
            if series:
                panels.append(Panel(name, x, y, series, tuple(marks), place=(0, len(panels))))
        return Chart(id, title, f"{text} {gaps}".strip(), tuple(panels)) if panels else Missing(title, gaps)

    def _series(self, line: Line) -> Series:
        points = pd.DataFrame({"x": range(len(self.names)), "y": line.values.to_numpy(dtype=np.float64)})
        points["point"] = [f"depth {depth}" for depth in points["x"]]
        if line.low is not None and line.high is not None:
            points = points.assign(low=line.low.to_numpy(), high=line.high.to_numpy())
        return Series(line.name, points, line.look, legend=line.legend)

    def journey(
        self,
        values: pd.Series,
        on_test: pd.Series | None = None,
        *,
        as_percent: bool = False,
        head: str = "On train data it is",
    ) -> str:
        """Tell values at the first layer, the first collapsed one and the last, in a sentence."""
        say = percent if as_percent else number
        places = {0: "at the first layer", len(values) - 1: "at the last"}
        if self.first_collapsed is not None:
            places.setdefault(list(self.names).index(self.first_collapsed), "at the first collapsed one")
        told = [
            f"{say(values.iloc[at])} {place}"
            for at, place in sorted(places.items())
            if pd.notna(values.iloc[at])
        ]
        if not told:
            return ""
        sentence = " and ".join(filter(None, [", ".join(told[:-1]), told[-1]]))
        if on_test is None or pd.isna(on_test.iloc[-1]) or pd.isna(values.iloc[-1]):
            return f"{head} {sentence}."
        return f"{head} {sentence}; on test data {say(on_test.iloc[-1])} there."


def usual_lines(train: pd.Series, test: pd.Series, start: pd.Series) -> list[Line]:
    """Lines of a metric on train and test data, and on train data at initialisation."""
    return [
        Line("train", train, Look(TRAIN)),
        Line("test", test, Look(TEST, "dash", "square")),
        Line("train, initialisation", start, INITIALISATION, "initialisation"),
    ]


def spectra_chart(table: pd.DataFrame, *, id: str, title: str, text: str, at: int | None = None) -> Chart:
    """Return a chart of falling lines, one per layer, relative to its largest value.

    Args:
        table: a column per layer in order of depth, indexed by rank from 1; NaN behind the last value.
        id, title, text: as in `Chart`.
        at: the number of classes, marked.
    """
    series = []
    for (layer, column), colour in zip(table.items(), ramp(table.shape[1]), strict=True):
        values = column.dropna()
        largest = values.iloc[0] if len(values) and values.iloc[0] > 0 else np.nan
        points = pd.DataFrame({"x": values.index, "y": (values / largest).fillna(0.0).to_numpy()})
        points["point"] = [f"{number(value)}, share of the largest" for value in values]
        series.append(Series(str(layer), points, Look(colour, marker="circle")))
    marks = (Mark("x", at, f"C = {at}"),) if at is not None and at <= len(table) else ()
    return Chart(
        id,
        title,
        text,
        (Panel("", Axis("rank", "linear"), Axis("share of the largest"), tuple(series), marks),),
    )


def cosine_chart(cosines: dict[str, pd.DataFrame]) -> Chart:
    """Return maps of the cosines between centred class means of the last layer, a panel per split."""
    panels, told, count = [], [], 0
    for column, (split, table) in enumerate(cosines.items()):
        count = len(table)
        names = tuple(map(str, range(count)))
        between = table.to_numpy()[~np.eye(count, dtype=bool)]
        told.append(
            f"on {split} data they lie between {number(np.nanmin(between))} and {number(np.nanmax(between))}"
        )
        classes = [f"class {name}" for name in names]
        heat = Heat(pd.DataFrame(table.to_numpy(), classes, classes), -1, 1, diverging=True)
        axes = Axis("class", names=names), Axis("class", names=names, reverse=True)
        panels.append(Panel(f"{split} data", *axes, heat=heat, place=(0, column)))
    text = f"A simplex has {number(-1 / (count - 1))} between any two of {count} classes; {'; '.join(told)}."
    title = "Cosines between class means, seen from their centre"
    return Chart("cosines", title, text, tuple(panels), share_x=False, share_y=False)
