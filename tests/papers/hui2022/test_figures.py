"""The paper's figures: what their artists hold, by closed form; the same bytes every time; nothing covered or cut off."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from collapselab.papers.hui2022 import figures
from collapselab.report.experiment_data import at_the_end, log_ticks, over_seeds, place_of_zero, spans_decades
from collapselab.report.paper_style import paper_style, save_figure

VARIANCES = ("train_variance", "strong_test_variance", "weak_test_variance")
STEPS = (0, 1, 10, 100, 1000)
# Seeds differ by these factors: their geometric mean is 1, their arithmetic mean is not.
FACTORS = (0.5, 1.0, 2.0)


def falling(step: int, floor: float) -> float:
    return max(2.0 * 10.0 ** -math.log10(step + 1), floor)


def curves(
    dataset: str = "cifar10",
    model: str = "resnet18",
    *,
    seeds: int = 3,
    depths: int = 1,
    floor: float = 1e-3,
    test: float = 0.4,
    weak: float = 0.2,
    steps: tuple[int, ...] = STEPS,
    **labels: Any,
) -> pd.DataFrame:
    """One row per seed, step and layer; deeper layers collapse more."""
    rows = []
    for seed in range(seeds):
        for step in steps:
            for depth in range(depths):
                is_last = depth == depths - 1
                factor = FACTORS[seed] if seeds == 3 else 1.0
                rows.append(
                    {"job": f"{dataset}-{model}-{labels}", "dataset": dataset, "model": model} | labels |
                    {"seed": seed, "step": step, "layer": f"layers.{depth}", "depth": depth, "is_last": is_last,
                     "train_variance": factor * falling(step, floor * 10 ** (depths - 1 - depth)),
                     "strong_test_variance": factor * (test + falling(step, 0)),
                     "weak_test_variance": factor * weak if is_last else math.nan}
                )  # fmt: skip
    return pd.DataFrame(rows)


def grid(seeds: int = 3) -> pd.DataFrame:
    pairs = [(name, model) for name in ("mnist", "fashion_mnist", "cifar10", "svhn")
             for model in ("resnet18", "densenet201", "vgg11_bn")]  # fmt: skip
    pairs += [("stl10", model) for model in ("resnet50", "densenet201", "vgg11_bn")]
    return pd.concat([curves(*pair, seeds=seeds) for pair in pairs], ignore_index=True)


def sizes(seeds: int = 3) -> pd.DataFrame:
    """More samples: less train collapse, more test collapse."""
    parts = [
        curves(*pair, seeds=seeds, floor=2e-8 * size, test=40 / size**0.5, steps=(0, 10**9), num_train=size)
        for pair in (("cifar10", "resnet18"), ("fashion_mnist", "vgg11_bn"))
        for size in (12_500, 25_000, 30_000, 40_000, 50_000)
    ]
    return pd.concat(parts, ignore_index=True)


def transfer(seeds: int = 3) -> pd.DataFrame:
    rows = []
    for dataset, model in (("mnist", "mlp"), ("cifar10", "resnet18")):
        for seed in range(seeds):
            for place, step in enumerate((100, 1000, 10_000)):
                head = {"dataset": dataset, "model": model, "seed": seed, "pretrain_step": step,
                        "train_variance": FACTORS[seed] * 10.0**-place}  # fmt: skip
                rows.append(head | {"kind": "pretraining", "learning_rate": math.nan, "accuracy": 0.99})
                for rate, accuracy in (
                    (0.001, 0.5),
                    (0.01, 0.8 - 0.1 * place + 0.01 * seed),
                    (0.1, math.nan),
                ):
                    rows.append(head | {"kind": "fine_tuning", "learning_rate": rate, "accuracy": accuracy})
                rows.append(head | {"kind": "linear_probe", "learning_rate": math.nan, "accuracy": 0.3})
    return pd.DataFrame(rows)


def constructions(seeds: int = 3) -> pd.DataFrame:
    table = {
        "network": (1e-4, 0.2, 0.1, 1.0, 0.95),
        "one_hot_decisions": (0.0, 0.1, 0.0, 1.0, 0.95),
        "memoriser": (0.0, math.nan, 1.0, 1.0, 0.1),
        "memoriser_weak": (0.0, 90.0, 0.0, 1.0, 0.1),
        "one_epoch": (0.9, 0.8, 0.5, 0.94, 0.93),
        "super_class": (1e-3, 0.1, 0.05, 1.0, 0.97),
    }
    columns = (
        "train_variance",
        "strong_test_variance",
        "weak_test_variance",
        "train_accuracy",
        "test_accuracy",
    )
    rows = []
    for seed in range(seeds):
        for name, values in table.items():
            known = {"bound": 0.2, "probe_accuracy": 0.19} if name == "super_class" else {}
            rows.append(
                {"construction": name, "seed": seed} | dict(zip(columns, values, strict=True)) | known
            )
    return pd.DataFrame(rows)


def dropouts(seeds: int = 3) -> pd.DataFrame:
    return pd.concat(
        [
            curves("cifar10", "vgg11_bn", seeds=seeds, floor=0.2, dropout=0.5),
            curves("mnist", "mlp", seeds=seeds, floor=0.01, dropout=0.0),
            curves("mnist", "mlp", seeds=seeds, floor=0.001, dropout=0.5),
        ],
        ignore_index=True,
    )


EVERY: dict[str, tuple[Callable[[pd.DataFrame], Figure], Callable[[int], pd.DataFrame]]] = {
    "fig1": (figures.figure_1, lambda seeds: curves(seeds=seeds)),
    "fig2": (figures.figure_2, lambda seeds: grid(seeds)),
    "fig3": (figures.figure_3, lambda seeds: curves(seeds=seeds)),
    "fig4": (figures.figure_4, sizes),
    "fig4, one panel": (figures.figure_4, lambda seeds: sizes(seeds).query("dataset == 'cifar10'")),
    "fig5": (figures.figure_5, transfer),
    "fig5, one panel": (figures.figure_5, lambda seeds: transfer(seeds).query("dataset == 'mnist'")),
    "fig6": (figures.figure_6, lambda seeds: curves("mnist", "mlp", seeds=seeds, depths=4)),
    "footnote2": (figures.figure_footnote2, dropouts),
    "sec2": (figures.figure_sec2, constructions),
}


@cache
def drawn_once(name: str, seeds: int = 3) -> Figure:
    """A figure that tests look at and do not change."""
    draw, rows = EVERY[name]
    figure = draw(rows(seeds))
    figure.draw_without_rendering()
    return figure


def lines(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labelled lines by name."""
    return {
        str(line.get_label()): (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def bars(axes: Axes) -> list[Any]:
    """Lines with error bars."""
    return list(axes.containers)


def ticks(axes: Axes, which: str) -> dict[str, float]:
    axis = axes.xaxis if which == "x" else axes.yaxis
    return {
        text.get_text(): float(place)
        for text, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# ---------------------------------------------------------------- what is drawn


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


# ---------------------------------------------------------------- how it looks


def _ticks_out_of_view(axes: Axes) -> list[Text]:
    return [
        tick.label1
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seeds", [1, 3])
def test_no_text_is_cut_off_and_no_panel_is_empty(name: str, seeds: int) -> None:
    figure = drawn_once(name, seeds)
    canvas = figure.bbox.padded(1)
    unseen = {text for axes in figure.axes for text in _ticks_out_of_view(axes)}
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_text())):
        assert isinstance(text, Text)
        if text.get_visible() and text not in unseen:
            (left, low), (right, high) = text.get_window_extent().get_points()
            assert canvas.contains(left, low), text.get_text()
            assert canvas.contains(right, high), text.get_text()
    assert all(axes.lines for axes in figure.axes)


@pytest.mark.parametrize("name", EVERY)
def test_ticks_do_not_touch_each_other(name: str) -> None:
    figure = drawn_once(name)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            unseen = _ticks_out_of_view(axes)
            labels = [
                tick.label1.get_window_extent()
                for tick in axis.get_major_ticks()
                if tick.label1.get_visible() and tick.label1 not in unseen
            ]
            assert not [pair for pair in combinations(labels, 2) if pair[0].overlaps(pair[1])]


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig6", "footnote2", "fig3, rising"])
def test_what_is_said_of_full_collapse_covers_no_point(name: str) -> None:
    if name == "fig3, rising":
        rising = curves()
        rising["weak_test_variance"] = 1e-9 * (rising["step"] + 1.0)
        figure = figures.figure_3(rising)
        figure.draw_without_rendering()
    else:
        figure = drawn_once(name)
    axes = figure.axes[0]
    (said,) = axes.texts
    assert said.get_text() == "full collapse: 0 ↓"
    points = np.concatenate([axes.transData.transform(np.asarray(line.get_xydata())) for line in axes.lines])
    assert not any(said.get_window_extent().contains(*point) for point in points)


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    figure = figures.figure_1(curves(dataset="$\\frac{", model="a_b$"))
    save_figure(figure, tmp_path / "figure")
    assert (tmp_path / "figure.png").exists()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_figure(figures.figure_6(curves("mnist", "mlp", depths=4)), tmp_path / folder / "fig6")
    for ending in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"fig6.{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert b"CreationDate" not in (tmp_path / "a" / "fig6.pdf").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fig6.pdf", "fig6.png"]


def test_a_page_of_panels_stays_small(tmp_path: Path) -> None:
    save_figure(drawn_once("fig2"), tmp_path / "fig2")
    assert 30_000 < (tmp_path / "fig2.png").stat().st_size < 300_000


def test_the_style_ends_with_the_figure() -> None:
    before = dict(matplotlib.rcParams)
    with paper_style():
        assert matplotlib.rcParams["font.size"] == 8
    assert dict(matplotlib.rcParams) == before


# ---------------------------------------------------------------- what figures read from rows


def test_over_seeds_leaves_out_what_is_undefined() -> None:
    rows = pd.DataFrame(
        {"seed": [0, 1, 2, 0, 1], "step": [1, 1, 1, 2, 2], "value": [1, 4, math.nan, math.nan, math.nan]}
    )
    table = over_seeds(rows, "step", "value", geometric=True)
    assert table["mean"].tolist() == [2.0, pytest.approx(math.nan, nan_ok=True)]
    assert table["seeds"].tolist() == [2, 0]
    assert over_seeds(rows, "step", "value", geometric=False)["mean"][0] == 2.5


def test_the_end_is_that_of_each_run() -> None:
    rows = pd.concat(
        [curves(steps=(0, 10), job_steps=1), curves(steps=(0, 10, 70), job_steps=2)], ignore_index=True
    )
    assert at_the_end(rows)["step"].tolist() == [10, 10, 10, 70, 70, 70]


@pytest.mark.parametrize(
    ("values", "most", "texts"),
    [
        ([0, 1, 80_000], 7, ["0", "1", "10", "100", "1000", "10⁴"]),
        ([1, 80_000], 4, ["1", "100", "10⁴"]),
        ([12_500, 50_000], 7, ["15,000", "20,000", "30,000", "50,000"]),
        ([0.2, 0.9], 6, ["0.2", "0.3", "0.5", "0.7"]),
        ([1e-8, 1], 5, ["10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"]),
        ([0.0], 5, ["0"]),
        ([0, 1], 7, ["0", "1"]),
        ([0, 2], 7, ["0", "2"]),
        ([math.nan], 5, []),
    ],
)
def test_log_ticks(values: list[float], most: int, texts: list[str]) -> None:
    assert log_ticks(values, most)[1] == texts


def test_a_place_for_zero_only_where_there_is_one() -> None:
    assert place_of_zero([1.0, 10.0, math.nan]) is None
    place = place_of_zero([0.0, 1.0, 1e9])
    assert place is not None
    assert 0 < place < 1
    assert not spans_decades([1, 9.9])
    assert spans_decades([1, 10, 0])


@pytest.mark.parametrize("draw", [figures.figure_1, figures.figure_3, figures.figure_6])
def test_nothing_to_draw_is_a_figure_all_the_same(draw: Callable[[pd.DataFrame], Figure]) -> None:
    rows = curves()
    draw(rows.assign(depth=0, is_last=False))


def test_transfer_without_any_fine_tuning_is_a_figure_all_the_same() -> None:
    rows = transfer()
    figures.figure_5(pd.DataFrame(rows[rows["kind"] == "pretraining"]))
