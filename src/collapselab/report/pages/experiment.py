"""The page of an experiment of a paper: one file with the results of all runs, and all numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from collapselab.frames import last_rows
from collapselab.records.wording import cautions, summary
from collapselab.report.chart import Chart
from collapselab.report.pages.rendering import Page, Section

if TYPE_CHECKING:
    from collapselab.records.outcome import Outcome

_HOW = (
    "On logarithmic axes, means are geometric, and 0 is drawn at a separate tick. An undefined value leaves a gap in its line. A "
    "variance is the mean squared distance of features from their centres, divided by the spread of the centres. Centres are class "
    "means; for weak test variance, they are k-means centres. In panels titled “centres of the last step”, all steps use the centres "
    "at the end of the run. The variance of an early step then includes the distance between the centres of that step and the final centres."
)


def experiment_page(outcome: Outcome, charts: Sequence[Chart]) -> Page:
    """Return the content of the page of an experiment; it depends only on the outcome."""
    record = outcome.record
    what = f"Reproduction of {record.where} of {record.paper}" if record.where else "Measured"
    what += f" at scale “{record.scale}”."
    sections = [
        Section("reduced", "Differences from the paper", [], record.differences),
        Section("measured", "Measurements", charts, _HOW),
    ]
    figures = [f"{chart.figure}.{ending}" for chart in charts if chart.figure for ending in ("pdf", "png")]
    return Page(
        record.title or record.experiment,
        " ".join(
            [
                record.question,
                what,
                summary(outcome.judgements, record.scale),
                *cautions(outcome.judgements, record.scale),
            ]
        ).strip(),
        facts=_facts(outcome),
        judgements=outcome.judgements,
        scale=record.scale,
        sections=[part for part in sections if part.charts or part.note],
        numbers=_numbers(outcome.rows),
        warnings=outcome.warnings,
        made=record.how_made(),
        beside=[*figures, "rows.csv", "verdicts.json"],
    )


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    record, judged = outcome.record, outcome.judgements
    holds = sum(one.verdict == "holds" for one in judged)
    facts = [("scale", record.scale), ("seeds", str(len(record.seeds))), ("runs", str(record.runs))]
    return (
        [*facts, ("claims that hold", f"{holds} of {len(judged)}")]
        if judged and record.scale != "smoke"
        else facts
    )


def _numbers(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    tables = [("All measurements (rows.csv)", rows)]
    if {"job", "seed", "step", "layer"} <= set(rows.columns):
        tables.insert(0, ("Every run at its last step", last_rows(rows, "job", "seed", "layer")))
    return tables
