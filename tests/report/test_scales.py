"""Axes: where values stand, ticks, a place for zero."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from collapselab.report.chart import Axis, Heat
from collapselab.report.scales import colour_scale, is_log, linear_ticks, log_ticks, make_scale


@pytest.mark.parametrize(
    ("values", "most", "texts"),
    [
        ([0, 1, 80_000], 7, ["0", "1", "10", "100", "1,000", "10,000"]),
        ([1, 80_000], 4, ["1", "100", "10,000"]),
        ([12_500, 50_000], 7, ["20,000", "30,000", "40,000", "50,000"]),
        ([0.2, 0.9], 6, ["0.2", "0.3", "0.5", "0.7"]),
        ([5.6, 9.7], 6, ["6", "7", "8", "9", "10"]),
        ([1e-8, 1], 5, ["10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"]),
        ([0, 1], 7, ["0", "1"]),
        ([0, 2], 7, ["0", "2"]),
    ],
)
def test_logarithmic_ticks(values: list[float], most: int, texts: list[str]) -> None:
    assert [text for _, text in log_ticks(values, most)] == texts


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.4), (2.0, 9.0), (1e-12, 1e3), (7.0, 7.0)])
def test_logarithmic_axes_have_ticks_whatever_they_span(low: float, high: float) -> None:
    ticks = log_ticks([low, high, math.nan], 8)
    assert 1 <= len(ticks) <= 8
    assert all(math.log10(low / 1.5) <= place <= math.log10(high * 1.5) for place, _ in ticks)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (3.4, 8.4, ["4", "5", "6", "7", "8"]),
        (-1, 1, ["-1", "-0.5", "0", "0.5", "1"]),
    ],
)
def test_linear_ticks(low: float, high: float, texts: list[str]) -> None:
    assert [text for _, text in linear_ticks(low, high, 6)] == texts
    assert linear_ticks(0, 1, 3, as_percent=True)[1][1] == "50%"


def test_zero_stands_below_every_positive_value() -> None:
    scale = make_scale(Axis(scale="log"), [0.0, 0.01, 1.0], 6)
    zero, least = scale.place([0.0, 0.01])
    assert zero < least - 0.2
    assert scale.ticks[0] == (zero, "0")
    assert scale.low < zero
    without = make_scale(Axis(scale="log"), [0.01, 1.0], 6)
    assert all(map(math.isnan, without.place([0.0, math.nan, -1.0])))


def test_an_axis_is_logarithmic_where_values_span_a_decade() -> None:
    assert is_log(Axis(), [1, 10, 0])
    assert not is_log(Axis(), [1, 9.9, math.nan])
    assert not is_log(Axis(scale="tight"), [-0.2, 0.02, 0.3]), "negative values have no place on it"
    assert not is_log(Axis(percent=True), [0.01, 1])
    assert not is_log(Axis(scale="linear"), [0.01, 1])
    assert not is_log(Axis(scale="log"), [0.0, math.nan]), "nothing positive"


def test_linear_axes_begin_at_zero_unless_they_are_tight() -> None:
    assert make_scale(Axis(), [3.0, 5.0], 6).low == 0
    tight = make_scale(Axis(scale="tight"), [3.0, 5.0], 6)
    assert 2.8 < tight.low < 3
    shares = make_scale(Axis(percent=True), [0.5, 0.9], 6)
    assert shares.low < 0
    assert shares.high > 1


def test_rounding_of_zero_is_not_blown_up() -> None:
    assert make_scale(Axis(scale="linear"), [1e-16, 0.0], 6).high > 1


def test_nothing_to_draw_is_an_axis_all_the_same() -> None:
    assert make_scale(Axis(scale="log"), [math.nan], 6).ticks


def test_a_reversed_axis_has_its_first_value_at_the_top() -> None:
    scale = make_scale(Axis(names=("a", "b"), reverse=True), [], 6)
    assert (scale.low, scale.high) == (1.5, -0.5)


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (("conv1", "fc"), ["conv1", "fc"]),
        (tuple(f"layers.{index}.attention.dense" for index in range(3)), ["0", "1", "2"]),
        (tuple(str(10 * index) for index in range(15)), ["0", "20", "40", "60", "80", "100", "120", "140"]),
        (("a very long name of one layer",), ["a very long name of one layer"]),
    ],
)
def test_names_stand_at_the_axis_where_they_fit(names: tuple[str, ...], texts: list[str]) -> None:
    assert [text for _, text in make_scale(Axis(names=names), [], 6).ticks] == texts


def test_many_names_below_each_other_are_thinned() -> None:
    names = tuple(f"encoder.layer.{index}.dense" for index in range(54))
    ticks = make_scale(Axis(names=names, reverse=True), [], 6).ticks
    assert [text for _, text in ticks][:2] == ["encoder.layer.0.dense", "encoder.layer.3.dense"]
    assert len(ticks) <= 25


def test_colours_follow_logarithms() -> None:
    scale = colour_scale(Heat(pd.DataFrame(), 1e-4, 1, log=True))
    assert (scale.low, scale.high) == (-4, 0)
    assert [text for _, text in scale.ticks] == ["10⁻⁴", "0.001", "0.01", "0.1", "1"]
    assert [text for _, text in colour_scale(Heat(pd.DataFrame(), -1, 1)).ticks] == [
        "-1",
        "-0.5",
        "0",
        "0.5",
        "1",
    ]
