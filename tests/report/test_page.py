"""The page as text: one file, every drawn number also in a table, the same bytes for the same run."""

import dataclasses
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from collapselab.report.charts import cosine_map, heat_map, variance_over_steps
from collapselab.report.page import _sections
from collapselab.report.run_data import RunData, cosine_matrix, read_run

from collapselab.report import render_report
from collapselab.training import RunFolder


@pytest.fixture
def data(finished: RunFolder) -> RunData:
    return read_run(finished)


class _Reader(HTMLParser):
    """Elements that could reach outside, table cells and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "srcset", "action"):
            target = values.get(name)
            if target and not target.startswith(("#", "data:")):
                self.outside.append(f"{tag} {name}={target}")
        if "id" in values:
            self.ids.append(values["id"] or "")
        self.tables += tag == "table"


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def test_nothing_is_loaded_from_outside(data: RunData) -> None:
    assert _read(render_report(data)).outside == []


def test_ids_are_unique_and_every_chart_has_a_table(data: RunData) -> None:
    reader = _read(render_report(data))
    assert len(reader.ids) == len(set(reader.ids))
    charts = [chart for section in _sections(data) for chart in section.charts]
    assert {chart.id for chart in charts} <= set(reader.ids)
    assert reader.tables == len(charts) + 2  # all metrics at the end, on train and on test


def test_the_same_run_gives_the_same_bytes(finished: RunFolder) -> None:
    assert render_report(read_run(finished)) == render_report(read_run(finished))


def test_names_are_escaped(data: RunData) -> None:
    hostile = '</script><img src="https://example.org/x">'
    run = data.run | {"recipe": data.run["recipe"] | {"data": hostile}}
    verdicts = [one.model_copy(update={"statement": hostile}) for one in data.verdicts]
    html = render_report(dataclasses.replace(data, run=run, verdicts=verdicts, warnings=[hostile]))
    assert hostile not in html
    assert _read(html).outside == []


def test_every_verdict_is_on_the_page_in_words(data: RunData) -> None:
    html = render_report(data)
    for verdict in data.verdicts:
        assert verdict.statement in html
        assert f"<strong>{verdict.verdict.capitalize()}.</strong>" in html


def test_variance_chart_draws_the_stored_numbers(data: RunData) -> None:
    chart = variance_over_steps(data)
    drawn = {trace.name: list(trace.y) for trace in chart.figure.data}  # pyright: ignore[reportAttributeAccessIssue] plotly types data loosely
    assert drawn["train"] == data.final_reference["train_variance"].tolist()
    assert drawn["test, weak"] == data.final_reference["weak_test_variance"].tolist()
    assert re.search(r"\d", chart.text)


def test_heat_map_rows_are_layers_in_order(data: RunData) -> None:
    table = heat_map(data, "train").table
    assert table["layer"].tolist() == data.layers
    last = table.iloc[:, -1].tolist()
    assert last == data.at(data.last_step, "train")["normalized_within"].tolist()


def test_cosines_of_a_simplex() -> None:
    import torch

    simplex = torch.eye(4, dtype=torch.float64) + 100.0
    cosines = cosine_matrix(simplex).to_numpy()
    assert cosines == pytest.approx((4 / 3) * torch.eye(4, dtype=torch.float64).numpy() - 1 / 3, abs=1e-12)


def test_a_chart_survives_a_mean_without_direction(data: RunData) -> None:
    import torch

    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    broken = dataclasses.replace(data, cosines={"train": cosine_matrix(means)})
    assert isinstance(cosine_map(broken, "train").table, pd.DataFrame)


def test_an_unfinished_run_has_no_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        read_run(RunFolder(tmp_path_factory.mktemp("empty")))
