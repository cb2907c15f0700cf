"""Figures 1, 2, 3, 6 and of footnote 2: variances over the steps of training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collapselab.report.experiment_data import (
    defined,
    hidden_layers,
    kept,
    over_seeds,
    panels,
    place_of_zero,
    said_seeds,
    shown,
    spans_decades,
)
from collapselab.report.experiment_looks import VARIANCES, Look
from collapselab.report.figures import NEUTRAL
from collapselab.report.paper_style import (
    COLUMN,
    PAGE,
    SOFT,
    draw_band,
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

_STEPS = "SGD step"
_REFERENCES = "(references at last step)"
_VARIANCE = f"variance / class-mean spread\n{_REFERENCES}"
_TRAIN_VARIANCE = f"train variance\n{_REFERENCES}"
_TRAIN_AND_TEST = VARIANCES[:2]
_LIMIT = "full collapse: 0"
# From light to dark and each with a mark of its own: to be told apart in grey.
_SHADES = ("#7cb0fb", "#2f6fe0", "#152b66")
_MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class _Line:
    """One line of a panel: some rows, the column that is drawn, and how."""

    rows: pd.DataFrame
    column: str
    label: str
    colour: str
    dash: str = "-"
    marker: str = "o"

    @property
    def values(self) -> np.ndarray:
        return defined(self.rows[self.column])


def figure_1(rows: pd.DataFrame) -> Figure:
    """Train and strong test variance of the last layer over steps."""
    return _row_of_panels(
        [(title, _of_last_layer(part, _TRAIN_AND_TEST)) for title, part in panels(rows)], rows
    )


def figure_3(rows: pd.DataFrame) -> Figure:
    """Train, strong test and weak test variance of the last layer over steps."""
    return _row_of_panels([(title, _of_last_layer(part, VARIANCES)) for title, part in panels(rows)], rows)


def figure_6(rows: pd.DataFrame) -> Figure:
    """Train variance of every hidden layer over steps; what the first layer reads is not drawn."""
    parts = []
    for title, part in panels(rows):
        layers = hidden_layers(part)
        lines = [
            _Line(
                kept(part, part["depth"] == depth),
                "train_variance",
                name.removesuffix(" hidden layer"),
                _SHADES[round(number * (len(_SHADES) - 1) / max(len(layers) - 1, 1))],
                marker=_MARKERS[number % len(_MARKERS)],
            )
            for number, (depth, name) in enumerate(layers)
        ]
        parts.append((title, lines))
    return _row_of_panels(parts, rows, y_label=_TRAIN_VARIANCE, legend="hidden layer; ")


def figure_footnote2(rows: pd.DataFrame) -> Figure:
    """Train variance of the last layer over steps, with and without dropout."""
    shares = sorted(set(rows["dropout"]))
    parts = []
    for title, part in panels(rows):
        lines = [
            _Line(
                _last(kept(part, part["dropout"] == share)),
                "train_variance",
                f"dropout {share:g}" if share else "no dropout",
                _SHADES[min(number + 1, 2)] if share else NEUTRAL,
                _DASHES[number % len(_DASHES)],
                _MARKERS[number % len(_MARKERS)],
            )
            for number, share in enumerate(shares)
            if (part["dropout"] == share).any()
        ]
        parts.append((title, lines))
    return _row_of_panels(parts, rows, y_label=_TRAIN_VARIANCE)


def figure_2(rows: pd.DataFrame) -> Figure:
    """Train and strong test variance over steps: a column per data set, a row per family of networks."""
    table = rows.filter(["dataset", "model"]).drop_duplicates()
    datasets = list(dict.fromkeys(table["dataset"]))
    families = _families(table)
    with paper_style():
        width, height = min(PAGE, 0.6 + 1.6 * len(datasets)), 0.9 + 1.25 * len(families)
        figure = paper_figure(max(width, COLUMN), height)
        grid = figure.subplots(len(families), len(datasets), sharex=True, sharey=True, squeeze=False)
        drawn: dict[tuple[int, int], Axes] = {}
        lines: list[_Line] = []
        for place, axes in np.ndenumerate(grid):
            row, column = int(place[0]), int(place[1])
            part = kept(rows, (rows["dataset"] == datasets[column]) & rows["model"].isin(families[row]))
            if part.empty:
                figure.delaxes(axes)
                continue
            drawn[row, column] = axes
            names = " / ".join(shown(name) for name in dict.fromkeys(part["model"]))
            axes.set_title(plain_text(f"{shown(datasets[column])}\n{names}"), fontsize=7.5)
            lines += _of_last_layer(part, _TRAIN_AND_TEST)
        _draw(list(drawn.values()), [lines[at : at + 2] for at in range(0, len(lines), 2)], ticks=(4, 4))
        for (row, column), axes in drawn.items():
            # Where a panel is missing, its neighbour carries the numbers of the axis.
            axes.tick_params(
                labelleft=not any((row, left) in drawn for left in range(column)),
                labelbottom=not any((below, column) in drawn for below in range(row + 1, len(families))),
            )
        figure.supxlabel(_STEPS, fontsize=8)
        figure.supylabel(f"{_VARIANCE}; {_LIMIT}" if len(families) > 1 else _VARIANCE, fontsize=8)
        legend_above(figure, list(drawn.values()), columns=2, title=said_seeds(rows))
    return figure


# ---------------------------------------------------------------- panels


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    return kept(rows, rows["is_last"].astype(bool))


def _of_last_layer(rows: pd.DataFrame, looks: Sequence[Look]) -> list[_Line]:
    last = _last(rows)
    return [_Line(last, look.key, look.label, look.colour, look.line_style, look.marker) for look in looks]


def _families(table: pd.DataFrame) -> list[list[str]]:
    """Networks that share a row: those of one name but for its number, while no data set has two of them."""
    families: dict[str, list[str]] = {}
    for model in dict.fromkeys(table["model"]):
        families.setdefault(re.sub(r"\d+", "", str(model)), []).append(model)
    out: list[list[str]] = []
    for models in families.values():
        clash = kept(table, table["model"].isin(models))["dataset"].duplicated().any()
        out += [[model] for model in models] if clash else [models]
    return out


def _row_of_panels(
    parts: Sequence[tuple[str, Sequence[_Line]]],
    rows: pd.DataFrame,
    *,
    y_label: str = _VARIANCE,
    legend: str = "",
) -> Figure:
    """One panel per title, on the same axes; a legend above them."""
    with paper_style():
        count = len(parts)
        figure = paper_figure(COLUMN if count == 1 else min(PAGE, 0.8 + 2.1 * count), 2.6)
        axes = list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0])
        for one, (title, _) in zip(axes, parts, strict=True):
            one.set_title(plain_text(title))
            one.set_xlabel(_STEPS)
        axes[0].set_ylabel(y_label)
        _draw(axes, [lines for _, lines in parts], ticks=(7 if count == 1 else 4, 6))
        if axes[0].get_yscale() == "log":  # room for what is said below the data
            low, high = axes[0].get_ylim()
            axes[0].set_ylim(bottom=low / (high / low) ** 0.1)
        axes[0].annotate(
            f"{_LIMIT} ↓", (0.02, 0.03), xycoords="axes fraction", color=SOFT, fontsize=7, va="bottom"
        )
        legend_above(figure, axes, columns=3, title=legend + said_seeds(rows))
    return figure


def _draw(axes: Sequence[Axes], lines: Sequence[Sequence[_Line]], *, ticks: tuple[int, int]) -> None:
    """The lines of each panel, all panels on one pair of axes."""
    everything = [line for part in lines for line in part]
    steps = [step for line in everything for step in line.rows["step"]]
    values = np.concatenate([np.zeros(0), *(line.values for line in everything)])
    logarithmic = spans_decades(values)
    zero_x, zero_y = place_of_zero(steps), place_of_zero(values) if logarithmic else None
    for one, part in zip(axes, lines, strict=True):
        for line in part:
            if not len(line.values):
                continue
            table = over_seeds(line.rows, "step", line.column, geometric=logarithmic)
            draw_band(
                one,
                table,
                "step",
                colour=line.colour,
                label=line.label,
                zero_x=zero_x,
                zero_y=zero_y,
                dash=line.dash,
                marker=line.marker,
            )
        if not any(len(line.values) for line in part):
            say_not_measured(one)
    # Axes are shared: what is set on one panel holds for all.
    if steps:
        log_axis(axes[0], "x", steps, most=ticks[0])
    if logarithmic:
        log_axis(axes[0], "y", values, most=ticks[1])
    else:
        axes[0].set_ylim(bottom=0)
