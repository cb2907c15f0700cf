"""Figures 4, 5 and of section 2: one point per run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collapselab.report.experiment_data import (
    at_the_end,
    best_transfer,
    defined,
    kept,
    over_seeds,
    panels,
    place_of_zero,
    placed,
    said_seeds,
    shown,
    spans_decades,
)
from collapselab.report.experiment_looks import ACCURACIES, TRANSFER, VARIANCES, Look
from collapselab.report.figures import TRAIN
from collapselab.report.paper_labels import move_labels_apart
from collapselab.report.paper_style import (
    COLUMN,
    PAGE,
    SOFT,
    legend_above,
    log_axis,
    paper_figure,
    paper_style,
    plain_text,
    say_not_measured,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure_4(rows: pd.DataFrame) -> Figure:
    """Train against strong test variance at the end: a point per size of the train set and seed."""
    parts = [(title, at_the_end(part)) for title, part in panels(rows)]
    with paper_style():
        figure = paper_figure(COLUMN if len(parts) == 1 else min(PAGE, 3.3 * len(parts)), 2.6)
        grid = list(figure.subplots(1, len(parts), squeeze=False)[0])
        for axes, (title, part) in zip(grid, parts, strict=True):
            axes.set_title(plain_text(title))
            axes.set_xlabel("train variance at the last step")
            _train_against_test(axes, part)
        grid[0].set_ylabel("strong test variance\nat the last step")
        figure.suptitle(_said_of_sizes(rows), fontsize=7, color=SOFT)
        figure.draw_without_rendering()  # labels are placed on the final layout
        for axes in grid:
            move_labels_apart(axes)
    return figure


def figure_5(rows: pd.DataFrame) -> Figure:
    """Accuracy on the downstream task by the train variance of the checkpoint it starts from."""
    best = best_transfer(rows)
    parts = list(panels(best)) or [("", best)]
    with paper_style():
        figure = paper_figure(COLUMN if len(parts) == 1 else min(PAGE, 3.3 * len(parts)), 2.75)
        grid = list(figure.subplots(1, len(parts), squeeze=False)[0])
        for axes, (title, part) in zip(grid, parts, strict=True):
            axes.set_title(plain_text(title))
            axes.set_xlabel("train variance of the checkpoint\n(left: more collapse)")
            _transfer(axes, part)
        grid[0].set_ylabel("downstream test accuracy (%)")
        legend_above(figure, grid, columns=2, title=said_seeds(rows))
    return figure


def figure_sec2(rows: pd.DataFrame) -> Figure:
    """Variances and accuracies of every trained and constructed network."""
    names = list(dict.fromkeys(rows["construction"]))
    with paper_style():
        figure = paper_figure(PAGE, 1.35 + 0.3 * len(names))
        left, right = figure.subplots(1, 2, sharey=True)
        values = np.concatenate([defined(rows[look.key]) for look in VARIANCES])
        zero = place_of_zero(values)
        for number, look in enumerate(VARIANCES):
            _dots(left, rows, names, look, number - 1, zero=zero)
        for number, look in enumerate(ACCURACIES):
            _dots(right, rows, names, look, min(number, 2) - 1, factor=100.0)
        if len(values):
            log_axis(left, "x", values, most=6)
        left.set_xlabel("variance / class-mean spread (0: full collapse)")
        right.set(xlabel="accuracy (%)", xlim=(-3, 103))
        left.set_yticks(range(len(names)), [plain_text(shown(name)) for name in names])
        left.set_ylim(len(names) - 0.5, -0.5)
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
            for border in np.arange(len(names) - 1) + 0.5:
                axes.axhline(border, color="#e3e6ec", linewidth=0.6, zorder=0)
        for axes, columns in ((left, 3), (right, 2)):
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
        figure.suptitle(_said_of_dots(rows), fontsize=7, color=SOFT)
    return figure


# ---------------------------------------------------------------- panels


def _train_against_test(axes: Axes, rows: pd.DataFrame) -> None:
    columns = ("train_variance", "strong_test_variance")
    logarithmic = [spans_decades(rows[column]) for column in columns]
    zeros = [
        place_of_zero(rows[column]) if log else None for column, log in zip(columns, logarithmic, strict=True)
    ]
    seeds = [placed(rows[column], zero) for column, zero in zip(columns, zeros, strict=True)]
    tables = [
        over_seeds(rows, "num_train", column, geometric=log)
        for column, log in zip(columns, logarithmic, strict=True)
    ]
    means = [placed(table["mean"], zero) for table, zero in zip(tables, zeros, strict=True)]
    axes.plot(*means, color=TRAIN, marker="o", markersize=5, markeredgecolor="white", markeredgewidth=0.7)
    for x, y, size in zip(*means, tables[0]["num_train"], strict=True):
        for seed_x, seed_y in zip(
            *(np.array(values)[rows["num_train"] == size] for values in seeds), strict=True
        ):
            ends = [x, seed_x], [y, seed_y]
            axes.plot(
                *ends, color=TRAIN, alpha=0.45, linewidth=0.6, marker="o", markevery=[1], markeredgewidth=0
            )
        if np.isfinite(x) and np.isfinite(y):
            axes.annotate(f"{size:,}", (x, y), (5, 4), textcoords="offset points", fontsize=7)
    for which, column, log in zip(("x", "y"), columns, logarithmic, strict=True):
        if log:
            log_axis(axes, which, rows[column], most=4)
        else:
            axes.locator_params(axis=which, nbins=6)
    if not any(np.isfinite(place).all() for place in zip(*seeds, strict=True)):
        say_not_measured(axes)
        return
    axes.margins(0.12)
    axes.autoscale_view()


def _transfer(axes: Axes, rows: pd.DataFrame) -> None:
    zero = place_of_zero(rows["train_variance"])
    for look in TRANSFER:
        part = kept(rows, rows["kind"] == look.key)
        if not len(defined(part["accuracy"])):
            continue
        x = over_seeds(part, "pretrain_step", "train_variance", geometric=True)
        y = over_seeds(part, "pretrain_step", "accuracy", geometric=False)
        seeds = placed(part["train_variance"], zero), 100 * part["accuracy"]
        if part["seed"].nunique() > 1:
            axes.plot(
                *seeds, linestyle="", marker=look.marker, color=look.colour, alpha=0.4, markeredgewidth=0
            )
        mean = 100 * y["mean"]
        axes.errorbar(
            placed(x["mean"], zero),
            mean,
            yerr=[mean - 100 * y["low"], 100 * y["high"] - mean],
            color=look.colour,
            marker=look.marker,
            markersize=4.5,
            linestyle=look.line_style,
            elinewidth=0.8,
            capsize=2,
            label=look.label,
        )
    if len(defined(rows["train_variance"])):
        log_axis(axes, "x", rows["train_variance"], most=5)
    if not axes.containers:
        say_not_measured(axes)


def _dots(
    axes: Axes,
    rows: pd.DataFrame,
    names: Sequence[str],
    look: Look,
    beside: int,
    *,
    zero: float | None = None,
    factor: float = 1.0,
) -> None:
    """Every seed as a dot, constructions below each other and quantities a little apart within each."""
    values = placed(rows[look.key], zero)
    if not len(defined(values)):
        return
    places = [names.index(name) + 0.24 * beside for name in rows["construction"]]
    axes.plot(
        [factor * value for value in values],
        places,
        linestyle="",
        marker=look.marker,
        markersize=11 if look.marker == "|" else 4.5,
        markeredgewidth=2 if look.marker == "|" else 0,
        color=look.colour,
        alpha=0.85,
        label=look.label,
        clip_on=False,
    )


def _said_of_dots(rows: pd.DataFrame) -> str:
    count = rows["seed"].nunique()
    return "one seed" if count == 1 else f"each dot is one of {count} seeds"


def _said_of_sizes(rows: pd.DataFrame) -> str:
    count = rows["seed"].nunique()
    dots = "one seed" if count == 1 else f"large dots: mean of {count} seeds, small dots: each"
    return f"numbers: training samples\n{dots}"
