"""Charts with a point per run: sizes of the train set, trained and constructed networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from collapselab.report.experiment_data import (
    at_the_end,
    defined,
    kept,
    over_seeds,
    panels,
    place_of_zero,
    placed,
    shown,
    spans_decades,
)
from collapselab.report.experiment_drawing import Series, curve_chart, log_axis_with_zero
from collapselab.report.experiment_looks import ACCURACIES, VARIANCES, Look
from collapselab.report.figures import TRAIN, Chart, escaped, new_figure, plain


def size_charts(rows: pd.DataFrame) -> list[Chart]:
    """Of every data set and network: train against test variance at the end, and both by size of the train set."""
    charts = []
    for index, (title, part) in enumerate(panels(rows)):
        last = at_the_end(part)
        charts.append(_train_against_test(last, index, title))
        charts.append(
            curve_chart(
                [Series(look.label, last, look.key, look.colour) for look in VARIANCES],
                x="num_train",
                id=f"by-size-{index}",
                title=f"Variance at the end by size of the train set: {title}",
                text="The same numbers, each over the number of training samples; 0 at full collapse.",
                x_title="training samples",
                y_title="variance / class-mean spread",
            )
        )
    return charts


def construction_charts(rows: pd.DataFrame) -> list[Chart]:
    """Variances and accuracies of every trained and constructed network."""
    return [
        _dots(
            rows,
            VARIANCES,
            id="construction-variances",
            title="Variances of every network",
            text="Each over its own references; 0 is full collapse and stands at the lower end. What is undefined is "
            "missing.",
            y_title="variance / class-mean spread",
        ),
        _dots(
            rows,
            ACCURACIES,
            id="construction-accuracies",
            title="Accuracies of every network",
            text="On train and on test data; of the two super-classes also what can be told about all classes from "
            "two points.",
            y_title="accuracy",
            percent=True,
        ),
    ]


# ---------------------------------------------------------------- charts


def _train_against_test(rows: pd.DataFrame, index: int, title: str) -> Chart:
    figure = new_figure("train variance", "strong test variance")
    columns = ("train_variance", "strong_test_variance")
    logs = [spans_decades(rows[column]) for column in columns]
    zeros = [place_of_zero(rows[column]) if log else None for column, log in zip(columns, logs, strict=True)]
    x, y = (over_seeds(rows, "num_train", c, geometric=log) for c, log in zip(columns, logs, strict=True))
    means = [placed(table["mean"], zero) for table, zero in zip((x, y), zeros, strict=True)]
    labels = [f"{size:,}" for size in x["num_train"]]
    said = [
        f"{size} training samples, train variance {value:.3g}"
        for size, value in zip(labels, x["mean"], strict=True)
    ]
    figure.add_scatter(
        x=plain(means[0]),
        y=plain(means[1]),
        text=said,
        customdata=plain(y["mean"]),
        meta={"name": "test variance, mean", "exact": True},
        name="mean over seeds",
        mode="lines+markers",
        line={"color": TRAIN, "width": 2.5},
        marker={"size": 10},
        hovertemplate="%{text}<br>test variance %{customdata:.3g}<extra></extra>",
    )
    _add_seeds(figure, rows, columns, zeros)
    dots = [placed(rows[column], zero) for column, zero in zip(columns, zeros, strict=True)]
    add_labels(
        figure,
        labels,
        *([_on_axis(values, log) for values, log in zip(pair, logs, strict=True)] for pair in (means, dots)),
    )
    for which, column, log in zip(("x", "y"), columns, logs, strict=True):
        if log:
            log_axis_with_zero(figure, which, rows[column], most=6)
    seeds = rows.filter(["num_train", "seed", *columns]).sort_values(["num_train", "seed"])
    mean = pd.DataFrame(
        {"num_train": x["num_train"], "seed": "mean", columns[0]: x["mean"], columns[1]: y["mean"]}
    )
    table = pd.concat([seeds.astype({"seed": object}), mean])
    return Chart(
        f"sizes-{index}",
        f"Train against test variance: {title}",
        "At the last step, a point per size of the train set: numbers are training samples, small points single seeds. "
        "Full collapse is at 0 on both axes.",
        figure,
        table,
    )


def _on_axis(values: Sequence[float], log: bool) -> np.ndarray:
    """Where plotly puts an annotation: at the logarithm on a logarithmic axis."""
    array = np.asarray(values, dtype=float)
    return np.log10(array) if log else array


def add_labels(
    figure: go.Figure, labels: Sequence[str], means: Sequence[np.ndarray], dots: Sequence[np.ndarray]
) -> None:
    """A label at each mean, in the corner that lies farthest from dots, means and the labels before it.

    Args:
        means: x and y of each label's point, as `_on_axis` gives them.
        dots: x and y of what labels are not to cover.
    """
    taken = np.stack([np.concatenate(pair) for pair in zip(means, dots, strict=True)], axis=1)
    taken = taken[np.isfinite(taken).all(axis=1)]
    if not len(taken):
        return
    low, high = taken.min(axis=0), taken.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    for label, x, y in zip(labels, *means, strict=True):
        point = np.array([x, y])
        if not np.isfinite(point).all():
            continue
        # Half a label away, in shares of the panel.
        corners = {
            (right, up): point + extent * (0.07 * right, 0.05 * up) for right in (1, -1) for up in (1, -1)
        }
        nearest = {
            corner: np.linalg.norm((taken - centre) / extent, axis=1).min()
            for corner, centre in corners.items()
        }
        right, up = best = max(nearest, key=lambda corner: nearest[corner])
        taken = np.vstack([taken, corners[best]])
        figure.add_annotation(
            x=float(x),
            y=float(y),
            text=label,
            showarrow=False,
            xanchor="left" if right > 0 else "right",
            yanchor="bottom" if up > 0 else "top",
            xshift=7 * right,
            yshift=3 * up,
        )


def _add_seeds(
    figure: go.Figure, rows: pd.DataFrame, columns: Sequence[str], zeros: Sequence[float | None]
) -> None:
    x, y = (plain(placed(rows[column], zero)) for column, zero in zip(columns, zeros, strict=True))
    figure.add_scatter(
        x=x,
        y=y,
        text=[
            f"seed {seed}, {size:,} training samples, train variance {value:.3g}"
            for seed, size, value in zip(rows["seed"], rows["num_train"], rows[columns[0]], strict=True)
        ],
        customdata=plain(rows[columns[1]]),
        meta={"name": "test variance", "exact": True},
        name="each seed",
        mode="markers",
        marker={"size": 6, "color": TRAIN, "opacity": 0.5},
        hovertemplate="%{text}<br>test variance %{customdata:.3g}<extra></extra>",
    )


def _dots(
    rows: pd.DataFrame,
    looks: Sequence[Look],
    *,
    id: str,
    title: str,
    text: str,
    y_title: str,
    percent: bool = False,
) -> Chart:
    """A dot per network, quantity and seed; quantities stand a little apart."""
    names = list(dict.fromkeys(rows["construction"]))
    figure = new_figure("", y_title)
    values = np.concatenate([defined(rows[look.key]) for look in looks])
    logarithmic = not percent and spans_decades(values)
    zero = place_of_zero(values) if logarithmic else None
    for place, look in enumerate(looks):
        part = kept(rows, np.isfinite(rows[look.key]))
        if part.empty:
            continue
        figure.add_scatter(
            x=[names.index(name) + 0.18 * (min(place, 2) - 1) for name in part["construction"]],
            y=placed(part[look.key], zero),
            text=[
                f"{escaped(shown(name))}, seed {seed}"
                for name, seed in zip(part["construction"], part["seed"], strict=True)
            ],
            customdata=plain(part[look.key]),
            meta={"name": look.label, "percent": percent, "exact": True},
            name=look.label,
            mode="markers",
            marker={
                "size": 9,
                "symbol": look.symbol,
                "color": look.colour,
                "opacity": 0.85,
                "line": {"width": 2 * (look.marker == "|")},
            },
            hovertemplate=f"{look.label}<br>%{{text}}<br>%{{customdata:{'.1%' if percent else '.3g'}}}<extra></extra>",
        )
    # Slanting names below and a legend above take room.
    figure.update_layout(height=430)
    if logarithmic:
        log_axis_with_zero(figure, "y", values, most=7)
    elif percent:
        figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.05])
    figure.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[escaped(shown(name)) for name in names],
        tickangle=-30,
        range=[-0.5, len(names) - 0.5],
    )
    table = rows.filter(["construction", "seed", *(look.key for look in looks)])
    return Chart(
        id, title, text, figure, table.assign(construction=[shown(name) for name in rows["construction"]])
    )
