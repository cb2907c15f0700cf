"""Declare charts of the rows of an experiment in a few lines: `Lines("fig3", title, VARIANCES)` maps rows to charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from collapselab.data.names import data_title
from collapselab.frames import finite, groups, last_layer, last_rows, numbers, rows_that, rows_where
from collapselab.inference import smallest_trials
from collapselab.models import model_title
from collapselab.records.rows import final
from collapselab.report.chart import (
    NEUTRAL,
    TEST,
    TRAIN,
    WEAK,
    Axis,
    Chart,
    Look,
    Mark,
    Panel,
    Series,
    ordered_looks,
)  # fmt: skip
from collapselab.text import number, percent, words

FITTED = 0.999  # train accuracy from which a network counts as trained to zero error
_TRANSIENT = 10  # values above this multiple of the first and the last value are a transient
_STEPS_LEFT = 5
_LAST, _SAME = "centres of the last step", "centres of the same step"

Rows = pd.DataFrame
Select = Callable[[Rows], Rows]
Split = Callable[[Rows], Sequence[tuple[str, Rows]]]
MarkFinder = Callable[[Rows], "Mark | str"]


@dataclass(frozen=True)
class Quantity:
    """A column of rows and how it is drawn everywhere; `label` is its name in legends and readouts."""

    column: str
    label: str
    look: Look


VARIANCES = (
    Quantity("train_variance", "train", Look(TRAIN)),
    Quantity("strong_test_variance", "test, strong", Look(TEST, "dash", "square")),
    Quantity("weak_test_variance", "test, weak", Look(WEAK, "dot", "triangle")),
)
FINAL_VARIANCES = tuple(replace(one, column=final(one.column)) for one in VARIANCES)
ACCURACIES = (
    Quantity("train_accuracy", "train", Look(TRAIN)),
    Quantity("test_accuracy", "test", Look(TEST, "dash", "square")),
)
VANISHED = Mark("y", 0.1, "vanished: below 0.1")
SPREAD = "variance / class-mean spread (0: full collapse)"


# ---------------------------------------------------------------- selecting rows


def ends(rows: Rows) -> Rows:
    """Return the last layer at the last step of every run."""
    return last_rows(last_layer(rows), "job", "seed")


def by_layer(rows: Rows) -> list[tuple[str, Rows]]:
    """Split rows by hidden layer."""
    depths = sorted(int(depth) for depth in rows["depth"].unique())
    names = {depth: f"hidden {place}" for place, depth in enumerate(depths, start=1)}
    if len(depths) > 2:
        names |= {depths[0]: "first hidden", depths[-2]: "penultimate hidden", depths[-1]: "last hidden"}
    return [(names[depth], rows_where(rows, depth=depth)) for depth in depths]


def by_column(column: str, text: str) -> Split:
    """Split rows by the values of a column, sorted; `text` formats a value: `{:,} samples`."""

    def split(rows: Rows) -> list[tuple[str, Rows]]:
        return [
            (text.format(key), rows_where(rows, **{column: key}))
            for key in sorted(set(rows[column].dropna()))
        ]

    return split


def zero_train_error(rows: Rows) -> Mark | str:
    """Return a mark at the first step after which no run has more than 0.1 % train errors, or why there is none."""
    steps = []
    for _, run in groups(last_layer(rows), "job", "seed"):
        unfitted = rows_that(run, ~(run["train_accuracy"] >= FITTED))["step"].max()
        fitted = [step for step in numbers(run, "step") if not step <= unfitted]
        if not fitted:
            return "Not every run reaches zero train error"
        steps.append(min(fitted))
    return Mark("x", max(steps), "zero train error from here", Look(NEUTRAL, "dot", "none"))


def parts_of(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Yield title and rows of every combination of data set and network, in the order in which they were run."""
    for (dataset, model), part in groups(rows, "dataset", "model"):
        yield f"{model_title(str(model))} on {data_title(str(dataset))}", part


