"""Alternative text and tables: every number that is drawn, and every seed's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_up import chart, every_kind, falling, panel, series

from collapselab.report.chart import Axis, Heat, Mark, Panel
from collapselab.report.layout import lay_out
from collapselab.report.words import alternative_text, table_of


def test_a_line_is_told_by_its_start_its_lowest_point_and_its_end() -> None:
    one = lay_out(chart(panel(series([[1.0, 0.01, 0.5]]), marks=(Mark("y", 0.1, "level"),))))
    assert alternative_text(one.panels[0]) == (
        "variance (logarithmic) over SGD step. train: 1 at SGD step 0; 0.01 at SGD step 1; 0.5 at SGD step 10. level: 0.1."
    )


def test_points_are_told_one_by_one_and_shares_in_percent() -> None:
    text = alternative_text(lay_out(every_kind()).panels[1])
    assert text.startswith(
        "accuracy (linear) over SGD step. points: 50% at SGD step 1, between 40.4% and 59.6%;"
    )


def test_of_many_lines_the_first_and_the_last_are_told() -> None:
    many = [series([[1.0, 2.0, 3.0 + index]], f"layer {index}") for index in range(20)]
    text = alternative_text(lay_out(chart(panel(*many))).panels[0])
    assert "layer 0: 1 at" in text
    assert "22 at SGD step 10. 18 more lines in between." in text


def test_what_was_not_measured_is_said_to_be_missing() -> None:
    assert alternative_text(lay_out(chart(panel(series([[math.nan] * 3])))).panels[0]) == "Not measured."


def test_the_table_has_means_bounds_and_every_seed() -> None:
    three = table_of(lay_out(chart(panel(series(falling())))))
    assert three.columns.tolist() == [
        "SGD step",
        "train, mean",
        "train, seed 0",
        "train, seed 1",
        "train, seed 2",
    ]
    assert three["train, mean"].tolist() == pytest.approx([1, 0.1, 0.01])
    assert three["train, seed 2"].tolist() == pytest.approx([2, 0.2, 0.02])
    five = table_of(lay_out(chart(panel(series([[1.0 + seed] * 3 for seed in range(5)])))))
    assert five.columns.tolist()[:4] == ["SGD step", "train, mean", "train, from", "train, to"]
    one = table_of(lay_out(chart(panel(series(falling(1))))))
    assert one.columns.tolist() == ["SGD step", "train"]


def test_the_table_has_what_stands_before_the_start_of_an_axis() -> None:
    one = lay_out(chart(panel(series([[1e8, 1.0, 0.5]]), x=Axis("SGD step", "log", start=1))))
    assert table_of(one)["train"].tolist() == [1e8, 1.0, 0.5]


def test_tables_of_points_have_a_row_per_point_seed_and_mean() -> None:
    table = table_of(lay_out(chart(every_kind().panels[1])))
    assert table.columns.tolist() == ["series", "seed", "SGD step", "accuracy", "from", "to"]
    assert (table["seed"] == "mean").sum() == 3
    assert len(table) == 9 + 3


def test_several_panels_are_told_apart() -> None:
    drawing = lay_out(every_kind())
    table = table_of(drawing)
    assert table["panel"].unique().tolist() == ["lines", "points", "dots", "bars"]
    drawn = {
        value
        for one in drawing.panels
        for stroke in one.strokes
        for value in stroke.values
        if math.isfinite(value)
    }
    held = table.drop(columns=["panel"]).apply(pd.to_numeric, errors="coerce").to_numpy().ravel()
    for value in drawn:
        assert np.nanmin(np.abs(held - value)) <= 1e-12, value


def test_a_heat_map_is_told_row_by_row() -> None:
    values = pd.DataFrame(
        [[1.0, 0.1], [0.5, math.nan]], index=["layers.0", "layers.1"], columns=["step 0", "step 10"]
    )
    axes = Axis("step", names=("0", "10")), Axis(names=("layers.0", "layers.1"), reverse=True)
    one = lay_out(chart(Panel("", *axes, heat=Heat(values, 0.01, 1, log=True))))
    assert alternative_text(one.panels[0]) == (
        "Colours from 0.01 to 1. layers.0: 1 at step 0, 0.1 at step 10. layers.1: 0.5 at step 0, undefined at step 10."
    )
    assert table_of(one).columns.tolist() == ["layer", "step 0", "step 10"]
