"""From rows to charts: what is drawn of made-up rows with known answers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from experiment_rows import construction_rows, curve_rows, size_rows, transfer_rows

from collapselab.frames import hidden_layers, rows_that, rows_where
from collapselab.report.builders import (
    ACCURACY_LINES,
    FITTED,
    SPREAD,
    VANISHED,
    VARIANCES,
    Dots,
    Lines,
    Points,
    Quantity,
    by_column,
    by_layer,
    ends,
    zero_train_error,
)  # fmt: skip
from collapselab.report.chart import Axis, Chart, Look, Mark
from collapselab.report.layout import Stroke, lay_out

CURVES = Lines("fig", "Title", VARIANCES)
STEPS = (0, 1, 10, 100, 1000)


def strokes(chart: Chart, at: int = 0) -> dict[str, Stroke]:
    """The means, by name."""
    return {stroke.name: stroke for stroke in lay_out(chart).panels[at].strokes if not stroke.faint}


def only(made: list[Chart]) -> Chart:
    (chart,) = made
    return chart


def test_variances_over_both_references_stand_beside_each_other() -> None:
    chart = only(CURVES(curve_rows()))
    assert (chart.id, chart.figure) == ("fig", "fig")
    assert [(panel.title, panel.subtitle, panel.place) for panel in chart.panels] == [
        ("ResNet-18 on CIFAR-10", "centres of the last step", (0, 0)),
        ("ResNet-18 on CIFAR-10", "centres of the measured step", (0, 1)),
    ]
    assert list(strokes(chart)) == ["train", "test, strong", "test, weak"]
    assert strokes(chart)["train"].values == pytest.approx([1 / (step + 1) for step in STEPS])
    assert list(strokes(chart, 1)) == ["train", "test, strong"]
    assert strokes(chart, 1)["train"].values == pytest.approx([3 / (step + 1) for step in STEPS])
    assert "train 5.00e-4 to 0.002; test, strong 0.25 to 1; test, weak 0.125 to 0.5." in chart.text


def test_old_rows_have_no_panel_of_the_same_step() -> None:
    rows = curve_rows()
    rows.loc[rows["step"] < 1000, ["train_variance", "strong_test_variance"]] = math.nan
    assert [panel.subtitle for panel in only(CURVES(rows)).panels] == ["centres of the last step"]
    without = rows.drop(columns=["train_variance", "strong_test_variance", "weak_test_variance"])
    assert len(only(CURVES(without)).panels) == 1


def test_several_networks_have_both_references_below_each_other() -> None:
    rows = pd.concat([curve_rows(), curve_rows("mlp")], ignore_index=True)
    assert [panel.place for panel in only(CURVES(rows)).panels] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_axes_start_behind_the_transient_of_the_first_steps() -> None:
    rows = curve_rows()
    rows = pd.concat([rows_that(rows, rows["step"] < 2), rows.assign(step=rows["step"] + 2)])
    rows.loc[rows["step"] == 1, "train_variance_final"] = 1e8
    chart = only(CURVES(rows))
    assert [panel.x.start for panel in chart.panels] == [2, None]
    assert chart.notes == (
        "A transient of the first steps, with values up to 1.00e8, is not drawn: lines start at step 2.",
    )
    assert len(strokes(chart)["train"].x) == 5


@pytest.mark.parametrize("change", ["falling", "few steps"])
def test_without_a_transient_all_steps_are_drawn(change: str) -> None:
    rows = curve_rows()
    if change == "few steps":
        rows.loc[rows["step"] == 100, "train_variance_final"] = 1e8  # only one step is left behind it
    assert only(CURVES(rows)).panels[0].x.start is None


def test_zero_train_error_is_marked_where_every_run_has_it() -> None:
    rows = curve_rows()
    assert zero_train_error(rows) == Mark(
        "x", 100, "zero train error from here", Look("#8b93a3", "dot", "none")
    )
    rows.loc[(rows["seed"] == 2) & (rows["step"] == 100), "train_accuracy"] = FITTED - 1e-3
    late = zero_train_error(rows)
    assert isinstance(late, Mark)
    assert late.at == 1000
    rows.loc[(rows["seed"] == 0) & (rows["step"] == 1000), "train_accuracy"] = 0.99
    chart = only(Lines("fig", "Title", VARIANCES, marks=(zero_train_error, VANISHED))(rows))
    assert chart.notes == ("Not every run reaches zero train error in ResNet-18 on CIFAR-10.",)
    assert [mark.label for mark in chart.panels[0].marks] == ["vanished: below 0.1"]


def test_lines_are_told_apart_by_a_column() -> None:
    rows = pd.concat(
        [curve_rows("mlp", dropout=0.0), curve_rows("mlp", dropout=0.5), curve_rows("vgg11_bn", dropout=0.5)]
    )
    split = by_column("dropout", "dropout {:g}")
    chart = only(Lines("fig", "Title", VARIANCES[:1], split=split)(rows))
    assert [list(strokes(chart, at)) for at in (0, 1)] == [["dropout 0", "dropout 0.5"], ["dropout 0.5"]]
    assert strokes(chart, 0)["dropout 0.5"].look == strokes(chart, 1)["dropout 0.5"].look
    both = only(Lines("fig", "Title", VARIANCES[:2], split=split)(rows))
    assert list(strokes(both)) == [
        "train, dropout 0", "train, dropout 0.5", "test, strong, dropout 0", "test, strong, dropout 0.5",
    ]  # fmt: skip
    assert strokes(both)["train, dropout 0"].look.colour == strokes(both)["train, dropout 0.5"].look.colour


def test_layers_are_drawn_from_the_first_hidden_one() -> None:
    lines = Lines("fig", "Title", VARIANCES[:1], select=hidden_layers, split=by_layer)
    drawn = strokes(only(lines(curve_rows("mlp", depths=4))))
    assert list(drawn) == ["first hidden", "penultimate hidden", "last hidden"]
    assert [stroke.values[0] for stroke in drawn.values()] == pytest.approx([100, 10, 1])
    five = strokes(only(lines(curve_rows("mlp", depths=6))))
    assert list(five) == ["first hidden", "hidden 2", "hidden 3", "penultimate hidden", "last hidden"]


def test_accuracies_are_shares_of_the_network_itself() -> None:
    chart = only(ACCURACY_LINES(curve_rows()))
    assert chart.figure == ""
    assert chart.panels[0].y.percent
    assert "train 100%; test 80%." in chart.text


def test_a_grid_has_data_sets_as_columns_and_a_chart_for_each_kind_of_references() -> None:
    rows = pd.concat(
        [
            curve_rows(model).assign(dataset=dataset)
            for dataset, models in (("cifar10", ("resnet18", "vgg11_bn")), ("stl10", ("resnet50",)))
            for model in models
        ]
    )
    ended, same = Lines("fig2", "Title", VARIANCES[:2], grid=True)(rows)
    assert [chart.figure for chart in (ended, same)] == ["fig2", "fig2-same-step"]
    assert [(panel.title, panel.place) for panel in ended.panels] == [
        ("ResNet-18 on CIFAR-10", (0, 0)), ("VGG-11 (BN) on CIFAR-10", (1, 0)), ("ResNet-50 on STL-10", (0, 1)),
    ]  # fmt: skip
    assert (ended.notes, same.notes) == (("Centres of the last step.",), ("Centres of the measured step.",))


def test_a_small_grid_has_a_column_for_each_arm_of_a_data_set() -> None:
    def rows(*datasets: str) -> pd.DataFrame:
        return pd.concat(
            curve_rows(model).assign(dataset=dataset, arm=arm)
            for arm in ("literal", "papyan")
            for dataset in datasets
            for model in ("resnet18", "vgg11_bn")
        )

    def places(*datasets: str) -> list[tuple[int, int]]:
        return [
            panel.place
            for panel in Lines("fig2", "Title", VARIANCES[:2], grid=True)(rows(*datasets))[0].panels
        ]

    assert places("mnist", "cifar10") == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    wide = places("mnist", "fashion_mnist", "cifar10", "svhn")
    assert max(column for _, column in wide) == 3
    assert max(row for row, _ in wide) == 3


SIZES = Points(
    "fig4", "Title", x="train_variance", y="strong_test_variance_final", axes=(Axis("train", "tight"), Axis("test", "tight")),
    split=by_column("num_train", "{:,} samples"), group="num_train",
    hollow=(lambda rows: rows["train_accuracy"] < FITTED, "train errors"),
)  # fmt: skip


def test_sizes_are_points_at_their_means_and_are_not_joined() -> None:
    chart = only(SIZES(size_rows()))
    drawn = strokes(chart)
    assert list(drawn) == ["100 samples", "1,000 samples", "10,000 samples"]
    assert [stroke.values[0] for stroke in drawn.values()] == pytest.approx([0.5, 0.05, 0.005])
    assert all(stroke.kind == "points" and len(stroke.x) == 1 for stroke in drawn.values())
    assert len({stroke.look for stroke in drawn.values()}) == 3
    assert [panel.subtitle for panel in chart.panels] == [""]
    seeds = [stroke for stroke in lay_out(chart).panels[0].strokes if stroke.faint]
    assert len(seeds) == 9
    assert drawn["100 samples"].points == ("num train 100, train 9.99e-5",)


def test_runs_with_train_errors_are_hollow_and_left_out_of_means() -> None:
    rows = size_rows()
    rows.loc[(rows["num_train"] == 100) & (rows["seed"] == 2) & (rows["step"] == 1000), "train_accuracy"] = (
        0.99
    )
    chart = only(SIZES(rows))
    assert strokes(chart)["100 samples"].values[0] == pytest.approx(0.5 * 0.5**0.5)
    hollow = [stroke.name for stroke in lay_out(chart).panels[0].strokes if any(stroke.hollow)]
    assert hollow == ["100 samples, seed 2"]
    assert lay_out(chart).legend[-1].text == "train errors"


def kinds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [
        ("tuned", rows_where(rows, kind="fine_tuning", learning_rate=0.01)),
        ("probe", rows_where(rows, kind="linear_probe")),
    ]


TRANSFER = Points(
    "fig5", "Title", x="train_variance", y="accuracy", axes=(Axis("train variance", "log"), Axis("accuracy", "tight", percent=True)), split=by_column("pretrain_step", "step {:,}"),
    group="pretrain_step", select=lambda rows: rows, panels=kinds,
)  # fmt: skip


def test_transfer_has_a_panel_per_kind_and_binomial_errors() -> None:
    chart = only(TRANSFER(transfer_rows()))
    assert [panel.title for panel in chart.panels] == ["MLP on MNIST, tuned", "MLP on MNIST, probe"]
    assert chart.share_y
    tuned = list(strokes(chart).values())
    assert [stroke.values for stroke in tuned] == [pytest.approx((0.81,)), pytest.approx((0.71,))]
    assert 10 ** tuned[0].x[0] == pytest.approx(1)
    assert tuned[0].bounds[0] == pytest.approx((0.722, 0.875), abs=1e-3)  # Wilson, 81 of 100
    looks = [{name: stroke.look for name, stroke in strokes(chart, at).items()} for at in (0, 1)]
    assert looks[0] == looks[1]
    assert list(looks[0]) == ["step 100", "step 1,000"]
    assert chart.notes == ("Bars: 95% binomial confidence interval for 100 test samples.",)


def test_the_number_of_test_samples_shows_in_the_accuracies_where_rows_lack_it() -> None:
    rows = transfer_rows().drop(columns="num_test")
    rows = rows[(rows["kind"] != "pretraining") & rows["accuracy"].notna()]
    assert only(TRANSFER(pd.DataFrame(rows))).notes == (
        "Bars: 95% binomial confidence interval for 100 test samples.",
    )


def test_checkpoints_stand_at_their_own_variance_beside_that_of_the_paper() -> None:
    rows = transfer_rows()
    chart = only(TRANSFER(rows.assign(train_variance=7.0)))
    assert [panel.subtitle for panel in chart.panels] == ["centres of the last step"] * 2 + [
        "centres of the measured step"
    ] * 2
    assert 10 ** strokes(chart, 2)["step 100"].x[0] == pytest.approx(7, rel=1e-9)
    same = only(TRANSFER(rows.assign(train_variance=rows["train_variance_final"])))
    assert [panel.subtitle for panel in same.panels] == ["", ""]


def test_things_with_names_are_rows_of_dots() -> None:
    two = (Quantity("bound", "bound for two points", Look("#8b93a3", marker="bar")),)
    panels = ((SPREAD, VARIANCES), (Axis("accuracy", percent=True), two))
    chart = only(
        Dots("sec2", "Title", "construction", {"network": "past zero error"}, panels)(construction_rows())
    )
    left, right = lay_out(chart).panels
    assert [text for _, text in left.y.ticks] == [
        "past zero error",
        "one hot decisions",
        "memoriser",
        "super class",
    ]
    train = strokes(chart)["train"]
    assert train.values == (1e-4, 0.0, 0.0, 1e-3) * 2
    assert [round(at) for at in train.y[:4]] == [0, 1, 2, 3]
    assert train.x[1] == left.x.zero
    assert [value for value in strokes(chart, 1)["bound for two points"].values if value == value] == [
        0.2,
        0.2,
    ]
    assert right.panel.x.percent


def test_the_end_is_that_of_each_run() -> None:
    rows = pd.DataFrame(
        [
            {"job": job, "seed": seed, "step": step, "layer": "last", "depth": 1, "is_last": True}
            for job, steps in (("short", (0, 10)), ("long", (0, 10, 70)))
            for seed in range(3)
            for step in steps
        ]
    )
    assert ends(rows)["step"].tolist() == [10, 10, 10, 70, 70, 70]


@pytest.mark.parametrize(
    ("make", "rows"),
    [(CURVES, curve_rows()), (SIZES, size_rows()), (TRANSFER, transfer_rows())],
)
def test_what_was_not_measured_is_a_chart_all_the_same(make: Any, rows: pd.DataFrame) -> None:
    numbers = [name for name in rows if "variance" in str(name) or name == "accuracy"]
    chart = only(make(rows.assign(**dict.fromkeys(map(str, numbers), math.nan))))
    assert all(panel.is_empty for panel in lay_out(chart).panels)