def _series(name: str, rows: Rows, x: str, y: str, look: Look, **more: Any) -> Series:
    """Return a series over rows; a missing column counts as undefined."""
    columns = {"x": rows[x], "y": rows[y] if y in rows else float("nan"), "seed": rows["seed"]}
    return Series(name, pd.DataFrame(columns | more, index=rows.index).dropna(subset=["x"]), look)


# ---------------------------------------------------------------- lines


@dataclass(frozen=True)
class Lines:
    """Lines over steps of training, or over another column; a panel per data set and network.

    Attributes:
        id: of the chart, and the name of its figure.
        title: heading on the page.
        y: the quantities; each is a line, or one per group of `split`.
        text: caption.
        x, x_title, y_title, y_scale: the axes.
        select: selects the rows that are drawn.
        split: splits rows into the lines of one quantity; None for one line.
        references: whether quantities are variances. They are drawn twice: relative to centres of the last step, as in the
            paper, and relative to centres of the same step. Axes start after the transient of the first steps.
        marks: horizontal or vertical lines, or functions that return them from the rows of a panel.
        grid: whether to draw a column per data set and a row per network, and one chart for each kind of centres.
        percent: whether values are shares.
        on_paper: whether the chart is also written as a figure.
        share_x: whether panels have the same horizontal axis.
    """

    id: str
    title: str
    y: Sequence[Quantity]
    text: str = ""
    x: str = "step"
    x_title: str = "SGD step"
    y_title: str = SPREAD
    y_scale: Literal["auto", "tight"] = "auto"
    select: Select = last_layer
    split: Split | None = None
    references: bool = True
    marks: Sequence[Mark | MarkFinder] = ()
    grid: bool = False
    percent: bool = False
    on_paper: bool = True
    share_x: bool = True

    def __call__(self, rows: Rows) -> list[Chart]:
        names = [name for name, _ in self.split(self.select(rows))] if self.split else []
        looks = dict(zip(names, ordered_looks(len(names)), strict=True))
        parts = list(parts_of(rows))
        kinds = [(final, _LAST), (str, _SAME)] if self.references else [(str, "")]
        drawn = []
        for column_of, subtitle in kinds:
            y = [replace(one, column=column_of(one.column)) for one in self.y]
            panels = [replace(self._panel(title, part, y, looks), subtitle=subtitle) for title, part in parts]
            # In old files, variances relative to the same step exist only at the last step, where both kinds agree.
            if subtitle != _SAME or any(
                one.points.dropna()["x"].nunique() > 1 for panel in panels for one in panel.series
            ):
                drawn.append(panels)
        if not self.grid:
            return [self._chart(_placed(drawn), parts)]
        placed = [_in_grid(panels, parts) for panels in drawn]
        return [
            self._chart(panels, parts, suffix)
            for panels, suffix in zip(placed, ("", "-same-step"), strict=False)
        ]

    def _panel(self, title: str, part: Rows, y: Sequence[Quantity], looks: Mapping[str, Look]) -> Panel:
        drawn = self.select(part)
        series = []
        for quantity in y:
            for name, rows in self.split(drawn) if self.split else [("", drawn)]:
                own = looks.get(name, quantity.look)
                look = own if len(y) == 1 else replace(quantity.look, dash=own.dash)
                label = name if name and len(y) == 1 else ", ".join(filter(None, [quantity.label, name]))
                series.append(_series(label, rows, self.x, quantity.column, look))
        series = [one for one in series if len(finite(one.points["y"]))]
        x = Axis(self.x_title, "log", start=_behind_transient(series) if self.references else None)
        marks = tuple(mark for mark in self._marks(part) if isinstance(mark, Mark))
        return Panel(title, x, Axis(self.y_title, self.y_scale, percent=self.percent), tuple(series), marks)

    def _marks(self, rows: Rows) -> list[Mark | str]:
        return [mark if isinstance(mark, Mark) else mark(rows) for mark in self.marks]

    def _chart(self, panels: Sequence[Panel], parts: Sequence[tuple[str, Rows]], suffix: str = "") -> Chart:
        notes = (
            [f"{panels[0].subtitle.capitalize()}."] if self.grid else []
        )  # once, not over every small panel
        notes += _left_out(panels)
        notes += [
            f"{mark} in {title}."
            for title, part in parts
            for mark in self._marks(part)
            if isinstance(mark, str)
        ]
        drawn = tuple(replace(panel, subtitle="") for panel in panels) if self.grid else tuple(panels)
        id, text = self.id + suffix, f"{self.text} {_endings(panels[0])}".strip()
        figure = id if self.on_paper else ""
        return Chart(id, self.title, text, drawn, figure, share_x=self.share_x, notes=tuple(notes))


