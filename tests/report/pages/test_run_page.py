"""The page of a run: it draws the stored numbers, says what was found, and works for monitored runs too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reading import HOSTILE, check_page, judgement, read
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from collapselab import Monitor
from collapselab.records.run import Run, cosine_matrix, read_run
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import MonitoredSettings
from collapselab.report.chart import Chart
from collapselab.report.layout import lay_out
from collapselab.report.pages.rendering import Page, write_page
from collapselab.report.pages.run import run_page


@pytest.fixture(scope="module")
def run(finished: RunFolder) -> Run:
    return read_run(finished)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return run_page(run)


def charts(page: Page) -> dict[str, Chart]:
    return {chart.id: chart for section in page.sections for chart in section.drawn}


def test_one_offline_file_with_every_chart_as_table_and_in_words(
    run: Run, page: Page, tmp_path: Path
) -> None:
    reader = check_page(page)
    assert set(charts(page)) == {
        "variance", "heat", "nc1", "nc2", "nc3", "nc4", "cosines", "weight-singular-values", "total-eigenvalues",
    }  # fmt: skip
    write_page(tmp_path / "new" / "report.html", run_page(run))
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == "report.html"
    assert path.read_text(encoding="utf-8") == reader.html


def test_every_verdict_is_on_the_page_in_words(page: Page) -> None:
    words = read(page).words
    assert "Holds. Train variance falls. Train variance at the end: 0.04 (seed 0); must be below 0.1" in words
    assert "Fails. Test variance falls." in words


def test_charts_draw_the_stored_numbers(run: Run, page: Page) -> None:
    panels = lay_out(charts(page)["variance"]).panels
    drawn = [{stroke.name: list(stroke.values) for stroke in panel.strokes} for panel in panels]
    assert drawn[0]["train"] == run.variances["train_variance_final"].tolist()
    assert drawn[0]["test, weak"] == run.variances["weak_test_variance_final"].tolist()
    assert drawn[1]["train"] == run.variances["train_variance"].tolist()
    lines = {stroke.name: list(stroke.values) for stroke in lay_out(charts(page)["nc2"]).panels[0].strokes}
    assert lines["test"] == run.at(run.last_step, "test")["equiangularity"].tolist()
    assert lines["train, initialisation"] == run.at(0, "train")["equiangularity"].tolist()
    heat = charts(page)["heat"].panels[0].heat
    assert heat is not None
    assert heat.values.index.tolist() == run.layers
    assert heat.values.iloc[:, -1].tolist() == run.at(run.last_step, "train")["normalized_within"].tolist()


def test_a_monitored_run_of_one_split_has_a_page(run: Run) -> None:
    settings = MonitoredSettings(monitored="Net")
    record = run.record.model_copy(update={"recipe": settings, "data": None})
    alone = dataclasses.replace(
        run, record=record, rows=pd.DataFrame(run.rows[run.rows["split"] == "train"]), statistics={}, judgements=(),
        spectra=run.spectra.iloc[:0], variances=run.variances.assign(strong_test_variance=np.nan, strong_test_variance_final=np.nan),
    )  # fmt: skip
    words = check_page(run_page(alone)).words
    assert "Neural collapse: a monitored run" in words
    assert "“Weights” is not drawn. It was not measured." in words
    assert "“Cosines between centred class means” is not drawn." in words


class Shortcut(nn.Module):
    """A residual block with a projection, as in ResNets, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 3, padding=1)
        self.downsample, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(16, 3)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv2(self.conv1(maps).relu()) + self.downsample(maps)
        return self.fc(out.relu().flatten(1))


def test_lines_pass_by_shortcuts(tmp_path: Path) -> None:
    labels = torch.arange(30) % 3
    maps = torch.randn(30, 4, 2, 2) + labels[:, None, None, None]
    loader = DataLoader(TensorDataset(maps, labels), 10)
    with Monitor(Shortcut(), loader, out=tmp_path / "run", layers=["*"]) as monitor:
        monitor.step()
    run = read_run(RunFolder(monitor.folder))
    assert [run.layers[depth] for depth in run.layers_beside] == ["downsample"]
    page = run_page(run)
    train = [one for one in lay_out(charts(page)["nc1"]).panels[0].strokes if one.name == "train"]
    places = {kind: {x for one in train if one.kind == kind for x in one.x} for kind in ("points", "line")}
    assert places == {"points": {2.0}, "line": {0.0, 1.0, 3.0}}
    assert "Points that no line joins are shortcuts and parallel branches." in read(page).words


def test_a_run_without_that_metric_has_no_chart_of_it(run: Run) -> None:
    rows = run.rows.drop(columns=["alignment", "normalized_within"])
    words = check_page(run_page(dataclasses.replace(run, rows=rows))).words
    assert "“NC3: weights line up with class means” is not drawn." in words
    assert "On train data, the last layer has not collapsed." in words


def test_names_are_text(run: Run) -> None:
    assert run.record.data is not None
    data = run.record.data.model_copy(update={"name": HOSTILE})
    record = run.record.model_copy(update={"data": data, "commit": HOSTILE})
    rows = run.rows.replace(run.layers[0], HOSTILE)
    changes = {
        "record": record,
        "rows": rows,
        "warnings": (HOSTILE,),
        "judgements": (judgement("holds", HOSTILE),),
    }
    reader = check_page(run_page(dataclasses.replace(run, **changes)))
    assert reader.text.count(HOSTILE) > 4


def test_cosines_of_a_simplex() -> None:
    cosines = cosine_matrix(np.eye(4) + 100.0).to_numpy()
    assert cosines == pytest.approx((4 / 3) * np.eye(4) - 1 / 3, abs=1e-12)


def test_a_mean_without_direction_has_no_cosine() -> None:
    cosines = cosine_matrix(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])).to_numpy()
    assert np.isnan(cosines[2]).all()
    assert cosines[0, 1] == -1
