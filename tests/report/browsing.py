"""A page in a real headless Chromium, and what must hold of any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}


@contextmanager
def opened_page(browser: Any, path: Path, screen: str) -> Iterator[Any]:
    """The page, drawn, on a kind of screen; it must have said nothing and asked for nothing."""
    context = browser.new_context(offline=True, **SCREENS[screen])
    view = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda sent: asked.append(sent.url))
    view.goto(path.as_uri(), timeout=60_000)
    view.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
    yield view
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def check_charts_are_drawn(view: Any, at_least: int) -> None:
    charts = view.query_selector_all(".chart")
    assert len(charts) >= at_least
    for chart in charts:
        box = chart.query_selector(".main-svg").bounding_box()
        assert box["width"] > 200
        assert box["height"] > 200
        assert box["height"] <= chart.bounding_box()["height"] + 1, "reaches into the caption"
        marks = chart.query_selector_all(".scatterlayer path, .heatmaplayer image, .barlayer path")
        assert marks, chart.get_attribute("id")


def check_nothing_scrolls_sideways(view: Any) -> None:
    wide, screen = view.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= screen


def check_text_stands_out(view: Any) -> None:
    luminance = """(colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
            .map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }"""
    ground = view.evaluate(
        f"({luminance})(getComputedStyle(document.querySelector('figure')).backgroundColor)"
    )
    for text in (
        "getComputedStyle(document.querySelector('figcaption')).color",
        "getComputedStyle(document.querySelector('.chart .xtick text')).fill",
    ):
        other = view.evaluate(f"({luminance})({text})")
        contrast = (max(ground, other) + 0.05) / (min(ground, other) + 0.05)
        assert contrast >= 4.5, text  # WCAG 2.1, 1.4.3


def readout(view: Any, chart: str, *keys: str) -> str:
    """What a chart says after these keys, from its first point on."""
    view.focus(f"#{chart}")
    for key in ("Escape", *keys):
        view.keyboard.press(key)
    view.wait_for_function(f"document.getElementById('{chart}-readout').textContent !== ''", timeout=5_000)
    return view.inner_text(f"#{chart}-readout")
