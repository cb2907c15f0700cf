"""The page in a real headless Chromium: drawn, quiet, offline, usable by keyboard, on a phone and in the dark."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from collapselab.training import RunFolder

sync_api = pytest.importorskip("playwright.sync_api")

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium is installed")

_SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=_SCREENS)
def opened(request: pytest.FixtureRequest, browser: Any, finished: RunFolder) -> Iterator[Any]:
    """The page, drawn, on each kind of screen; it must have said nothing and asked for nothing."""
    context = browser.new_context(offline=True, **_SCREENS[request.param])
    view = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda sent: asked.append(sent.url))
    view.goto(finished.report.as_uri())
    view.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
    yield view
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_every_chart_is_drawn(opened: Any) -> None:
    charts = opened.query_selector_all(".chart")
    assert len(charts) >= 10
    for chart in charts:
        box = chart.query_selector(".main-svg").bounding_box()
        assert box["width"] > 200
        assert box["height"] > 200
        marks = chart.query_selector_all(".scatterlayer path, .heatmaplayer image")
        assert marks, chart.get_attribute("id")


def test_the_page_does_not_scroll_sideways(opened: Any) -> None:
    wide, screen = opened.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= screen


def test_text_of_page_and_charts_stands_out(opened: Any) -> None:
    luminance = """(colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
            .map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }"""
    ground = opened.evaluate(
        f"({luminance})(getComputedStyle(document.querySelector('figure')).backgroundColor)"
    )
    for text in (
        "getComputedStyle(document.querySelector('figcaption')).color",
        "getComputedStyle(document.querySelector('.chart .xtick text')).fill",
    ):
        other = opened.evaluate(f"({luminance})({text})")
        contrast = (max(ground, other) + 0.05) / (min(ground, other) + 0.05)
        assert contrast >= 4.5, text  # WCAG 2.1, 1.4.3


@pytest.mark.parametrize(
    ("chart", "says"),
    [("variance", "train, step 0:"), ("heat-train", "layers.0, step 0:"), ("nc4", "train, layers.0:")],
)
def test_arrow_keys_read_points(opened: Any, chart: str, says: str) -> None:
    opened.focus(f"#{chart}")
    opened.keyboard.press("ArrowRight")
    opened.wait_for_function(f"document.getElementById('{chart}-readout').textContent !== ''", timeout=5_000)
    assert says in opened.inner_text(f"#{chart}-readout")
    assert any(character.isdigit() for character in opened.inner_text(f"#{chart}-readout"))


def test_tables_open_by_keyboard(opened: Any) -> None:
    first = opened.query_selector("figure summary")
    first.focus()
    opened.keyboard.press("Enter")
    table = opened.query_selector("figure details table")
    assert table.is_visible()
    assert len(table.query_selector_all("tbody tr")) > 5
