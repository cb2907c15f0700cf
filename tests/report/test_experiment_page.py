"""Charts and the page of an experiment: drawn numbers, every number also as text, hostile names, the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from collapselab.report.experiment_charts import (
    construction_charts,
    layer_charts,
    size_charts,
    transfer_charts,
    variance_charts,
)
from collapselab.report.experiment_page import render_experiment_page, write_experiment_page
from collapselab.report.experiment_points import add_labels
from collapselab.report.figures import Chart, new_figure
from experiment_rows import (
    construction_rows,
    curve_rows,
    page_data,
    size_rows,
    transfer_rows,
)
from judgements import finding

HOSTILE = '</script><img src="https://example.org/x">'


def traces(chart: Chart) -> dict[str, Any]:
    """Lines and points by name, without the ranges behind them."""
    return {trace.name: trace for trace in chart.figure.data if trace.hoverinfo != "skip"}  # pyright: ignore[reportAttributeAccessIssue] plotly types data loosely


def all_charts() -> list[tuple[pd.DataFrame, Sequence[Chart]]]:
    tables = (
        (curve_rows(), variance_charts),
        (size_rows(), size_charts),
        (transfer_rows(), transfer_charts),
        (curve_rows("mlp", depths=4), layer_charts),
        (construction_rows(), construction_charts),
    )
    return [(rows, make(rows)) for rows, make in tables]


class _Reader(HTMLParser):
    """Elements that could reach outside, ids, and the text of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "srcset", "action"):
            target = values.get(name)
            if target and not target.startswith(("#", "data:")):
                self.outside.append(f"{tag} {name}={target}")
        self.ids += [values["id"] or ""] if "id" in values else []
        self._in_cell = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells.append(data)
            self._in_cell = False


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


# ---------------------------------------------------------------- charts


def test_curves_are_geometric_means_and_the_table_has_every_seed() -> None:
    chart, accuracy = variance_charts(curve_rows())
    drawn = traces(chart)
    assert list(drawn) == ["train", "test, strong", "test, weak"]
    expected = [1 / (step + 1) for step in (0, 1, 10, 100, 1000)]
    assert list(drawn["train"].y) == pytest.approx(expected)
    assert list(drawn["train"].x)[1:] == [1, 10, 100, 1000]
    assert 0 < drawn["train"].x[0] < 1
    assert chart.table["train, mean"].tolist() == pytest.approx(expected)
    assert chart.table["train, seed 2"].tolist() == pytest.approx([2 * value for value in expected])
    assert list(traces(accuracy)) == ["train", "test"]
    assert "test (80.0%)" in accuracy.text


def test_one_seed_is_called_one_and_has_no_range() -> None:
    chart = variance_charts(curve_rows(seeds=1))[0]
    assert len(chart.figure.data) == 3  # pyright: ignore[reportArgumentType] plotly types data loosely
    assert "one seed" in chart.text
    assert chart.table.columns.tolist() == ["step", "train", "test, strong", "test, weak"]


def test_undefined_values_are_gaps_and_zero_is_read_as_zero() -> None:
    rows = curve_rows(seeds=1)
    rows.loc[rows["step"] == 10, "train_variance"] = math.nan
    rows.loc[rows["step"] == 1000, "train_variance"] = 0.0
    chart = variance_charts(rows)[0]
    train = traces(chart)["train"]
    assert train.y[2] is None
    assert train.customdata[-1] == 0.0
    assert 0 < train.y[-1] < min(value for value in train.y[:-1] if value)
    assert chart.figure.layout.yaxis.ticktext[0] == "0"
    assert chart.figure.layout.yaxis.tickvals[0] == train.y[-1]


def test_jobs_that_differ_by_dropout_are_apart() -> None:
    rows = pd.concat([curve_rows("mlp", dropout=0.0), curve_rows("mlp", dropout=0.5)], ignore_index=True)
    assert list(traces(variance_charts(rows)[0])) == [
        "train, dropout 0", "test, strong, dropout 0", "train, dropout 0.5", "test, strong, dropout 0.5",
    ]  # fmt: skip


def test_layers_are_drawn_from_the_first_hidden_one() -> None:
    train, test = layer_charts(curve_rows("mlp", depths=4))
    drawn = traces(train)
    assert list(drawn) == ["first hidden layer", "penultimate hidden layer", "last hidden layer"]
    assert [trace.y[0] for trace in drawn.values()] == pytest.approx([100, 10, 1])
    assert train.id != test.id


def test_sizes_are_drawn_against_each_other_and_over_size() -> None:
    scatter, by_size = size_charts(size_rows())
    mean = traces(scatter)["mean over seeds"]
    assert list(mean.x) == pytest.approx([0.1 / 1001, 1 / 1001, 10 / 1001])
    assert list(mean.y) == pytest.approx([0.5, 0.05, 0.005])
    assert len(traces(scatter)["each seed"].x) == 9
    assert [note.text for note in scatter.figure.layout.annotations] == ["100", "1,000", "10,000"]
    assert list(traces(by_size)["train"].y) == list(mean.x)


