"""What a page holds, read from its HTML; judgements to put on it."""

from __future__ import annotations

from html.parser import HTMLParser

from collapselab.records.judgement import Judgement, Reading, Verdict
from collapselab.report.pages.rendering import Page, render

HOSTILE = '</script><img src="https://example.org/x"><a href="https://example.org">&lt;%{y}'


class Reader(HTMLParser):
    """Elements that could reach outside, ids, labels of charts, tables, cells and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.alternatives: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self.tables = 0
        self.text = ""
        self._tag = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        targets = [values[name] for name in ("src", "href", "srcset", "action") if name in values]
        self.outside += [target for target in targets if target.startswith(("http:", "https:", "//"))]
        self.links += [values["href"]] if tag == "a" else []
        self.ids += [values["id"]] if "id" in values else []
        self.alternatives += [values["aria-label"]] if values.get("role") == "application" else []
        self.tables += tag == "table"
        self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag not in ("script", "style"):
            self.text += data
        if self._tag in ("td", "th"):
            self.cells.append(data)

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def read(page: Page | str) -> Reader:
    return Reader(page if isinstance(page, str) else render(page))


def check_page(page: Page) -> Reader:
    """What must hold of any page: nothing from outside, a table and an alternative text for every chart."""
    reader = read(page)
    assert reader.outside == []
    assert len(reader.ids) == len(set(reader.ids))
    charts = [chart for section in page.sections for chart in section.drawn]
    panels = {f"{chart.id}-{at}" for chart in charts for at in range(len(chart.panels))}
    assert panels <= set(reader.ids)
    assert len(reader.alternatives) == len(panels)
    assert all(any(letter.isdigit() for letter in text) for text in reader.alternatives)
    shown = sum(section.table is not None for section in page.sections)
    assert reader.tables == len(charts) + len(page.numbers) + shown
    assert "nan" not in reader.words.lower().split()
    return reader


def judgement(verdict: Verdict, statement: str) -> Judgement:
    reading = Reading(what="train variance at the end", by_seed={0: 0.04}, must="be below 0.1", met=[0])
    return Judgement(
        id=statement.lower(), paper="Hui et al. (2022)", where="Fig. 3", statement=statement, verdict=verdict,
        readings=[reading], agreement="1 of 1",
    )  # fmt: skip
