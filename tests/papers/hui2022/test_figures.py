"""The paper's figures: what their artists hold, by closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_rows import (
    FACTORS,
    STEPS,
    VARIANCES,
    curves,
    drawn_once,
    falling,
    grid,
    legend,
    lines,
    sizes,
    ticks,
    transfer,
)
from matplotlib.figure import Figure

from collapselab.papers.hui2022 import figures


def test_figure_1_draws_geometric_means_of_train_and_test() -> None:
    (axes,) = drawn_once("fig1").axes
    drawn = lines(axes)
    assert list(drawn) == ["train", "test, strong"]
    x, y = drawn["train"]
    assert x[1:].tolist() == [1, 10, 100, 1000]
    assert y == pytest.approx([falling(step, 1e-3) for step in STEPS], rel=1e-12)
    assert drawn["test, strong"][1] == pytest.approx([0.4 + falling(step, 0) for step in STEPS], rel=1e-12)
    assert axes.get_yscale() == "log"
    assert axes.get_title() == "ResNet-18 on CIFAR-10"


def test_step_0_has_a_place_and_a_tick_of_its_own() -> None:
    (axes,) = drawn_once("fig1").axes
    first = lines(axes)["train"][0][0]
    assert 0 < first < 1
    assert ticks(axes, "x")["0"] == first
    assert axes.get_xlim()[0] < first


def test_the_band_spans_all_seeds() -> None:
    (axes,) = drawn_once("fig1").axes
    band = axes.collections[0].get_paths()[0].vertices
    at_last = np.asarray(band)[np.isclose(np.asarray(band)[:, 0], 1000), 1]
    assert at_last.min() == pytest.approx(0.5 * falling(1000, 1e-3))
    assert at_last.max() == pytest.approx(2.0 * falling(1000, 1e-3))


def test_one_seed_has_no_band() -> None:
    figure = drawn_once("fig1", seeds=1)
    assert not figure.axes[0].collections
    assert figure.legends[0].get_title().get_text() == "one seed"


def test_an_undefined_value_is_a_gap_and_never_zero() -> None:
    rows = curves()
    rows.loc[rows["step"] == 10, "train_variance"] = math.nan
    rows.loc[(rows["step"] == 100) & (rows["seed"] != 1), "train_variance"] = math.nan
    (axes,) = figures.figure_1(rows).axes
    y = lines(axes)["train"][1]
    assert np.isnan(y).tolist() == [False, False, True, False, False]
    assert y[3] == pytest.approx(falling(100, 1e-3)), "the seed that is left"


def test_a_value_of_zero_stands_at_its_own_tick() -> None:
    rows = curves(seeds=1)
    rows.loc[rows["step"] == 1000, "train_variance"] = 0.0
    (axes,) = figures.figure_1(rows).axes
    y = lines(axes)["train"][1]
    assert ticks(axes, "y")["0"] == y[-1]
    assert 0 < y[-1] < min(y[:-1])


def test_figure_3_adds_weak_test_variance_where_it_was_measured() -> None:
    assert legend(figures.figure_3(curves())) == ["train", "test, strong", "test, weak"]
    without = curves().assign(weak_test_variance=math.nan)
    assert legend(figures.figure_3(without)) == ["train", "test, strong"]


def test_variances_within_a_decade_have_a_linear_axis_from_zero() -> None:
    rows = curves(floor=1.5, test=1.0).assign(train_variance=0.5, strong_test_variance=1.0)
    (axes,) = figures.figure_1(rows).axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0


def test_figure_2_has_data_sets_as_columns_and_families_of_networks_as_rows() -> None:
    figure = drawn_once("fig2")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 15
    assert titles[4] == "STL-10\nResNet-50"
    assert titles[:4] == [f"{name}\nResNet-18" for name in ("MNIST", "FashionMNIST", "CIFAR-10", "SVHN")]
    assert all(list(lines(axes)) == ["train", "test, strong"] for axes in figure.axes)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    assert len({tuple(axes.get_xticks()) for axes in figure.axes}) == 1


def test_figure_2_without_some_panels() -> None:
    rows = grid()
    rows = pd.DataFrame(rows[~((rows["dataset"] == "mnist") & (rows["model"] == "vgg11_bn"))])
    figure = figures.figure_2(rows)
    assert len(figure.axes) == 14
    by_title = {axes.get_title(): axes for axes in figure.axes}
    figure.draw_without_rendering()
    # What the missing panel would have said at the left and below is said by its neighbours.
    assert any(label.get_visible() for label in by_title["FashionMNIST\nVGG-11 (BN)"].get_yticklabels())
    shown = by_title["MNIST\nDenseNet-201"].xaxis.get_tick_params()["labelbottom"]
    assert shown
    assert not by_title["FashionMNIST\nDenseNet-201"].xaxis.get_tick_params()["labelbottom"]


def test_two_networks_of_one_family_on_one_data_set_have_rows_of_their_own() -> None:
    rows = pd.concat(
        [curves("cifar10", "resnet18"), curves("cifar10", "resnet50"), curves("mnist", "resnet18")]
    )
    assert sorted(axes.get_title() for axes in figures.figure_2(rows).axes) == [
        "CIFAR-10\nResNet-18", "CIFAR-10\nResNet-50", "MNIST\nResNet-18",
    ]  # fmt: skip


def test_figure_4_draws_the_last_step_of_every_size() -> None:
    figure = drawn_once("fig4")
    assert [axes.get_title() for axes in figure.axes] == [
        "ResNet-18 on CIFAR-10",
        "VGG-11 (BN) on FashionMNIST",
    ]
    axes = figure.axes[0]
    numbers = np.array([12_500, 25_000, 30_000, 40_000, 50_000])
    (means,) = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 5]
    mean = sum(FACTORS) / 3  # both span less than a decade: arithmetic
    assert np.asarray(means.get_ydata()) == pytest.approx(
        mean * (40 / numbers**0.5 + falling(10**9, 0)), rel=1e-9
    )
    both = np.geomspace(2e-8 * 12_500, 2e-8 * 50_000, 2) * [0.5, 2]
    geometric = both[1] / both[0] >= 10
    assert np.asarray(means.get_xdata()) == pytest.approx(
        (1 if geometric else mean) * 2e-8 * numbers, rel=1e-9
    )
    single = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 2]
    assert len(single) == 15
    assert [text.get_text() for text in axes.texts] == ["12,500", "25,000", "30,000", "40,000", "50,000"]


def test_figure_4_labels_cover_neither_each_other_nor_means() -> None:
    for axes in drawn_once("fig4").axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        (means,) = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 5]
        points = axes.transData.transform(means.get_xydata())
        assert not any(box.contains(*point) for box in boxes for point in points)


def test_figure_5_draws_the_best_learning_rate_over_seeds() -> None:
    figure = drawn_once("fig5")
    axes = figure.axes[0]
    bars: list[Any] = axes.containers  # of errors: matplotlib types them as containers of anything
    tuned, probe = (container.lines[0] for container in bars)
    assert np.asarray(tuned.get_xdata()) == pytest.approx([1, 0.1, 0.01])  # geometric mean over seeds
    assert np.asarray(tuned.get_ydata()) == pytest.approx([81, 71, 61])
    assert np.asarray(probe.get_ydata()) == pytest.approx([30, 30, 30])
    ranges = bars[0].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in ranges] == [
        pytest.approx([80 - 10 * place, 82 - 10 * place]) for place in range(3)
    ]
    assert legend(figure) == ["fine-tuned, best learning rate", "linear probe"]


def test_a_checkpoint_from_which_all_training_diverged_is_a_gap() -> None:
    rows = transfer()
    rows.loc[(rows["kind"] == "fine_tuning") & (rows["pretrain_step"] == 1000), "accuracy"] = math.nan
    bars: list[Any] = figures.figure_5(rows).axes[0].containers
    y = np.asarray(bars[0].lines[0].get_ydata(), float)
    assert np.isnan(y).tolist() == [False, True, False]


def test_figure_6_leaves_out_what_the_first_layer_reads() -> None:
    figure = drawn_once("fig6")
    drawn = lines(figure.axes[0])
    assert list(drawn) == ["first", "penultimate", "last"]
    assert [y[-1] for _, y in drawn.values()] == pytest.approx([0.1, 0.01, 2 / 1001])


def test_footnote_2_tells_dropout_apart() -> None:
    figure = drawn_once("footnote2")
    assert [list(lines(axes)) for axes in figure.axes] == [["dropout 0.5"], ["no dropout", "dropout 0.5"]]
    assert legend(figure) == ["no dropout", "dropout 0.5"]


@pytest.mark.parametrize(
    ("draw", "rows"),
    [
        (figures.figure_3, lambda: curves().assign(**dict.fromkeys(VARIANCES, math.nan))),
        (figures.figure_4, lambda: sizes().assign(train_variance=math.nan)),
        (figures.figure_5, lambda: transfer().assign(accuracy=math.nan)),
    ],
)
def test_what_was_not_measured_is_said_to_be_missing(
    draw: Callable[[pd.DataFrame], Figure], rows: Callable[[], pd.DataFrame]
) -> None:
    figure = draw(rows())
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert "not measured" in [text.get_text() for text in axes.texts]


def test_section_2_draws_zero_at_zero_and_leaves_out_the_undefined() -> None:
    left, right = drawn_once("sec2", seeds=1).axes
    x, y = lines(left)["train"]
    assert np.flatnonzero(x == ticks(left, "x")["0"]).tolist() == [1, 2, 3]
    assert x[[0, 4, 5]] == pytest.approx([1e-4, 0.9, 1e-3])
    assert np.round(y).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(lines(left)["test, strong"][0]).tolist() == [False, False, True, False, False, False]
    assert lines(right)["test"][0] == pytest.approx([95, 95, 10, 10, 93, 97])
    assert np.nanmax(lines(right)["bound for two points"][0]) == pytest.approx(20)
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names[:2] == ["past zero error", "one-hot decisions"]


@pytest.mark.parametrize("draw", [figures.figure_1, figures.figure_3, figures.figure_6])
def test_nothing_to_draw_is_a_figure_all_the_same(draw: Callable[[pd.DataFrame], Figure]) -> None:
    rows = curves()
    draw(rows.assign(depth=0, is_last=False))


def test_transfer_without_any_fine_tuning_is_a_figure_all_the_same() -> None:
    rows = transfer()
    figures.figure_5(pd.DataFrame(rows[rows["kind"] == "pretraining"]))