@pytest.mark.parametrize("right", [1, -1])
@pytest.mark.parametrize("up", [1, -1])
def test_a_label_stands_where_no_dot_is(right: int, up: int) -> None:
    figure = new_figure("x", "y")
    # Dots in three corners of the only mean, and one at each end of the panel.
    others = [(a, b) for a in (1, -1) for b in (1, -1) if (a, b) != (right, up)]
    dots = [np.array([0.07 * pair[axis] for pair in others] + [-0.5, 0.5]) for axis in (0, 1)]
    add_labels(figure, ["500"], [np.zeros(1), np.zeros(1)], dots)
    (note,) = figure.layout.annotations
    assert note.xanchor == ("left" if right > 0 else "right")
    assert note.yanchor == ("bottom" if up > 0 else "top")


def test_what_was_measured_nowhere_has_no_label() -> None:
    nowhere = [np.full(2, math.nan), np.ones(2)]
    figure = new_figure("x", "y")
    add_labels(figure, ["100", "200"], nowhere, nowhere)
    assert len(figure.layout.annotations) == 0
    size_charts(size_rows().assign(strong_test_variance=math.nan))


def test_transfer_takes_the_best_learning_rate() -> None:
    transfer, rates, _, before = transfer_charts(transfer_rows())
    tuned = traces(transfer)["fine-tuned, best learning rate"]
    assert list(tuned.x) == pytest.approx([1, 0.1])
    assert list(tuned.y) == pytest.approx([0.81, 0.71])
    assert list(tuned.error_y.array) == pytest.approx([0.01, 0.01])
    assert list(traces(rates)["from step 100"].y) == [0.5, pytest.approx(0.81), None]
    assert next(iter(traces(before).values())).y == (0.99, 0.99)


def test_constructions_show_zero_and_leave_out_the_undefined() -> None:
    variances, accuracies = construction_charts(construction_rows())
    drawn = traces(variances)
    assert list(drawn["train"].customdata) == [1e-4, 0.0, 0.0, 1e-3] * 2
    assert len(drawn["test, strong"].y) == 6
    assert list(traces(accuracies)["bound for two points"].customdata) == [0.2, 0.2]


# ---------------------------------------------------------------- page


@pytest.mark.parametrize("number", range(5))
def test_every_number_is_also_text(number: int) -> None:
    rows, charts = all_charts()[number]
    html = render_experiment_page(page_data(rows, charts))
    reader = read(html)
    held = set(reader.cells)
    for table in (rows, *(chart.table for chart in charts)):
        for value in table.select_dtypes("number").to_numpy().ravel():
            if math.isfinite(value):
                text = str(int(value)) if float(value).is_integer() else f"{value:.4g}"
                assert text in held
    assert len(reader.ids) == len(set(reader.ids))
    assert {chart.id for chart in charts} <= set(reader.ids)
    assert reader.outside == []


def test_the_page_says_what_was_asked_reduced_judged_and_how_it_was_made() -> None:
    rows = curve_rows()
    html = unescape(render_experiment_page(page_data(rows, variance_charts(rows))))
    for text in (
        "Collapse on the train set", "Do features gather?", "2,000 training images.", "Of 2 findings, 1 holds, 1 is inconclusive.",
        "Train variance at the end: 0.98, 0.63 (seeds 0, 1); must be below 0.1: fails in 2 of 2; inconclusive with 2 seeds.",
        "collapselab reproduce hui2022/fig3", "hardware, cpu", "two cores", "<dt>images</dt><dd>2,000</dd>",
    ):  # fmt: skip
        assert text in html


def test_hostile_names_stay_text() -> None:
    rows = curve_rows(HOSTILE)
    data = page_data(
        rows, variance_charts(rows), title=HOSTILE, question=HOSTILE, reduced=HOSTILE, scale=HOSTILE,
        verdicts=[finding(statement=HOSTILE, notes=[HOSTILE])], made=[(HOSTILE, HOSTILE)], facts=[(HOSTILE, HOSTILE)],
    )  # fmt: skip
    html = render_experiment_page(data)
    assert HOSTILE not in html
    assert read(html).outside == []
    for table, make in ((size_rows(), size_charts), (transfer_rows(), transfer_charts)):
        table = table.assign(model=HOSTILE)
        assert HOSTILE not in render_experiment_page(page_data(table, make(table)))
    table = construction_rows().replace("network", HOSTILE)
    charts = construction_charts(table)
    assert HOSTILE not in render_experiment_page(page_data(table, charts))
    # Plotly takes angle brackets for markup of its own.
    assert not any(HOSTILE in str(chart.figure.to_plotly_json()) for chart in charts)


def test_what_is_undefined_is_a_warning() -> None:
    rows = curve_rows()
    rows.loc[rows["step"] == 10, "train_variance"] = math.nan
    html = render_experiment_page(page_data(rows, variance_charts(rows)))
    assert "train variance is undefined in 3 of 15 rows" in html


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    rows = curve_rows()
    paths = [
        write_experiment_page(tmp_path / name, page_data(rows, variance_charts(rows))) for name in ("a", "b")
    ]
    assert [path.name for path in paths] == ["report.html", "report.html"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
