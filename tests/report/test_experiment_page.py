"""Charts and the page of an experiment: drawn numbers, every number also as text, hostile names, the same bytes."""

from __future__ import annotations

import math
import re
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
from collapselab.report.experiment_page import render_experiment_page, verdicts_text, write_experiment_page
from collapselab.report.experiment_points import add_labels
from collapselab.report.figures import Chart, new_figure
from collapselab.report.verdict_words import in_words
from experiment_rows import (
    construction_rows,
    curve_rows,
    judgement,
    page_data,
    size_rows,
    transfer_rows,
    verdict,
)

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
        "Collapse on the train set", "Do features gather?", "2,000 training images.", "Of 2 claims, 1 holds, 1 is inconclusive.",
        "2.04, 1.98, 1.97 by seed, to exceed 0: decades below 0.01", "a 0.123, b (c 0.25 / undefined, d yes)",
        "collapselab reproduce hui2022/fig3", "hardware, cpu", "two cores", "<dt>images</dt><dd>2,000</dd>",
    ):  # fmt: skip
        assert text in html
    assert "0.1235" in read(html).cells, "evidence stands in a table too"


def test_hostile_names_stay_text() -> None:
    rows = curve_rows(HOSTILE)
    data = page_data(
        rows, variance_charts(rows), title=HOSTILE, question=HOSTILE, reduced=HOSTILE, scale=HOSTILE,
        verdicts=[verdict("holds", {HOSTILE: {HOSTILE: 1.0}}, HOSTILE)], made=[(HOSTILE, HOSTILE)], facts=[(HOSTILE, HOSTILE)],
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


# ---------------------------------------------------------------- verdicts as text


def test_verdicts_text_has_outcome_sentence_place_and_evidence() -> None:
    text = verdicts_text([verdict("holds", judgement(2.04, 1.98, None)), verdict("fails", {}, "Other.")])
    assert text == (
        "Of 2 claims, 1 holds, 1 fails.\n"
        "\n"
        "HOLDS         Train variance falls.\n"
        "              Fig. 3, sec. 3.3\n"
        "              Measured: 2.04, 1.98, undefined by seed, to exceed 0: decades below 0.01\n"
        "\n"
        "FAILS         Other.\n"
        "              Fig. 3, sec. 3.3\n"
        "              Measured: nothing\n"
    )
    assert verdicts_text([]) == "No claims were judged.\n"


def test_what_keeps_verdicts_from_being_overrated_is_said_once() -> None:
    note = "2 seeds: an interval says nothing"
    judged = [
        verdict("holds", {"mnist": judgement(2.0, 1.9) | {"note": note}}),
        verdict("fails", {"note": note}),
    ]
    text = " ".join(verdicts_text(judged, "smoke").split())
    assert text.count("2 seeds: an interval says nothing.") == 1
    assert "its verdicts say nothing about the paper" in text
    assert "say nothing about the paper" not in verdicts_text(judged, "cpu")
    rows = curve_rows()
    page = render_experiment_page(page_data(rows, [], scale="smoke"))
    assert "its verdicts say nothing about the paper" in page


def test_verdicts_text_stays_within_100_columns_and_two_lines_of_evidence() -> None:
    evidence = {
        f"data set {index}": {"train variance": [0.1] * 9, "seeds": {"a": 1.0}} for index in range(30)
    }
    long = verdict("inconclusive", evidence, "A sentence of many words. " * 12)
    text = verdicts_text([long] * 2)
    assert max(map(len, text.splitlines())) <= 100
    blocks = text.split("\n\n")[1:]
    for block in blocks:
        after = block[block.index("Measured:") :].rstrip().splitlines()
        assert len(after) == 2
        assert after[-1].endswith("… (verdicts.json has all)")


def test_settings_in_which_a_claim_does_not_hold_come_first() -> None:
    parts = {
        "mnist": judgement(1.5, 0.5, verdict="holds"),
        "svhn": judgement(-0.25, -0.5, verdict="fails"),
        "stl10": {"verdict": "inconclusive", "reason": "one size only"},
    }
    assert in_words(parts, brief=True) == (
        "holds in 1 of 3; fails in svhn (-0.25, -0.5 by seed); inconclusive in stl10 (one size only); "
        "to exceed 0: decades below 0.01"
    )
    assert "mnist (1.5, 0.5 by seed)" in in_words(parts)
    both = {"mnist": parts["mnist"], "cifar10": judgement(2.0, 0.125, verdict="holds")}
    assert in_words(both, brief=True).startswith("holds in 2 of 2; least in cifar10 (2, 0.125 by seed)")


def test_a_reason_is_told_before_the_numbers() -> None:
    evidence = {"reason": "train error is not zero", "train accuracy": [0.9]} | {"mnist-mlp": judgement(1.0)}
    assert in_words(evidence).startswith("train error is not zero; mnist-mlp: 1, to exceed 0")
    assert re.fullmatch("too few sizes", in_words({"reason": "too few sizes"}))
