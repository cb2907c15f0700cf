"""Render a page from sections of charts: one file that works offline and contains each chart as a table too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from collapselab.errors import in_strings, printable
from collapselab.records.judgement import Judgement
from collapselab.records.wording import outcome, sentences
from collapselab.report import screen
from collapselab.report.chart import Chart
from collapselab.report.layout import lay_out
from collapselab.report.words import alternative_text, table_of
from collapselab.storage import replace_text
from collapselab.text import cell, grouped, words

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Section:
    """Charts under one heading, after the text `note` and a table; charts that cannot be drawn are listed with the reason."""

    id: str
    title: str
    charts: Sequence[Chart]
    note: str = ""
    table: pd.DataFrame | None = None

    @property
    def drawn(self) -> list[Chart]:
        return [chart for chart in self.charts if chart.panels]


@dataclass(frozen=True)
class Page:
    """Content of a page.

    Attributes:
        title: title of the page.
        summary: the result in a few sentences.
        facts: names and values of the most important numbers.
        judgements: under the heading Verdicts.
        scale: of the experiment; claims about networks are not judged at `smoke`.
        sections: the charts.
        numbers: titles and tables.
        warnings: warnings about the results.
        made: names and values that describe how the numbers were computed.
        beside: names of files in the page's folder with the same results.
    """

    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    judgements: Sequence[Judgement] = ()
    scale: str = ""
    sections: Sequence[Section] = ()
    numbers: Sequence[tuple[str, pd.DataFrame]] = ()
    warnings: Sequence[str] = ()
    made: Sequence[tuple[str, str]] = ()
    beside: Sequence[str] = ()


def write_page(path: Path, page: Page) -> None:
    """Write a page, and the folder it is in; the same page gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render(page))


def render(page: Page) -> str:
    """Return the page as one HTML text."""
    page = replace(page, warnings=grouped(page.warnings))
    templates = files("collapselab.report").joinpath("templates")
    drawings = {chart.id: lay_out(chart) for part in page.sections for chart in part.drawn}
    figures = {
        f"{id}-{number}": in_strings(printable, json.loads(str(screen.draw(panel).to_json())))
        for id, drawing in drawings.items()
        for number, panel in enumerate(drawing.panels)
    }
    functions = {
        function.__name__: function for function in (cells, outcome, sentences, alternative_text, table_of)
    }
    return (
        environment("collapselab.report")
        .get_template("page.html.j2")
        .render(
            functions,
            page=page,
            drawings=drawings,
            # "</" must not end the script element that holds the data.
            figures=json.dumps(figures, sort_keys=True).replace("</", "<\\/"),
            script=templates.joinpath("page.js").read_text(encoding="utf-8"),
            plotly=screen.plotly_script() if drawings else "",
        )
    )


def environment(*packages: str) -> Environment:
    """Return the settings of all templates; each finds those of these packages."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names are shown as they are stored, whatever bytes they contain; style and scripts are Markup.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def cells(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as text: head and rows, the first column naming the row."""
    rows = [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return {"head": [_head(name) for name in table.columns], "rows": rows}


def _head(column: str) -> str:
    """Name a column; variances around the centres of the last step have a name of their own."""
    plain = column.removesuffix("_final")
    return words(plain) + " (centres of the last step)" * (plain != column)
