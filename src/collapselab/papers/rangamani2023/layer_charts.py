"""Charts of the layers of several networks, laid out as the paper's figures: a column per network, its data sets below each
other, and for each of them a row per quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import pandas as pd

from collapselab.data.names import data_title
from collapselab.frames import groups, numbers, rows_that, rows_where
from collapselab.models import model_title
from collapselab.papers.rangamani2023.layer_rows import RECALIBRATED
from collapselab.report.builders import Quantity
from collapselab.report.chart import WEAK, Axis, Chart, Look, Mark, Panel, Series, ordered_looks
from collapselab.report.layers import INITIALISATION, START
from collapselab.text import percent

Rows = pd.DataFrame
# Data sets of the figures of the main text; those of appendix C show the others.
APPENDIX = ("fashion_mnist", "svhn")
_END = "end of training"


@dataclass(frozen=True)
class Strip:
    """A row of panels.

    Attributes:
        axis: of the values; its title is what is drawn.
        quantities: of one, every stored step is drawn; of several, initialisation and end.
        marks: lines across.
        only_end: whether only the end of training is drawn.
        level: a column drawn once, at the end, beside the lines.
    """

    axis: Axis
    quantities: Sequence[Quantity]
    marks: Sequence[Mark] = ()
    only_end: bool = False
    level: Quantity | None = None


Lines = Callable[[Rows], Iterator[Series]]


@dataclass(frozen=True)
class ByLayer:
    """A figure of a property by layer, and a second one of the data sets of the appendix.

    Attributes:
        id, appendix: of the charts; also the names of their figures.
        title, text: of both.
        strips: from top to bottom; each a `Strip`, or what makes series of the rows of a network, with its axis.
        select: the rows that are drawn.
    """

    id: str
    appendix: str
    title: str
    strips: Sequence[Strip | tuple[Axis, Lines]]
    text: str = ""
    select: Callable[[Rows], Rows] = lambda rows: rows_where(rows, norms=RECALIBRATED)

    def __call__(self, rows: Rows) -> list[Chart]:
        is_appendix = rows["dataset"].isin(APPENDIX)
        parts = {self.id: rows_that(rows, ~is_appendix), self.appendix: rows_that(rows, is_appendix)}
        return [self._chart(id, part) for id, part in parts.items() if len(part)]

    def _chart(self, id: str, rows: Rows) -> Chart:
        panels = []
        for column, (model, of_model) in enumerate(groups(rows, "model")):
            for at, (dataset, part) in enumerate(groups(of_model, "dataset")):
                title = f"{model_title(str(model))} on {data_title(str(dataset))}"
                for below, strip in enumerate(self.strips):
                    place = (at * len(self.strips) + below, column)
                    panel = self._panel(strip, part, is_lowest=strip is self.strips[-1])
                    panels.append(replace(panel, title="" if below else title, place=place))
        return Chart(id, self.title, self.text, tuple(panels), id, share_x=False, share_y=False)

    def _panel(self, strip: Strip | tuple[Axis, Lines], rows: Rows, *, is_lowest: bool) -> Panel:
        drawn = self.select(rows)
        axis, lines = (strip.axis, lambda rows: _lines(strip, rows)) if isinstance(strip, Strip) else strip
        marks = (*(strip.marks if isinstance(strip, Strip) else ()), *first_collapsed_mark(rows))
        x = Axis(
            "layer" if is_lowest else "", names=tuple(str(depth) for depth in sorted(set(drawn["depth"])))
        )
        series = tuple(one for one in lines(drawn) if one.points["y"].notna().any())
        # Rows have different quantities: each is named above its panels.
        return Panel("", x, replace(axis, title=""), series, marks, subtitle=axis.title)


def _lines(strip: Strip, rows: Rows) -> Iterator[Series]:
    """Lines of the stored steps, the last on top."""
    steps = sorted(set(rows["step"]))
    several = len(strip.quantities) > 1
    steps = steps[-1:] if strip.only_end else [steps[0], steps[-1]] if several else steps
    looks = ordered_looks(len(steps) - 1) if len(steps) > 1 else ()
    for step, look in reversed(list(zip(steps, (INITIALISATION, *looks), strict=False))):
        of_step = rows_where(rows, step=step)
        for one in strip.quantities:
            drawn = one.look if several or strip.only_end else replace(look, dash="solid")
            drawn = (
                replace(INITIALISATION, marker=one.look.marker, dash=one.look.dash) if step == 0 else drawn
            )
            name = (
                START
                if step == 0
                else _END
                if step == steps[-1]
                else f"{percent(step / steps[-1])} of the steps"
            )
            is_named = several or strip.only_end
            legend = START if step == 0 else one.label if is_named else name
            series = layer_series(
                f"{one.label}, {name}" if is_named else name,
                of_step,
                one.column,
                drawn,
                one_per_seed=step == steps[-1],
            )
            yield replace(series, legend=legend)
    if strip.level is not None:
        yield layer_series(
            strip.level.label, rows_where(rows, step=steps[-1]), strip.level.column, strip.level.look
        )


def layer_series(name: str, rows: Rows, column: str, look: Look, *, one_per_seed: bool = False) -> Series:
    """Return a line over layers: the mean of seeds, or with `one_per_seed` all of them."""
    points = pd.DataFrame({"x": rows["depth"], "y": rows[column].astype("float64"), "seed": rows["seed"]})
    if not one_per_seed:
        means = [{"x": x, "y": float(part["y"].mean())} for x, part in groups(points, "x")]
        points = pd.DataFrame(means, columns=["x", "y"])
    return Series(name, points, look)


def first_collapsed_mark(rows: Rows) -> tuple[Mark, ...]:
    """Mark the first collapsed layer at the end of training, the median of the seeds that have one."""
    of = rows_where(rows, norms=RECALIBRATED)
    collapsed = rows_that(of, (of["step"] == of["step"].max()) & of["is_collapsed"].astype(bool))
    firsts = [min(numbers(part, "depth")) for _, part in groups(collapsed, "seed")]
    return (
        (Mark("x", median(firsts), "first collapsed layer", Look(WEAK, "solid", "none")),) if firsts else ()
    )