ACCURACY_LINES = Lines(
    "accuracy", "Accuracy of the network", ACCURACIES, "Accuracy in evaluation mode.", y_title="accuracy", references=False,
    percent=True, on_paper=False,
)  # fmt: skip


def _behind_transient(series: Sequence[Series]) -> float | None:
    """Return the first step after a transient that would hide all later values; None if there is no transient."""
    runs = [run for one in series for _, run in groups(one.points.dropna().sort_values("x"), "seed")]
    level = _TRANSIENT * max((max(run["y"].iloc[0], run["y"].iloc[-1]) for run in runs), default=0.0)
    far = [float(x) for run in runs for x in run["x"][run["y"] > level]]
    later = sorted({x for run in runs for x in numbers(run, "x") if far and x > max(far)})
    return later[0] if len(later) >= _STEPS_LEFT else None


def _left_out(panels: Sequence[Panel]) -> list[str]:
    """Describe values that are not drawn because they are before the start of an axis."""
    started = [panel for panel in panels if panel.x.start is not None]
    if not started:
        return []
    peak = number(max(float(one.points["y"].max()) for panel in started for one in panel.series))
    starts = list(dict.fromkeys(f"step {number(panel.x.start)}" for panel in started))
    where = " and ".join(starts) if len(starts) < 4 else "its end"
    return [
        f"A transient of the first steps, with values up to {peak}, is not drawn: lines start at {where}."
    ]


def _endings(panel: Panel) -> str:
    """Return the last values of the lines of a panel, in words."""
    told, say = [], percent if panel.y.percent else number
    for one in panel.series:
        last = one.points.dropna().sort_values("x").groupby("seed")["y"].last().tolist()
        told.append(f"{one.name} {' to '.join(dict.fromkeys(map(say, (min(last), max(last)))))}")
    return f"{panel.title}, at the end: {'; '.join(told)}." if told else "Not measured."


def _placed(rows: Sequence[Sequence[Panel]]) -> list[Panel]:
    """Place kinds of centres below each other, or next to each other if each has one panel."""
    if max(map(len, rows)) == 1:
        return [replace(row[0], place=(0, column)) for column, row in enumerate(rows)]
    return [
        replace(panel, place=(at, column)) for at, row in enumerate(rows) for column, panel in enumerate(row)
    ]


def _in_grid(panels: Sequence[Panel], parts: Sequence[tuple[str, Rows]]) -> list[Panel]:
    """Place panels in a grid: a column per data set, with its networks below each other."""
    columns: dict[str, list[Panel]] = {}
    for panel, (_, part) in zip(panels, parts, strict=True):
        columns.setdefault(part["dataset"].iloc[0], []).append(panel)
    return [
        replace(panel, place=(row, at))
        for at, column in enumerate(columns.values())
        for row, panel in enumerate(column)
    ]


# ---------------------------------------------------------------- points


