"""From the rows of an experiment to charts, declared in a few lines: `Lines("fig3", title, VARIANCES)` maps rows to charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from collapselab.curves import start_behind_transient
from collapselab.data.names import data_title
from collapselab.frames import curve, finite, groups, last_layer, last_rows, numbers, rows_that, rows_where
from collapselab.inference import smallest_trials
from collapselab.models import model_title
from collapselab.records.rows import final
from collapselab.records.rows_csv import FITTED
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
)
from collapselab.text import number, percent, words

_LAST, _SAME = "centres of the last step", "centres of the measured step"
STEPS, SPREAD = Axis("SGD step", "log"), Axis("variance / class-mean spread (0: full collapse)")

Rows = pd.DataFrame
Parts = Sequence[tuple[str, Rows]]
Select = Callable[[Rows], Rows]
Split = Callable[[Rows], Parts]


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
    Quantity("test_accuracy", "test", Look(TEST, "dash", "cross")),
)
_MOST_ENDINGS, _FEW_PANELS = 2, 12
VANISHED = Mark("y", 0.1, "vanished: below 0.1")


# ---------------------------------------------------------------- what is taken from rows


def ends(rows: Rows) -> Rows:
    """Return the last layer at the last step of every run."""
    return last_rows(last_layer(rows), "job", "seed")


def by_layer(rows: Rows) -> Parts:
    """Tell hidden layers apart."""
    depths = sorted(int(depth) for depth in rows["depth"].unique())
    names = [f"hidden {place}" for place, _ in enumerate(depths, start=1)]
    if len(depths) > 2:
        names = ["first hidden", *names[1:-2], "penultimate hidden", "last hidden"]
    return [(name, rows_where(rows, depth=depth)) for name, depth in zip(names, depths, strict=True)]


def by_column(column: str, text: str) -> Split:
    """Tell rows apart by a column, in its order; `text` is a format of its value: `{:,} samples`."""

    def split(rows: Rows) -> Parts:
        keys = sorted(set(rows[column].dropna()))
        return [(text.format(key), rows_where(rows, **{column: key})) for key in keys]

    return split


def zero_train_error(rows: Rows) -> Mark | str:
    """Mark the step from which every run has at most one train error in a thousand, or say why there is none."""
    steps = []
    for _, run in groups(last_layer(rows), "job", "seed"):
        unfitted = rows_that(run, ~(run["train_accuracy"] >= FITTED))["step"].max()
        fitted = [step for step in numbers(run, "step") if not step <= unfitted]
        if not fitted:
            return "Not every run reaches zero train error"
        steps.append(min(fitted))
    return Mark("x", max(steps), "zero train error from here", Look(NEUTRAL, "dot", "none"))


def _parts(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Title and rows of every data set and network, and of every arm or setting, in the order in which they were run."""
    more = [name for name in ("arm", "setting") if name in rows and rows[name].nunique() > 1]
    for (dataset, model, *others), part in groups(rows, "dataset", "model", *more):
        told = [f"{one} arm" if name == "arm" else one for name, one in zip(more, others, strict=True)]
        title = f"{model_title(str(model))} on {data_title(str(dataset))}"
        yield ", ".join([title, *told]), part


def _looks(parts: Parts) -> dict[str, Look]:
    return dict(zip((name for name, _ in parts), ordered_looks(len(parts)), strict=True))


def _series(name: str, rows: Rows, x: str, y: str, look: Look, **more: Any) -> Series:
    """A series over rows; a column that they lack is undefined."""
    columns = {"x": rows[x], "y": rows[y] if y in rows else float("nan"), "seed": rows["seed"]}
    return Series(name, pd.DataFrame(columns | more, index=rows.index).dropna(subset=["x"]), look)


# ---------------------------------------------------------------- lines


