"""Render a page from sections of charts: one file that works offline and contains each chart as a table too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from collapselab.errors import in_strings, printable
from collapselab.records.judgement import Judgement
from collapselab.records.wording import outcome, sentences
from collapselab.report import screen
from collapselab.report.chart import Chart
from collapselab.report.layout import lay_out
from collapselab.report.words import alternative_text, table_of
from collapselab.storage import replace_text
from collapselab.text import MISSING, grouped, words


@dataclass(frozen=True)
class Section:
    """Charts under one heading, after the text `note`."""

    id: str
    title: str
    charts: Sequence[Chart]
    note: str = ""


@dataclass(frozen=True)
class Card:
    """A claim with its verdict, or an experiment with its link.

    Attributes:
        kind: `holds`, `fails`, `inconclusive` or empty; decides its colour.
        head: what comes first; a link where `link` is given.
        text: the sentence.
        details: sentences about what was measured.
        source: where the sentence comes from.
    """

    kind: str
    head: str
    text: str
    details: Sequence[str]
    source: str = ""
    link: str = ""


@dataclass(frozen=True)
class Page:
    """Content of a page.

    Attributes:
        title: title of the page.
        summary: the result in a few sentences.
        facts: names and values of the most important numbers.
        cards: cards under the heading `cards_title`.
        sections: the charts.
        numbers: titles and tables.
        warnings: warnings about the results.
        made: names and values that describe how the numbers were computed.
        beside: names of files in the page's folder with the same results.
    """

    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    cards: Sequence[Card] = ()
    cards_title: str = "Verdicts"
    sections: Sequence[Section] = ()
    numbers: Sequence[tuple[str, pd.DataFrame]] = ()
    warnings: Sequence[str] = ()
    made: Sequence[tuple[str, str]] = ()
    beside: Sequence[str] = ()


def section(id: str, title: str, parts: Sequence[Chart], note: str = "") -> Section:
    """Return a section; its note lists charts that cannot be drawn, with the reason."""
    charts = [part for part in parts if part.panels]
    missing = [f"“{part.title}” is not drawn. {part.text}" for part in parts if not part.panels]
    notes = " ".join(filter(None, [note if charts else "", *missing]))
    return Section(id, title, charts, notes)


def verdict_cards(judgements: Iterable[Judgement]) -> list[Card]:
    """Make a card of every judgement."""
    return [
        Card(
            one.verdict,
            f"{outcome(one).capitalize()}.",
            one.statement,
            sentences(one),
            ", ".join(filter(None, [one.paper, one.where])),
        )
        for one in judgements
    ]


def write_page(path: Path, page: Page) -> None:
    """Write a page, and the folder it is in; the same page gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render(page))


def render(page: Page) -> str:
    """Return the page as one HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = replace(page, warnings=grouped(page.warnings))
    loader = PackageLoader("collapselab.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names are shown as they are stored, whatever bytes they contain; style and scripts are Markup.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.globals |= {"cells": cells, "alternative_text": alternative_text, "table_of": table_of}
    templates = files("collapselab.report").joinpath("templates")
    drawings = {chart.id: lay_out(chart) for part in page.sections for chart in part.charts}
    figures = {
        f"{id}-{number}": in_strings(printable, json.loads(str(screen.draw(panel).to_json())))
        for id, drawing in drawings.items()
        for number, panel in enumerate(drawing.panels)
    }
    return environment.get_template("page.html.j2").render(
        page=page,
        drawings=drawings,
        # "</" must not end the script element that holds the data.
        figures=json.dumps(figures, sort_keys=True).replace("</", "<\\/"),
        style=templates.joinpath("style.css").read_text(encoding="utf-8"),
        script=templates.joinpath("page.js").read_text(encoding="utf-8"),
        plotly=screen.plotly_script() if drawings else "",
    )


def cells(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as text: head and rows, the first column naming the row."""
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return {"head": [words(name) for name in table.columns], "rows": rows}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if pd.isna(value):
        return MISSING
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"
