"""The page of an experiment: every number also as text, hostile names, the same bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from experiment_rows import curve_rows
from reading import HOSTILE, check_page, judgement, read

from collapselab.records.experiment import ExperimentRecord
from collapselab.records.judgement import Judgement
from collapselab.records.outcome import Outcome
from collapselab.report.builders import ACCURACY_LINES, VARIANCES, Lines
from collapselab.report.chart import Chart
from collapselab.report.pages.experiment import experiment_page
from collapselab.report.pages.rendering import render


def record(**changes: Any) -> ExperimentRecord:
    values: dict[str, Any] = {
        "experiment": "hui2022/fig3", "title": "Collapse on the train set", "paper": "Hui, Belkin, Nakkiran (2022)",
        "where": "Fig. 3, sec. 3.3", "question": "Do features gather?", "scale": "cpu", "seeds": (0, 1, 2), "runs": 3,
        "command": "collapselab reproduce hui2022/fig3", "reduced": "2,000 training images.", "status": "finished",
    }  # fmt: skip
    return ExperimentRecord.model_validate(values | changes)


def outcome(
    rows: pd.DataFrame, folder: Path = Path(), judgements: tuple[Judgement, ...] | None = None, **changes: Any
) -> Outcome:
    judged = (judgement("holds", "Train variance falls."), judgement("inconclusive", "Test variance stays."))
    return Outcome(folder, record(**changes), rows, judged if judgements is None else judgements)


def charts(rows: pd.DataFrame) -> list[Chart]:
    return [chart for make in (Lines("fig3", "Variances", VARIANCES), ACCURACY_LINES) for chart in make(rows)]


def test_every_number_is_also_text() -> None:
    rows = curve_rows()
    reader = check_page(experiment_page(outcome(rows), charts(rows)))
    assert read(experiment_page(outcome(rows), charts(rows))).html == reader.html
    held = set(reader.cells)
    for value in rows.select_dtypes("number").to_numpy().ravel():
        if math.isfinite(value):
            assert (str(int(value)) if float(value).is_integer() else f"{value:.4g}") in held
    assert reader.links[-4:] == ["fig3.pdf", "fig3.png", "rows.csv", "verdicts.json"]


def test_the_page_says_what_was_asked_reduced_judged_and_how_it_was_made() -> None:
    rows = curve_rows()
    words = read(experiment_page(outcome(rows), charts(rows))).words
    for text in (
        "Collapse on the train set", "Do features gather? Reproduction of Fig. 3, sec. 3.3 of Hui, Belkin, Nakkiran (2022) at scale “cpu”.",
        "2,000 training images.", "2 claims: 1 holds, 1 is inconclusive", "Train variance at the end: 0.04 (seed 0)",
        "collapselab reproduce hui2022/fig3", "Geometric mean of 3 seeds, thin lines: each seed.",
    ):  # fmt: skip
        assert text in words, text
    assert "not judged" not in words
    smoke = read(experiment_page(outcome(rows, scale="smoke"), charts(rows))).words
    assert "2 claims, not judged." in smoke
    assert "claims about networks are not judged" in smoke
    assert "claims that hold" not in smoke


def test_old_records_without_title_and_judgements_have_a_page() -> None:
    rows = curve_rows()
    old = outcome(rows, judgements=(), title="", paper="", where="", question="", reduced="")
    words = check_page(experiment_page(old, charts(rows))).words
    assert "hui2022/fig3 Measured at scale “cpu”. No claims were judged." in words


def test_hostile_names_stay_text() -> None:
    rows = curve_rows(HOSTILE)
    changes = dict.fromkeys(("title", "question", "reduced", "paper"), HOSTILE)
    one = outcome(rows, judgements=(judgement("holds", HOSTILE),), **changes)
    assert check_page(experiment_page(one, charts(rows))).text.count(HOSTILE) > 4


def test_what_is_undefined_is_a_warning() -> None:
    rows = curve_rows()
    rows.loc[rows["step"] == 10, "train_variance_final"] = math.nan
    words = read(experiment_page(outcome(rows), charts(rows))).words
    assert "train variance final is undefined in 3 of 15 rows (resnet18-{})" in words


def test_the_same_outcome_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = curve_rows()
    one, other = (
        render(experiment_page(outcome(rows, tmp_path / name), charts(rows))) for name in ("a", "b")
    )
    assert one == other
