"""The page of a run in a browser: drawn, quiet, offline, usable by keyboard, on a phone and in the dark."""

from collections.abc import Iterator
from typing import Any

import pytest
from browsing import (
    SCREENS,
    check_charts_are_drawn,
    check_nothing_scrolls_sideways,
    check_text_stands_out,
    opened_page,
    readout,
)

from collapselab.training import RunFolder


@pytest.fixture(scope="module", params=SCREENS)
def opened(request: pytest.FixtureRequest, browser: Any, finished: RunFolder) -> Iterator[Any]:
    with opened_page(browser, finished.report, request.param) as view:
        yield view


def test_every_chart_is_drawn(opened: Any) -> None:
    check_charts_are_drawn(opened, at_least=10)


def test_the_page_does_not_scroll_sideways(opened: Any) -> None:
    check_nothing_scrolls_sideways(opened)


def test_text_of_page_and_charts_stands_out(opened: Any) -> None:
    check_text_stands_out(opened)


@pytest.mark.parametrize(
    ("chart", "says"),
    [("variance", "train, step 0:"), ("heat-train", "layers.0, step 0:"), ("nc4", "train, layers.0:")],
)
def test_arrow_keys_read_points(opened: Any, chart: str, says: str) -> None:
    said = readout(opened, chart, "ArrowRight")
    assert says in said
    assert any(character.isdigit() for character in said)


def test_tables_open_by_keyboard(opened: Any) -> None:
    first = opened.query_selector("figure summary")
    first.focus()
    opened.keyboard.press("Enter")
    table = opened.query_selector("figure details table")
    assert table.is_visible()
    assert len(table.query_selector_all("tbody tr")) > 5
