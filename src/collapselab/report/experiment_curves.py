"""Charts over the steps of training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from collapselab.report.experiment_data import defined, hidden_layers, kept, panels
from collapselab.report.experiment_drawing import Series, curve_chart
from collapselab.report.experiment_looks import ACCURACIES, VARIANCES
from collapselab.report.figures import Chart, number, shades

_VARIANCE = "variance / class-mean spread"
_DASHES = ("solid", "dash", "dot", "dashdot")


def variance_charts(rows: pd.DataFrame) -> list[Chart]:
    """Of every combination of data set and network: the variances of the last layer, and its accuracies."""
    charts = []
    for index, (title, part) in enumerate(panels(rows)):
        last = kept(part, part["is_last"].astype(bool))
        kinds = _kinds(last)
        series = [
            Series(f"{look.label}{kind}", one, look.key, look.colour, dash)
            for (kind, one), dash in zip(kinds, _cycled(_DASHES, len(kinds)), strict=True)
            for look in VARIANCES
        ]
        charts.append(
            curve_chart(
                series,
                x="step",
                id=f"variance-{index}",
                title=f"Variance of the last layer: {title}",
                text=f"References at the last step; 0 at full collapse. {_at_the_end(series)}",
                y_title=_VARIANCE,
            )
        )
        accuracies = [
            Series(f"{look.label}{kind}", one, look.key, look.colour, dash)
            for (kind, one), dash in zip(kinds, _cycled(_DASHES, len(kinds)), strict=True)
            for look in ACCURACIES[:2]
        ]
        charts.append(
            curve_chart(
                accuracies,
                x="step",
                id=f"accuracy-{index}",
                title=f"Accuracy: {title}",
                text=f"Of the network itself, in evaluation mode. {_at_the_end(accuracies, percent=True)}",
                y_title="accuracy",
                percent=True,
            )
        )
    return charts


def layer_charts(rows: pd.DataFrame) -> list[Chart]:
    """Of every combination of data set and network: train and strong test variance of each hidden layer."""
    charts = []
    for index, (title, part) in enumerate(panels(rows)):
        layers = hidden_layers(part)
        for split, column in (("train", "train_variance"), ("test", "strong_test_variance")):
            series = [
                Series(name, kept(part, part["depth"] == depth), column, colour)
                for (depth, name), colour in zip(layers, shades(len(layers)), strict=True)
            ]
            kind = "Train" if split == "train" else "Strong test"
            charts.append(
                curve_chart(
                    series,
                    x="step",
                    id=f"layers-{split}-{index}",
                    title=f"{kind} variance of every hidden layer: {title}",
                    text=f"References at the last step; 0 at full collapse. {_at_the_end(series)}",
                    y_title=_VARIANCE,
                )
            )
    return charts


def _kinds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows apart by what else tells jobs of one data set and network from each other, and what to call them."""
    names = [name for name in ("dropout", "num_train") if name in rows and rows[name].nunique() > 1]
    if not names:
        return [("", rows)]
    out = []
    for values, part in rows.groupby(names, sort=True):
        said = ", ".join(
            f"{name.replace('_', ' ')} {value:g}"
            for name, value in zip(names, values if isinstance(values, tuple) else (values,), strict=True)
        )
        out.append((f", {said}", part))
    return out


def _cycled(values: Sequence[str], count: int) -> list[str]:
    return [values[index % len(values)] for index in range(count)]


def _at_the_end(series: Sequence[Series], *, percent: bool = False) -> str:
    """What the lines come to."""
    said = []
    for one in series:
        if not len(defined(one.rows[one.column])):
            continue
        last = one.rows.loc[one.rows.groupby("seed")["step"].idxmax(), one.column]
        values = defined(last)
        if not len(values):
            said.append(f"{one.name} undefined")
        elif percent:
            said.append(f"{one.name} ({values.mean():.1%})")
        else:
            least, most = number(values.min()), number(values.max())
            said.append(f"{one.name} ({least})" if least == most else f"{one.name} ({least} to {most})")
    return f"At the end: {'; '.join(said)}." if said else "Not measured."