@dataclass(frozen=True)
class Points:
    """Scatter plot of a quantity against a variance: a point per run, a larger one per mean; a panel per data set and network.

    Attributes:
        id: of the chart, and the name of its figure.
        title: heading on the page.
        x, y: columns of the axes; `x` is drawn relative to centres of the last step and, if it differs, in another panel
            relative to centres of the same step.
        x_title, y_title: titles of the axes.
        split: splits points into groups.
        group: means are taken over points with the same value of this column; `label` formats the text at each mean of the
            first group.
        text: caption.
        select: selects the rows that are drawn.
        hollow: selects rows that are drawn hollow and excluded from means, and the text of their legend entry.
        percent: whether `y` is a share of test samples. It is drawn with a binomial interval for `num_test` samples, or for
            the smallest number of samples that gives these shares.
        looks: colours and markers of the groups; default: colours in order.
    """

    id: str
    title: str
    x: str
    y: str
    x_title: str
    y_title: str
    split: Split
    group: str
    label: str = ""
    text: str = ""
    select: Select = ends
    hollow: tuple[Callable[[Rows], pd.Series], str] | None = None
    percent: bool = False
    looks: Sequence[Look] = ()

    def __call__(self, rows: Rows) -> list[Chart]:
        panels: list[Panel] = []
        for title, part in parts_of(self.select(rows)):
            panels.append(self._panel(title, part, final(self.x)))
            if self.x in part and not part[self.x].dropna().isin(part[final(self.x)]).all():
                panels[-1] = replace(panels[-1], subtitle=_LAST)
                panels.append(replace(self._panel(title, part, self.x), subtitle=_SAME))
        placed = tuple(replace(panel, place=divmod(at, 2)) for at, panel in enumerate(panels))
        trials = [
            one.points["trials"].max() for panel in panels for one in panel.series if "trials" in one.points
        ]
        notes = (
            (f"Bars: 95 % binomial confidence interval for {number(float(max(trials)))} test samples.",)
            if trials
            else ()
        )
        hollow = self.hollow[1] if self.hollow else ""
        return [Chart(self.id, self.title, self.text, placed, self.id, False, False, notes, hollow)]

    def _panel(self, title: str, part: Rows, x: str) -> Panel:
        trials = part["num_test"] if "num_test" in part else smallest_trials(part[self.y])
        split = self.split(part)
        series = []
        for at, ((name, rows), look) in enumerate(
            zip(split, self.looks or ordered_looks(len(split)), strict=True)
        ):
            keys = rows[self.group]
            more: dict[str, Any] = {"group": keys, "point": [f"{words(self.group)} {key:,}" for key in keys]}
            more |= {"label": list(map(self.label.format, keys))} if self.label and at == 0 else {}
            more |= {"hollow": self.hollow[0](rows)} if self.hollow else {}
            more |= {"trials": trials} if self.percent else {}
            one = _series(name, rows, x, self.y, look, **more)
            series.append(replace(one, kind="points", shift=0.015 * at if self.percent else 0.0))
        axis = Axis(self.x_title, "log" if self.percent else "tight")
        return Panel(title, axis, Axis(self.y_title, "tight", percent=self.percent), tuple(series))


@dataclass(frozen=True)
class Dots:
    """Dot plot of quantities of named items: a dot per seed, a row per item, a panel per group of quantities.

    Attributes:
        id: of the chart, and the name of its figure.
        title: heading on the page.
        by: column with the names of items; `names` maps them to the names shown.
        panels: for each panel, the title of its axis, whether values are shares, and the quantities.
        text: caption.
    """

    id: str
    title: str
    by: str
    names: Mapping[str, str]
    panels: Sequence[tuple[str, bool, Sequence[Quantity]]]
    text: str = ""

    def __call__(self, rows: Rows) -> list[Chart]:
        known = list(dict.fromkeys(rows[self.by]))
        axis = Axis(names=tuple(self.names.get(str(name), words(name)) for name in known), reverse=True)
        panels = []
        for column, (title, is_share, quantities) in enumerate(self.panels):
            series = []
            for at, one in enumerate(quantities):
                place = rows[self.by].map(known.index) + 0.24 * (min(at, 2) - 1)
                dots = _series(one.label, rows.assign(place=place), "place", one.column, one.look)
                series.append(replace(dots, kind="dots"))
            values = Axis(title, percent=is_share)
            panels.append(Panel("", axis, values, tuple(series), place=(0, column), sideways=True))
        return [Chart(self.id, self.title, self.text, tuple(panels), self.id, share_y=False)]