@dataclass(frozen=True)
class Lines:
    """Lines over steps of training, or over another column; a panel per data set and network.

    Attributes:
        id, title: of the chart; the id is also the name of its figure.
        y: the quantities; each is a line, or one per group of `split`.
        text: what is to be seen.
        x: the column along the horizontal axis.
        axes: of `x` and of the quantities.
        select: the rows that are drawn.
        split: tells lines of one quantity apart; None for one line.
        references: quantities are variances: first those over references of the last step, as in the paper, beside them
            those of the same step. Axes start behind the transient of the first steps.
        marks: lines across, or what finds them in the rows of a panel.
        grid: a column per data set (and arm) and a row per network, and a chart for each kind of references.
        on_paper: whether it is also a figure.
        share_x: whether panels have the same horizontal axis.
    """

    id: str
    title: str
    y: Sequence[Quantity]
    text: str = ""
    x: str = "step"
    axes: tuple[Axis, Axis] = (STEPS, SPREAD)
    select: Select = last_layer
    split: Split | None = None
    references: bool = True
    marks: Sequence[Mark | Callable[[Rows], Mark | str]] = ()
    grid: bool = False
    on_paper: bool = True
    share_x: bool = True

    def __call__(self, rows: Rows) -> list[Chart]:
        parts = list(_parts(rows))
        kinds = (_LAST, _SAME) if self.references else ("",)
        first, *others = (self._panels(rows, parts, kind) for kind in kinds)
        # Old files have references of the same step only at the last one, where both kinds agree.
        drawn = [first, *(panels for panels in others if _most_points(panels) > 1)]
        if not self.grid:
            return [self._chart(_placed(drawn), parts)]
        return [self._chart(_in_grid(one, parts), parts, at * "-same-step") for at, one in enumerate(drawn)]

    def _panels(self, rows: Rows, parts: Parts, kind: str) -> list[Panel]:
        y = [replace(one, column=final(one.column)) for one in self.y] if kind == _LAST else self.y
        looks = _looks(self.split(self.select(rows)) if self.split else [])
        panels = []
        for title, part in parts:
            series = [line for one in y for line in self._lines(part, one, looks)]
            series = tuple(line for line in series if len(finite(line.points["y"])))
            runs = [run for one in series for _, run in groups(one.points.dropna(), "seed")]
            start = start_behind_transient([curve(run, "y", "x") for run in runs]) if kind else None
            marks = tuple(mark for mark in self._marks(part) if isinstance(mark, Mark))
            axes = replace(self.axes[0], start=start), self.axes[1]
            panels.append(Panel(title, *axes, series, marks, subtitle=kind))
        return panels

    def _lines(self, part: Rows, one: Quantity, looks: Mapping[str, Look]) -> Iterator[Series]:
        """One line of a quantity, or one per group: with its own look where there is one quantity, else its own dash."""
        drawn, is_alone = self.select(part), len(self.y) == 1
        for name, rows in self.split(drawn) if self.split else [("", drawn)]:
            own = looks.get(name, one.look)
            look = own if is_alone else replace(one.look, dash=own.dash)
            label = name if name and is_alone else ", ".join(filter(None, [one.label, name]))
            yield _series(label, rows, self.x, one.column, look)

    def _marks(self, rows: Rows) -> list[Mark | str]:
        return [mark if isinstance(mark, Mark) else mark(rows) for mark in self.marks]

    def _chart(self, panels: Sequence[Panel], parts: Parts, suffix: str = "") -> Chart:
        notes = _left_out(panels)
        for title, part in parts:
            notes += [f"{mark} in {title}." for mark in self._marks(part) if isinstance(mark, str)]
        if self.grid:  # once, not over every small panel
            notes.insert(0, f"{panels[0].subtitle.capitalize()}.")
            panels = [replace(panel, subtitle="") for panel in panels]
        # The first panels are those of the paper's references: of both arms, or of one of many settings.
        first = panels[: len(parts) if len(parts) <= _MOST_ENDINGS else 1]
        id, text = self.id + suffix, " ".join(filter(None, [self.text, *map(_endings, first)]))
        figure = id if self.on_paper else ""
        return Chart(id, self.title, text, tuple(panels), figure, share_x=self.share_x, notes=tuple(notes))


ACCURACY_AXES = STEPS, Axis("accuracy", percent=True)
ACCURACY_LINES = Lines(
    "accuracy", "Accuracy of the network itself", ACCURACIES, "In evaluation mode.", axes=ACCURACY_AXES,
    references=False, on_paper=False,
)  # fmt: skip


def _most_points(panels: Sequence[Panel]) -> int:
    counts = (one.points.dropna()["x"].nunique() for panel in panels for one in panel.series)
    return max(counts, default=0)


def _left_out(panels: Sequence[Panel]) -> list[str]:
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
    told, say = [], percent if panel.y.percent else number
    for one in panel.series:
        last = one.points.dropna().sort_values("x").groupby("seed")["y"].last().tolist()
        told.append(f"{one.name} {' to '.join(dict.fromkeys(map(say, (min(last), max(last)))))}")
    return f"{panel.title}, range over seeds at the end: {'; '.join(told)}." if told else "Not measured."


def _placed(rows: Sequence[Sequence[Panel]]) -> list[Panel]:
    """Put kinds of references below each other, or beside each other where each has one panel."""
    if max(map(len, rows)) == 1:
        return [replace(row[0], place=(0, column)) for column, row in enumerate(rows)]
    return [
        replace(panel, place=(at, column)) for at, row in enumerate(rows) for column, panel in enumerate(row)
    ]


