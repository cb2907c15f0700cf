"""The paper's figures: what is drawn of made-up rows, by closed form."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from figure_rows import FACTORS, FIGURES, STEPS, charts, curves, drawing, falling, sizes, strokes, transfer

from collapselab.papers.hui2022 import fig3, fig4, fig5, fig6
from collapselab.papers.hui2022.arms import BEFORE_ARMS
from collapselab.papers.hui2022.transfer_jobs import CONTROL
from collapselab.report.layout import lay_out

LAST, SAME = "centres of the last step", "centres of the measured step"


@pytest.mark.parametrize("name", ["fig1", "fig3"])
def test_figures_1_and_3_draw_variances_over_the_references_of_the_paper_and_the_plain_ones_beside(
    name: str,
) -> None:
    one = drawing(name)
    assert [panel.panel.subtitle for panel in one.panels] == [LAST, SAME]
    names = ["train", "test, strong", "test, weak"]
    assert list(strokes(one)) == (names if name == "fig3" else names[:2])
    assert strokes(one)["train"].values == pytest.approx([falling(step, 1e-3) for step in STEPS], rel=1e-12)
    plain = [3 * falling(step, 1e-3) for step in STEPS[:-1]] + [falling(STEPS[-1], 1e-3)]
    assert strokes(one, 1)["train"].values == pytest.approx(plain, rel=1e-12)
    marks = [(mark.label, mark.at) for mark in one.panels[0].panel.marks]
    assert marks == [("zero train error from here", 10), ("vanished: below 0.1", 0.1)]
    assert one.how == "geometric mean of 3 seeds, thin lines: each seed"


def test_a_start_up_transient_does_not_hide_the_rest() -> None:
    rows = curves(steps=(0, 1, 10, 100, 1000, 10_000, 80_000))
    rows.loc[rows["step"] == 1, ["train_variance_final", "strong_test_variance_final"]] = 1e8
    chart = charts(fig3.EXPERIMENT, rows)["fig3"]
    one = lay_out(chart)
    assert one.panels[0].y.high < 2
    assert strokes(one)["train"].points[0] == "SGD step 10"
    assert (
        "A transient of the first steps, with values up to 1.00e8, is not drawn: lines start at step 10."
        in chart.notes
    )


def test_figure_2_has_data_sets_as_columns_and_networks_as_rows() -> None:
    one, same = drawing("fig2"), drawing("fig2-same-step")
    places = {panel.panel.title: panel.panel.place for panel in one.panels}
    assert len(places) == 15
    assert places["ResNet-18 on MNIST"] == (0, 0)
    assert places["VGG-11 (BN) on SVHN"] == (2, 3)
    assert places["ResNet-50 on STL-10"] == (0, 4)
    assert all(list(strokes(one, at)) == ["train", "test, strong"] for at in range(15))
    assert len({panel.y for panel in one.panels}) == 1
    assert (one.chart.notes, same.chart.notes) == (
        ("Centres of the last step.",),
        ("Centres of the measured step.",),
    )


def test_figure_4_draws_the_last_step_of_every_size_and_joins_no_points() -> None:
    one = drawing("fig4")
    assert [panel.panel.title for panel in one.panels] == [
        "ResNet-18 on CIFAR-10",
        "VGG-11 (BN) on FashionMNIST",
    ]
    assert list(strokes(one)) == [f"{size:,} samples" for size in (12_500, 25_000, 30_000, 40_000, 50_000)]
    mean = sum(FACTORS) / 3  # both span less than a decade: arithmetic
    for size, stroke in zip((12_500, 25_000, 30_000, 40_000, 50_000), strokes(one).values(), strict=True):
        assert stroke.kind == "points"
        assert stroke.values == pytest.approx([mean * (40 / size**0.5 + falling(10**9, 0))], rel=1e-9)
    assert len(one.panels[0].strokes) == 5 + 15


def test_figure_4_leaves_networks_with_train_errors_out_of_its_means() -> None:
    rows = sizes()
    is_late = (
        (rows["num_train"] == 50_000)
        & (rows["seed"] == 2)
        & (rows["dataset"] == "cifar10")
        & (rows["step"] > 0)
    )
    rows.loc[is_late, "train_accuracy"] = 0.998
    one = lay_out(charts(fig4.EXPERIMENT, rows)["fig4"])
    stroke = strokes(one)["50,000 samples"]
    assert stroke.values == pytest.approx([0.75 * (40 / 50_000**0.5 + falling(10**9, 0))], rel=1e-9)
    assert [one.name for one in one.panels[0].strokes if any(one.hollow)] == ["50,000 samples, seed 2"]
    assert "over 0.1% train errors" in [entry.text for entry in one.legend]


def test_figure_5_draws_the_best_learning_rate_with_binomial_errors() -> None:
    one = drawing("fig5")
    panels = [(panel.panel.title, panel.panel.subtitle) for panel in one.panels]
    assert panels == [
        (f"{network}, {kind}", "")
        for network in ("MLP on MNIST", "ResNet-18 on CIFAR-10")
        for kind in ("fine-tuned (best rate)", "linear probe")
    ]
    tuned, probe = list(strokes(one).values()), list(strokes(one, 1).values())
    # The variance around the class means of the checkpoint itself.
    assert [10 ** stroke.x[0] for stroke in tuned] == pytest.approx([0.5, 0.05, 0.005])
    assert [stroke.values[0] for stroke in tuned] == pytest.approx([0.81, 0.71, 0.61])
    assert [stroke.values[0] for stroke in probe] == pytest.approx([0.3, 0.3, 0.3])
    assert tuned[0].bounds[0] == pytest.approx((0.722, 0.875), abs=1e-3)  # Wilson, 81 of 100
    assert list(strokes(one)) == ["checkpoint 1", "checkpoint 2", "checkpoint 3"]


def test_figure_5_draws_the_control_by_weight_decay_apart_from_the_arms() -> None:
    decays = {100: 0.0, 1000: 0.01, 10_000: 0.02}
    rows = transfer()
    control = rows.assign(arm=CONTROL, weight_decay=rows["pretrain_step"].map(decays), pretrain_step=4000)
    both = pd.concat([rows.assign(**BEFORE_ARMS), control], ignore_index=True)
    drawn = charts(fig5.EXPERIMENT, both)
    assert list(strokes(lay_out(drawn["fig5-control"]))) == [
        "weight decay 0",
        "weight decay 0.01",
        "weight decay 0.02",
    ]
    alone = charts(fig5.EXPERIMENT, rows.assign(**BEFORE_ARMS))
    assert strokes(lay_out(drawn["fig5"])) == strokes(lay_out(alone["fig5"]))


def test_a_checkpoint_from_which_all_training_diverged_is_a_gap() -> None:
    rows = transfer()
    rows.loc[(rows["kind"] == "fine_tuning") & (rows["pretrain_step"] == 1000), "accuracy"] = math.nan
    one = lay_out(charts(fig5.EXPERIMENT, rows)["fig5"])
    assert [stroke.values[0] != stroke.values[0] for stroke in strokes(one).values()] == [False, True, False]


def test_transfer_without_any_fine_tuning_is_a_chart_all_the_same() -> None:
    rows = transfer()
    for chart in charts(fig5.EXPERIMENT, pd.DataFrame(rows[rows["kind"] == "linear_probe"])).values():
        if chart.panels:  # that of the control has none
            lay_out(chart)


def test_figure_6_leaves_out_what_the_first_layer_reads() -> None:
    one = drawing("fig6")
    assert list(strokes(one)) == ["first hidden", "penultimate hidden", "last hidden"]
    assert [stroke.values[-1] for stroke in strokes(one).values()] == pytest.approx([0.1, 0.01, 2 / 1001])
    assert len({stroke.look.marker for stroke in strokes(one).values()}) == 3


def test_footnote_2_tells_dropout_apart_and_each_panel_ends_where_its_runs_end() -> None:
    one = drawing("footnote2")
    assert [list(strokes(one, at)) for at in (0, 1)] == [["dropout 0.5"], ["dropout 0", "dropout 0.5"]]
    assert strokes(one, 0)["dropout 0.5"].look == strokes(one, 1)["dropout 0.5"].look
    assert not one.chart.share_x


def test_section_2_draws_zero_at_zero_and_leaves_out_the_undefined() -> None:
    one = drawing("sec2", seeds=1)
    train = strokes(one)["train"]
    assert train.values == (1e-4, 1e-3, 0.0, 0.0, 0.0, 0.9, 1e-3)
    assert [at for at, x in enumerate(train.x) if x == one.panels[0].x.zero] == [2, 3, 4]
    undefined = [at for at, x in enumerate(strokes(one)["test, strong"].x) if math.isnan(x)]
    assert undefined == [3]
    assert max(value for value in strokes(one, 1)["bound for two points"].values if value == value) == 0.2
    assert [text for _, text in one.panels[0].y.ticks][:2] == ["past zero error", "with weight decay"]


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_measured_is_a_figure_all_the_same(name: str) -> None:
    experiment, rows = FIGURES[name]
    table = rows(2)
    numbers = [name for name in table if "variance" in str(name) or str(name).endswith("accuracy")]
    for chart in charts(experiment, table.assign(**dict.fromkeys(map(str, numbers), math.nan))).values():
        if chart.panels:
            lay_out(chart)


def test_rows_without_hidden_layers_are_a_figure_all_the_same() -> None:
    assert charts(fig6.EXPERIMENT, curves().assign(depth=0))["fig6"].panels[0].series == ()
