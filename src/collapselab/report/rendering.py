"""From sections of charts to the one file of a page: it works offline and has every chart also as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from collapselab.report.figures import Chart


@dataclass(frozen=True)
class Section:
    """Charts under one heading.

    Attributes:
        id: of the element on the page.
        title: the heading.
        charts: in order.
        note: what is said before them, if anything.
    """

    id: str
    title: str
    charts: Sequence[Chart]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        title: of the page.
        summary: the result in a few sentences.
        facts: name and value of each number that matters.
        sections: the charts.
        verdicts: statement, verdict, words, paper and where of each claim.
        numbers_title: heading of the tables at the end.
        numbers: what each of them is of (`train data`), and its cells.
        warnings: everything unusual.
        warnings_of: what raised them, behind their number.
        made: name and value of all that tells how the numbers came to be.
        beside: names of the files in the page's folder that hold the same.
    """

    title: str
    summary: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    numbers_title: str
    numbers: Sequence[tuple[str, dict[str, Any]]]
    warnings: Sequence[str]
    warnings_of: str
    made: Sequence[tuple[str, Any]]
    verdicts: Sequence[dict[str, Any]] = ()
    beside: Sequence[str] = ()


def render(page: Page) -> str:
    """The page as one HTML text; the same page gives the same bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("collapselab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    templates = files("collapselab.report").joinpath("templates")
    charts = [chart for section in page.sections for chart in section.charts]
    figures = {chart.id: json.loads(str(chart.figure.to_json())) for chart in charts}
    return environment.get_template("report.html.j2").render(
        page=page,
        tables={chart.id: cells(chart.table) for chart in charts},
        # "</" must not end the script element that holds the data.
        figures=json.dumps(figures, sort_keys=True).replace("</", "<\\/"),
        style=templates.joinpath("style.css").read_text(encoding="utf-8"),
        script=templates.joinpath("page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def cells(table: pd.DataFrame) -> dict[str, Any]:
    """A table as text: head and rows, the first column naming the row."""

    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        if pd.isna(value):
            return "–"
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"

    return {
        "head": [str(name).replace("_", " ") for name in table.columns],
        "rows": [[text(value) for value in row] for row in table.itertuples(index=False)],
    }