def _in_grid(panels: Sequence[Panel], parts: Parts) -> list[Panel]:
    """A column per data set, its networks below each other; of few panels, the arms have columns of their own."""
    names = ("dataset", "arm") if len(parts) <= _FEW_PANELS else ("dataset",)
    columns: dict[tuple[str, ...], list[Panel]] = {}
    for panel, (_, part) in zip(panels, parts, strict=True):
        column = tuple(part[name].iloc[0] for name in names if name in part)
        columns.setdefault(column, []).append(panel)
    return [
        replace(one, place=(row, at))
        for at, name in enumerate(columns)
        for row, one in enumerate(columns[name])
    ]


# ---------------------------------------------------------------- points


@dataclass(frozen=True)
class Points:
    """A quantity against a variance, a point per run and a larger one at each mean; a panel per data set and network.

    Attributes:
        id, title: of the chart; the id is also the name of its figure.
        x, y: columns along the axes; of `x` first over references of the last step, beside it of the same step where
            that differs.
        axes: of both. Where `y` is a share, it is one of `num_test` samples, or else of the smallest number that gives
            these shares, and has its binomial interval.
        split: tells groups of points apart by colour and marker.
        group: column over whose values means are taken.
        text: what is to be seen.
        select: the rows that are drawn.
        hollow: rows whose points are left out of means, and what they are.
        panels: tells panels of a data set and network apart.
        share_y: whether these have the same vertical axis.
        references: whether `x` is drawn over both kinds of references; else over those of the same step.
    """

    id: str
    title: str
    x: str
    y: str
    axes: tuple[Axis, Axis]
    split: Split
    group: str
    text: str = ""
    select: Select = ends
    hollow: tuple[Callable[[Rows], pd.Series], str] | None = None
    panels: Split | None = None
    share_y: bool = True
    references: bool = True

    def __call__(self, rows: Rows) -> list[Chart]:
        panels = [panel for title, part in _parts(self.select(rows)) for panel in self._panels(title, part)]
        placed = tuple(replace(panel, place=divmod(at, 2)) for at, panel in enumerate(panels))
        tables = [one.points for panel in panels for one in panel.series]
        trials = max((float(table["trials"].max()) for table in tables if "trials" in table), default=None)
        bars = f"Bars: 95% binomial confidence interval for {number(trials)} test samples."
        return [
            Chart(
                self.id, self.title, self.text, placed, self.id, share_x=False, share_y=self.share_y and self.panels is not None,
                notes=() if trials is None else (bars,), hollow=self.hollow[1] if self.hollow else "",
            )
        ]  # fmt: skip

    def _panels(self, title: str, part: Rows) -> Iterator[Panel]:
        if self.axes[1].percent and "num_test" not in part:
            part = part.assign(num_test=smallest_trials(part[self.y]))
        ended, kinds = part[final(self.x)], [(final(self.x), "")]
        same = pd.Series(part.get(self.x, ended))
        if (same.notna() & (same != ended)).any():
            kinds = [(final(self.x), _LAST), (self.x, _SAME)] if self.references else [(self.x, "")]
        looks = _looks(self.split(part))
        for x, subtitle in kinds:
            for name, drawn in self.panels(part) if self.panels else [("", part)]:
                series = [self._series(*one, x, looks) for one in self.split(drawn)]
                yield Panel(
                    ", ".join(filter(None, [title, name])), *self.axes, tuple(series), subtitle=subtitle
                )

    def _series(self, name: str, rows: Rows, x: str, looks: Mapping[str, Look]) -> Series:
        more: dict[str, Any] = {"group": rows[self.group]}
        more["point"] = [f"{words(self.group)} {key:,}" for key in rows[self.group]]
        if self.hollow:
            more["hollow"] = self.hollow[0](rows)
        if self.axes[1].percent:
            more["trials"] = rows["num_test"]
        return replace(_series(name, rows, x, self.y, looks[name], **more), kind="points")


@dataclass(frozen=True)
class Dots:
    """Quantities of named things, a dot per seed: a row per thing, a panel per group of quantities.

    Attributes:
        id, title: of the chart; the id is also the name of its figure.
        by: the column that names things; `names` is what readers call them.
        panels: the axis and the quantities of each.
        text: what is to be seen.
    """

    id: str
    title: str
    by: str
    names: Mapping[str, str]
    panels: Sequence[tuple[Axis, Sequence[Quantity]]]
    text: str = ""

    def __call__(self, rows: Rows) -> list[Chart]:
        known = list(dict.fromkeys(rows[self.by]))
        names = Axis(names=tuple(self.names.get(str(name), words(name)) for name in known), reverse=True)
        panels = []
        for column, (axis, quantities) in enumerate(self.panels):
            series = []
            for at, one in enumerate(quantities):
                placed = rows.assign(place=rows[self.by].map(known.index) + 0.24 * (min(at, 2) - 1))
                series.append(replace(_series(one.label, placed, "place", one.column, one.look), kind="dots"))
            panels.append(Panel("", names, axis, tuple(series), place=(0, column), sideways=True))
        return [Chart(self.id, self.title, self.text, tuple(panels), self.id, share_y=False)]
