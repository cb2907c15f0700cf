"""Charts of one metric by layer, and its values at the layers that matter as a sentence."""

from __future__ import annotations

from typing import Any

import pandas as pd

from collapselab.report.figures import NEUTRAL, TEST, TRAIN, Chart, number
from collapselab.report.layer_chart import Line, Missing, layer_chart
from collapselab.report.profile_data import ProfileData


def usual_lines(data: ProfileData, metric: str) -> list[Line]:
    """Train, test, and train at initialisation."""
    return [
        Line("train", data.values(metric), TRAIN),
        Line("test", data.values(metric, "test"), TEST),
        Line("train, initialisation", data.values(metric, at_start=True), NEUTRAL, "dot", "initialisation"),
    ]


def metric_chart(
    data: ProfileData, metric: str, *, text: str, percent: bool = False, **rest: Any
) -> Chart | Missing:
    """One metric on train and test data.

    Args:
        data: of the profile.
        metric: its name, and the chart's id.
        text: what it is; its values are said behind.
        percent: whether they are shares.
        rest: as in `layer_chart`.
    """
    return layer_chart(
        data,
        usual_lines(data, metric),
        id=metric,
        text=f"{text} {journey(data, data.values(metric), data.values(metric, 'test'), percent=percent)}",
        percent=percent,
        gaps=data.gaps([metric]),
        **rest,
    )


def weight_chart(data: ProfileData, metric: str, *, text: str, **rest: Any) -> Chart | Missing:
    """A property of the weights alone, the same on every split."""
    train, _, start = usual_lines(data, metric)
    lines = [
        Line("trained" if data.initial else "weight", train.values, train.colour),
        Line("initialisation", start.values, start.colour, start.dash),
    ]
    return layer_chart(
        data,
        lines,
        id=metric,
        text=f"{text} {journey(data, train.values, of='Here it is')}",
        gaps=data.gaps([metric]),
        **rest,
    )


def journey(
    data: ProfileData,
    values: pd.Series,
    on_test: pd.Series | None = None,
    *,
    percent: bool = False,
    of: str = "On train data it is",
) -> str:
    """Values at the first layer, the first collapsed one and the last, in a sentence.

    Args:
        data: tells the layers.
        values: by layer.
        on_test: the same on test data, of which the last is said.
        percent: whether they are shares.
        of: how the sentence begins.
    """
    places = {0: "at the first layer", len(values) - 1: "at the last"}
    if data.first_collapsed is not None:
        places.setdefault(data.layers.index(data.first_collapsed), "at the first collapsed one")
    said = [
        f"{spoken(values.iloc[at], percent)} {place}"
        for at, place in sorted(places.items())
        if not pd.isna(values.iloc[at])
    ]
    if not said:
        return ""
    words = " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
    if on_test is None or pd.isna(on_test.iloc[-1]) or pd.isna(values.iloc[-1]):
        return f"{of} {words}."
    return f"{of} {words}; on test data {spoken(on_test.iloc[-1], percent)} there."


def spoken(value: float, percent: bool = False) -> str:
    """A number for a reader, or a share in percent."""
    return number(value) if pd.isna(value) or not percent else f"{value:.1%}".replace(".0%", "%")
