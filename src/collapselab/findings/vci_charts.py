"""Charts of the finding about VCI at finite n."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from collapselab.data.names import data_title
from collapselab.findings import vci_agreement as of
from collapselab.frames import groups, rows_that
from collapselab.report.chart import (
    NEUTRAL,
    TEST,
    TRAIN,
    Axis,
    Chart,
    Look,
    Mark,
    Panel,
    Series,
    ordered_looks,
)

_RAW, _ADJUSTED = Look(TEST, "dash", "square"), Look(TRAIN)
_LOOKS = {"vci": _RAW, "vci_adjusted": _ADJUSTED}
_KINDS = {
    "test": ("test features", Look(TRAIN)),
    "unequal": ("Gaussian, covariance of each class", Look(TEST, "dot", "triangle")),
    "equal": ("Gaussian, equal covariances", Look(NEUTRAL, "dash", "square")),
}
_SAMPLES = Axis("n, test samples measured", "log")


def errors(rows: pd.DataFrame) -> list[Chart]:
    """Errors by n: a row of panels per data set, VCI on the left and adjusted VCI on the right; a line per width."""
    panels = []
    for at, (data, part) in enumerate(groups(rows, "dataset")):
        for column, (name, title) in enumerate(of.COLUMNS.items()):
            panels.append(
                Panel(
                    f"{title}, {data_title(str(data))}", _SAMPLES, Axis("RMS relative error", "log"),
                    tuple(_by_width(part, name)), place=(at, column),
                )
            )  # fmt: skip
    text = "Error of a part of the test set against adjusted VCI of the whole set; mean over seeds."
    return [Chart("errors", "Errors of VCI and of adjusted VCI", text, tuple(panels), "vci-finite-samples")]


def _by_width(part: pd.DataFrame, column: str) -> Iterator[Series]:
    known = sorted(part["width"].unique())
    for width, look in zip(known, ordered_looks(len(known)), strict=True):
        own = rows_that(part, part["width"] == width)
        points = _by_seed(own, lambda rows: _rms(of.relative_errors(rows, "test", column)))
        yield Series(f"width {width}", points, look)


def _rms(found: Mapping[int, Any]) -> dict[int, float]:
    return {n: of.root_mean_square(one) for n, one in found.items()}


def _by_seed(part: pd.DataFrame, measure: Callable[[pd.DataFrame], Mapping[int, float]]) -> pd.DataFrame:
    found = [(n, value, seed) for seed, own in groups(part, "seed") for n, value in measure(own).items()]
    return pd.DataFrame(found, columns=pd.Index(["x", "y", "seed"]))


def rankings(rows: pd.DataFrame) -> list[Chart]:
    """Rank correlations: the same n for all networks above, different n below."""
    panels = []
    names = Axis(names=tuple(of.COLUMNS.values()))
    y = Axis("Kendall's rank correlation", "tight")
    for at, (data, part) in enumerate(groups(rows, "dataset")):
        lines, dots = [], []
        for place, (name, title) in enumerate(of.COLUMNS.items()):
            look = _LOOKS[name]
            lines.append(Series(title, _by_seed(part, partial(of.rankings, kind="test", column=name)), look))
            mixed = _by_seed(part, lambda own, place=place, name=name: {place: of.mixed_ranking(own, name)})
            dots.append(Series(title, mixed, look, kind="points"))
        title = data_title(str(data))
        panels += [
            Panel(f"{title}, all networks at one n", _SAMPLES, y, tuple(lines), place=(0, at)),
            Panel(f"{title}, each at another n", names, y, tuple(dots), place=(1, at)),
        ]
    text = "Ranking of networks of different widths by a part of the test set, against their ranking by the whole set."
    return [
        Chart(
            "rankings", "Rankings by VCI and by adjusted VCI", text, tuple(panels), "rankings", share_x=False
        )
    ]


def biases(rows: pd.DataFrame) -> list[Chart]:
    """Mean relative error of adjusted VCI by n, of real and of Gaussian features; a panel per data set."""
    panels = []
    for at, (data, part) in enumerate(groups(rows, "dataset")):
        series = tuple(
            Series(title, _by_seed(part, lambda own, kind=kind: _means(own, kind)), look)
            for kind, (title, look) in _KINDS.items()
        )
        y, zero = Axis("relative bias", "tight", percent=True), Mark("y", 0.0, "unbiased")
        panels.append(Panel(data_title(str(data)), _SAMPLES, y, series, (zero,), place=(0, at)))
    text = "Mean over networks and draws, against the whole test set (test features) or the exact value (Gaussian)."
    return [Chart("bias", "What the adjustment leaves", text, tuple(panels), "bias")]


def _means(rows: pd.DataFrame, kind: str) -> dict[int, float]:
    return {n: float(one.mean()) for n, one in of.relative_errors(rows, kind, "vci_adjusted").items()}


def leverages(rows: pd.DataFrame) -> list[Chart]:
    """Measured against predicted bias of each network, a panel per data set."""
    panels = []
    for at, (data, part) in enumerate(groups(rows, "dataset")):
        points = _predictions(part)
        series = [
            Series(f"n = {n:,}", own, look, kind="dots")
            for (n, own), look in zip(groups(points, "n"), (_ADJUSTED, _RAW), strict=False)
        ]
        ends = [points["x"].min(), points["x"].max()]
        line = pd.DataFrame({"x": ends, "y": ends})
        series.append(Series("exact", line, Look(NEUTRAL, "dot", "none")))
        x, y = (Axis(f"{what} relative bias", "tight", percent=True) for what in ("predicted", "measured"))
        panels.append(Panel(data_title(str(data)), x, y, tuple(series), place=(0, at)))
    text = "One point per network and seed. Predicted from the effective rank; on the line, the prediction is exact."
    title = "Bias of adjusted VCI: predicted and measured"
    return [Chart("leverage", title, text, tuple(panels), "leverage", share_x=False, share_y=False)]


def _predictions(part: pd.DataFrame) -> pd.DataFrame:
    """Return one row per network, seed and n: `x` predicted, `y` measured."""
    tables = []
    for seed, own in groups(part, "seed"):
        found, predicted = of.relative_errors(own, "test", "vci_adjusted"), of.predicted_biases(own, "test")
        for n in sorted(found)[1:3]:
            table = {"n": n, "x": predicted[n], "y": found[n].mean(axis=1), "seed": seed}
            tables.append(pd.DataFrame(table))
    assert len(tables), "there are seeds"
    return pd.concat(tables, ignore_index=True)
