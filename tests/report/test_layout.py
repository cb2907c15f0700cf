"""What is drawn of a chart, by closed form: means, gaps, zeros, single seeds, intervals, legend, readouts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import FACTORS, LOOK, chart, every_kind, falling, panel, points, series

from collapselab.report.chart import Axis, Chart, Look, Mark, Series
from collapselab.report.layout import DrawnPanel, Stroke, lay_out
from collapselab.report.words import table_of


def drawn(one: Chart, at: int = 0) -> DrawnPanel:
    return lay_out(one).panels[at]


def main(one: DrawnPanel) -> list[Stroke]:
    return [stroke for stroke in one.strokes if not stroke.faint]


def test_lines_are_geometric_means_on_logarithmic_axes() -> None:
    one = drawn(chart(panel(series(falling()))))
    assert main(one)[0].values == pytest.approx((1, 0.1, 0.01))
    assert main(one)[0].y == pytest.approx((0, -1, -2))
    assert lay_out(chart(panel(series(falling())))).how == "geometric mean of 3 seeds, thin lines: each seed"


def test_lines_are_plain_means_on_linear_axes() -> None:
    one = chart(panel(series([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])))
    assert main(drawn(one))[0].values == (1.5, 3.0, 4.5)
    assert drawn(one).y.low == 0
    assert lay_out(one).how == "mean of 2 seeds, thin lines: each seed"


def test_every_seed_is_a_thin_line_while_there_are_fewer_than_five() -> None:
    few = drawn(chart(panel(series(falling(3)))))
    assert [stroke.name for stroke in few.strokes if stroke.faint] == [
        f"train, seed {seed}" for seed in range(3)
    ]
    assert [stroke.values[0] for stroke in few.strokes if stroke.faint] == list(FACTORS)
    assert not main(few)[0].bounds
    many = chart(panel(series([[1.0 + seed] * 3 for seed in range(5)])))
    assert len(drawn(many).strokes) == 1
    low, high = main(drawn(many))[0].bounds[0]
    assert (low, high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-3)  # t(0.975, 4) sqrt(2.5 / 5)
    assert lay_out(many).how == "mean of 5 seeds, band: its 95% interval"
    one = lay_out(chart(panel(series(falling(1)))))
    assert (len(one.panels[0].strokes), one.how) == (1, "one seed")


def test_undefined_values_are_gaps_and_zero_has_a_place() -> None:
    one = drawn(chart(panel(series([[1.0, math.nan, 0.0], [1.0, math.nan, 0.1]]))))
    mean = main(one)[0]
    assert math.isnan(mean.y[1])
    assert mean.values[2] == 0
    assert one.y.ticks[0] == (mean.y[2], "0")
    assert one.x.ticks[0] == (mean.x[0], "0")


def test_a_line_passes_by_points_that_stand_apart() -> None:
    one = replace(series([[1.0, 0.3, 0.5, 0.1]], x=(0, 1, 2, 3)), apart=frozenset({2}))
    beside, line = main(drawn(chart(panel(one))))
    assert (line.kind, line.values) == ("line", (1.0, 0.3, 0.1))
    assert (beside.kind, beside.values) == ("points", (0.5,))
    assert [entry.text for entry in lay_out(chart(panel(one))).legend] == ["train"]
    assert table_of(lay_out(chart(panel(one))))["train"].tolist() == [1.0, 0.3, 0.5, 0.1]


def test_points_before_the_start_are_not_drawn_and_do_not_stretch_the_axis() -> None:
    high = [[1e8, 1.0, 0.5]]
    one = drawn(chart(panel(series(high), x=Axis("SGD step", "log", start=1))))
    assert main(one)[0].values == (1.0, 0.5)
    assert one.y.high < 2


def test_panels_share_an_axis_or_have_their_own() -> None:
    parts = panel(series([[1.0, 1.0, 2.0]])), panel(series([[10.0, 20.0, 30.0]]), place=(0, 1))
    shared, own = lay_out(chart(*parts)), lay_out(chart(*parts, share_y=False))
    assert shared.panels[0].y == shared.panels[1].y
    assert shared.panels[0].y.log
    assert [one.y.log for one in own.panels] == [False, False]
    assert own.panels[0].y.high < own.panels[1].y.high


def test_thresholds_are_always_in_view() -> None:
    one = drawn(chart(panel(series([[1.0, 2.0, 3.0]]), marks=(Mark("y", 0.01, "level"),))))
    assert one.y.log
    assert one.y.low < -2


def test_an_interval_does_not_leave_the_axis() -> None:
    one = drawn(chart(panel(series([[1.0, 2.0, 10.0 + 5 * seed] for seed in range(5)]))))
    bounds = np.array(main(one)[0].bounds)
    assert one.y.low <= np.nanmin(bounds)
    assert np.nanmax(bounds) <= one.y.high


def test_points_stand_at_their_means_with_every_seed_beside() -> None:
    table = pd.DataFrame({"x": [1.0, 3.0, 5.0], "y": [2.0, 4.0, 9.0], "seed": [0, 1, 2], "group": 7, "hollow": [False, False, True],
                          "point": "group 7"})  # fmt: skip
    one = chart(
        panel(Series("a", table, LOOK, "points"), x=Axis("x", "tight"), y=Axis("y", "tight")),
        hollow="left out",
    )
    mean, *seeds = drawn(one).strokes
    assert (mean.x, mean.values) == ((2.0,), (3.0,))
    assert [stroke.hollow for stroke in seeds] == [(False,), (False,), (True,)]
    assert mean.points == ("group 7, x 2",)
    assert lay_out(one).legend[-1].text == "left out"
    assert lay_out(one).legend[-1].hollow
    assert lay_out(one).how == "large: mean of 3 seeds, small: each seed"


def test_a_share_of_trials_has_its_binomial_interval() -> None:
    one = drawn(every_kind(), 1)
    (low, high), *_ = main(one)[0].bounds
    assert (low, high) == pytest.approx((0.404, 0.596), abs=1e-3)
    assert "between 40.4% and 59.6%" in main(one)[0].points[0]


def test_sideways_panels_are_turned_whole() -> None:
    one = drawn(every_kind(), 2)
    assert [text for _, text in one.y.ticks] == ["first thing", "second", "third"]
    assert one.panel.y.names
    assert main(one)[0].y == (0, 1, 2)
    assert main(one)[0].x[2] == one.x.zero
    assert main(one)[0].values == (0.1, 1.0, 0.0)
    assert main(one)[0].points[2] == "third, seed 0"
    assert one.y.low > one.y.high, "the first at the top"
    assert lay_out(chart(every_kind().panels[2])).how == "one seed"


def test_the_legend_has_each_entry_once_and_marks_behind() -> None:
    parts = [
        panel(series([[1, 2, 3]], "a"), series([[1, 2, 3]], "b", legend="a"), marks=(Mark("x", 1, "here"),)),
        panel(series([[1, 2, 3]], "c"), series([[math.nan] * 3], "nothing"), marks=(Mark("x", 2, "here"),)),
    ]
    assert [entry.text for entry in lay_out(chart(*parts)).legend] == ["a", "c", "here"]


def test_a_legend_of_many_lines_is_shortened() -> None:
    many = [
        series([[1.0, 2.0, 3.0]], f"layer {index}", look=Look(f"#0000{index:02x}")) for index in range(54)
    ]
    texts = [entry.text for entry in lay_out(chart(panel(*many))).legend]
    assert texts == ["layer 0", "52 between, in this order of colours", "layer 53"]


def test_readouts_tell_place_and_bounds() -> None:
    layers = pd.DataFrame(
        {"x": [0, 1], "y": [3.0, 4.0], "low": [2.0, 4.0], "high": [5.0, 4.0], "point": ["depth 0", "depth 1"]}
    )
    one = drawn(chart(panel(Series("train", layers, LOOK), x=Axis(names=("conv1", "fc")))))
    assert main(one)[0].points == ("conv1, depth 0, between 2 and 5", "fc, depth 1")
    assert main(drawn(chart(panel(series([[1.0, 2.0, 3.0]])))))[0].points[2] == "SGD step 10"


def test_what_was_not_measured_is_empty() -> None:
    assert drawn(chart(panel(series([[math.nan] * 3])))).is_empty
    assert drawn(chart(panel(Series("none", points([]).reindex(columns=["x", "y", "seed"]), LOOK)))).is_empty
    assert drawn(chart(panel())).is_empty
