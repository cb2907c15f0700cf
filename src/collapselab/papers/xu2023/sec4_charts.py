"""Charts of sec. 4 and 5: changes of metrics under transformations, variance that is not read, loss against VCI."""

from __future__ import annotations

import pandas as pd

from collapselab.frames import groups, rows_that, rows_where
from collapselab.papers.xu2023.measured_identities import CHANGES
from collapselab.report.chart import NEUTRAL, TEST, TRAIN, WEAK, Axis, Chart, Heat, Look, Panel, Series

_DRAWN = (
    ("squared distance", "squared_distance", Look(TEST, "dash", "square")),
    ("fuzziness", "fuzziness", Look(WEAK, "dot", "triangle")),
    ("VCI", "vci", Look(TRAIN)),
    ("cross-entropy", "loss", Look(NEUTRAL, "dashdot", "diamond")),
)
_LEAST, _MOST = 1e-16, 1e1  # colours of smaller and of larger changes are those of the ends


def invariance(rows: pd.DataFrame) -> list[Chart]:
    """Draw the largest relative change over seeds of every metric under every transformation; a panel per features."""
    table = rows_that(rows, rows["change_of_vci"].notna() & (rows["case"] != "none"))
    panels = []
    for features, part in groups(table, "features"):
        worst = pd.DataFrame(
            {
                str(case): own[list(CHANGES)].max().clip(_LEAST, _MOST).to_numpy()
                for case, own in groups(part, "case")
            },
            index=["VCI", "fuzziness", "squared dist.", "cosine sim."],
        ).T
        axes = (
            Axis(names=tuple(worst.columns)),
            Axis("transformation", names=tuple(map(str, worst.index)), reverse=True),
        )
        panels.append(
            Panel(
                str(features),
                *axes,
                heat=Heat(worst, _LEAST, _MOST, log=True, label="largest relative change over seeds"),
                place=(0, len(panels)),
            )
        )
    text = (
        "Relative change of each metric, the largest over seeds; below 1e-16 it is drawn as 1e-16. Separate maps: one of the span of the "
        "class means, one of its complement. VCI is invariant to every invertible map, up to rounding: this grows with the square of the "
        "condition number, until float64 cannot tell eigenvalues of Sigma_T from 0."
    )
    return [
        Chart(
            "sec4",
            "Changes of metrics under transformations",
            text,
            tuple(panels),
            "sec4",
            share_x=False,
            share_y=False,
        )
    ]


def off_weight_space(rows: pd.DataFrame) -> list[Chart]:
    """Draw metrics and loss over the variance that the classifier does not read."""
    table = rows_that(rows, rows["added"].notna())
    series = tuple(Series(name, _points(table, "added", column), look) for name, column, look in _DRAWN)
    x = Axis("variance added off the weight's row space, over Tr Sigma_T", "log")
    text = "The network's loss and decisions stay the same, so squared distance can be as large as one likes at no loss."
    panel = Panel("", x, Axis("value", "log"), series)
    return [Chart("off-weight-space", "Within-class variance at no loss", text, (panel,), "off-weight-space")]


def losses(rows: pd.DataFrame) -> list[Chart]:
    """Draw the least squares loss against VCI, with theorem 5.1, of features whose classes are made narrower and wider."""
    table = rows_that(rows, rows["spread"].notna())
    looks = {"pixels": Look(TEST, "dash", "square"), "last layer": Look(TRAIN)}
    series = [
        Series(name, _points(rows_where(table, features=name), "vci", "loss"), look, kind="dots")
        for name, look in looks.items()
    ]
    ends = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 0.45]})
    series.append(Series("theorem 5.1 for 10 classes", ends, Look(NEUTRAL, "dot", "none")))
    text = "Each dot: distances of samples from their class means are multiplied by one factor. On the line, theorem 5.1 is exact."
    panel = Panel("", Axis("VCI", "linear"), Axis("least squares loss", "linear"), tuple(series))
    return [
        Chart(
            "loss-by-vci", "The least squares loss is a linear function of VCI", text, (panel,), "loss-by-vci"
        )
    ]


def _points(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    return pd.DataFrame({"x": rows[x], "y": rows[y], "seed": rows["seed"]})
