"""Charts whose drawing is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from collapselab.report.chart import TRAIN, Axis, Chart, Look, Mark, Panel, Series

LOOK = Look(TRAIN)


def points(
    values: Sequence[Sequence[float]], x: Sequence[float] = (0, 1, 10), **columns: Any
) -> pd.DataFrame:
    """A long table: `values[seed][place]`."""
    rows = [
        {"x": at, "y": y, "seed": seed}
        for seed, own in enumerate(values)
        for at, y in zip(x, own, strict=True)
    ]
    return pd.DataFrame(rows).assign(**columns)


def series(values: Sequence[Sequence[float]], name: str = "train", **rest: Any) -> Series:
    columns = {key: rest.pop(key) for key in ("hollow", "group", "trials", "point") if key in rest}
    x = rest.pop("x", (0, 1, 10))
    return Series(name, points(values, x, **columns), rest.pop("look", LOOK), **rest)


def panel(*lines: Series, **rest: Any) -> Panel:
    values: dict[str, Any] = {"x": Axis("SGD step", "log"), "y": Axis("variance")}
    return Panel(rest.pop("title", ""), **(values | rest), series=lines)


def chart(*panels: Panel, **rest: Any) -> Chart:
    return Chart(
        rest.pop("id", "made-up"), rest.pop("title", "Made up"), rest.pop("text", ""), panels, **rest
    )


# Seeds differ by these factors: their geometric mean is 1, their arithmetic mean is not.
FACTORS = (0.5, 1.0, 2.0)


def falling(seeds: int = 3, gap: bool = False) -> list[list[float]]:
    """1, 0.1, 0.01 over three steps, times a factor per seed; undefined in the middle where there is a gap."""
    factors = FACTORS if seeds == 3 else [1.0] * seeds
    return [[factor, math.nan if gap else 0.1 * factor, 0.01 * factor] for factor in factors]


def every_kind() -> Chart:
    """Lines with bands, gaps and zeros, a start, marks; points with bars and hollow ones; dots sideways; bars."""
    lines = panel(
        series([[1.0 + 0.1 * seed, 0.5, 0.0] for seed in range(6)], "six seeds"),
        series([[0.5, math.nan, 0.1]] * 2, "gap", look=Look("#f97316", "dash", "square")),
        marks=(Mark("x", 1, "here"), Mark("y", 0.2, "level")),
        title="lines",
    )
    scatter = panel(
        series(
            [[0.5, 0.7, 0.9]] * 3, "points", kind="points", x=(1, 2, 4), group=[1, 2, 4] * 3, trials=100,
            hollow=[False, False, True] * 3,
        ),
        y=Axis("accuracy", "tight", percent=True), place=(0, 1), title="points",
    )  # fmt: skip
    dots = panel(
        series([[0.1, 1.0, 0.0]], "dots", kind="dots", x=(0, 1, 2)),
        x=Axis(names=("first thing", "second", "third"), reverse=True), sideways=True, place=(1, 0), title="dots",
    )  # fmt: skip
    bars = panel(
        series([[3.0, 2.0, 4.0]] * 5, "bars", kind="bars", x=(0, 1, 2)),
        x=Axis(names=("a", "b", "c")), y=Axis("count", "linear"), place=(1, 1), title="bars",
    )  # fmt: skip
    return chart(lines, scatter, dots, bars, share_x=False, share_y=False, figure="every", hollow="left out")
