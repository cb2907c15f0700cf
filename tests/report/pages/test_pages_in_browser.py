"""Pages in a browser: drawn, quiet, offline, usable by keyboard, on a phone and in the dark."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
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
from experiment_rows import construction_rows, curve_rows, size_rows
from made_up import every_kind
from reading import HOSTILE, judgement

from collapselab.probes import Profile
from collapselab.records.run import read_run
from collapselab.records.run_folder import RunFolder
from collapselab.report.builders import (
    ACCURACIES,
    ACCURACY_LINES,
    FINAL_VARIANCES,
    SPREAD,
    VARIANCES,
    Dots,
    Lines,
    ends,
)
from collapselab.report.chart import Axis
from collapselab.report.pages.profile import write_profile_page
from collapselab.report.pages.rendering import Page, Section, write_page
from collapselab.report.pages.run import run_page

Paths = dict[str, Path]


def _experiment(folder: Path) -> Path:
    """Charts of every kind on one page, with hostile names."""
    grid = Lines("grid", "Grid", VARIANCES, grid=True)
    panels = ((SPREAD, VARIANCES), (Axis("accuracy", percent=True), ACCURACIES))
    dots = Dots("dots", "Dots", "construction", {}, panels)
    makers: list[tuple[Callable[[Any], Any], Any]] = [
        (grid, curve_rows(HOSTILE)), (ACCURACY_LINES, curve_rows()), (dots, construction_rows()),
        (Lines("sizes", "Sizes", FINAL_VARIANCES, x="num_train", select=ends, references=False), size_rows()),
    ]  # fmt: skip
    charts = [every_kind(), *(chart for make, rows in makers for chart in make(rows))]
    judged = [judgement("holds", HOSTILE), judgement("fails", "x" * 300)]
    page = Page(HOSTILE, "Summary", [("fact", "x" * 60)], judged, sections=[Section("all", "All", charts)])
    write_page(folder / "experiment.html", page)
    return folder / "experiment.html"


def _profile(folder: Path, profiles: tuple[Profile, Profile]) -> Path:
    """A profile with a name meant to break the page, a gap and an estimate."""
    end, start = profiles
    first = end.layers[0]
    metrics = {"vci": None, "stable_rank": 3.0, "stable_rank_low": 2.0, "stable_rank_high": 4.0}
    train = replace(first.splits["train"], metrics={**first.splits["train"].metrics, **metrics})
    bad = replace(
        first, name=f"{HOSTILE}{'x' * 80}", splits={**first.splits, "train": train}, scatter="sketch"
    )
    return write_profile_page(folder, replace(end, layers=(bad, *end.layers[1:])), start)


@pytest.fixture(scope="module")
def paths(
    tmp_path_factory: pytest.TempPathFactory, finished: RunFolder, profiles: tuple[Profile, Profile]
) -> Paths:
    folder = tmp_path_factory.mktemp("pages")
    write_page(folder / "run.html", run_page(read_run(finished)))
    return {
        "run": folder / "run.html",
        "profile": _profile(folder, profiles),
        "experiment": _experiment(folder),
    }


@pytest.fixture(scope="module", params=SCREENS)
def views(request: pytest.FixtureRequest, browser: Any, paths: Paths) -> Iterator[dict[str, Any]]:
    """Every page on one kind of screen."""
    with (
        opened_page(browser, paths["run"], request.param) as run,
        opened_page(browser, paths["profile"], request.param) as profile,
        opened_page(browser, paths["experiment"], request.param) as experiment,
    ):
        yield {"run": run, "profile": profile, "experiment": experiment}


@pytest.mark.parametrize(("page", "least"), [("run", 12), ("profile", 18), ("experiment", 9)])
def test_every_chart_is_drawn_and_legible(views: dict[str, Any], page: str, least: int) -> None:
    check_charts_are_drawn(views[page], at_least=least)
    check_nothing_scrolls_sideways(views[page])
    check_text_stands_out(views[page])


@pytest.mark.parametrize(
    ("page", "chart", "keys", "says"),
    [
        ("run", "variance-0", ["ArrowRight"], "train, optimiser step 0: "),
        ("run", "heat-0", ["ArrowRight"], "layers.0, step 0: 0."),
        ("run", "nc4-0", ["ArrowRight"], "train, layers.0, depth 0: "),
        ("profile", "vci-0", ["ArrowRight"], f"train, {HOSTILE}{'x' * 80}, depth 0: undefined"),
        (
            "profile",
            "stable-rank-0",
            ["ArrowRight"],
            f"train, {HOSTILE}{'x' * 80}, depth 0, between 2 and 4: 3",
        ),
        ("profile", "ncc-accuracy-0", ["ArrowDown", "ArrowRight"], "test, layers.1, depth 1: "),
        ("experiment", "made-up-0", ["ArrowRight"] * 3, "six seeds, SGD step 10: 0"),
        ("experiment", "made-up-1", ["ArrowRight"], "points, SGD step 1, between 40.4% and 59.6%: 50%"),
        ("experiment", "made-up-2", ["ArrowRight"] * 2, "dots, second, seed 0: 1"),
        ("experiment", "made-up-3", ["ArrowRight"] * 3, "bars, c: 4"),
        ("experiment", "grid-0", ["ArrowRight"], "train, SGD step 0: 1"),
        ("experiment", "grid-0", ["ArrowDown"] * 3 + ["ArrowRight"], "train, seed 0, SGD step 1: 0.25"),
    ],
)
def test_arrow_keys_read_points(
    views: dict[str, Any], page: str, chart: str, keys: list[str], says: str
) -> None:
    assert readout(views[page], chart, *keys).startswith(says)


def test_tables_open_by_keyboard(views: dict[str, Any]) -> None:
    first = views["run"].query_selector("figure summary")
    first.focus()
    views["run"].keyboard.press("Enter")
    table = views["run"].query_selector("figure details table")
    assert table.is_visible()
    assert len(table.query_selector_all("tbody tr")) > 5


def test_names_are_no_links(views: dict[str, Any]) -> None:
    for view in views.values():
        assert view.query_selector_all('a[href^="http"]') == []


def test_a_figure_can_be_saved(views: dict[str, Any], tmp_path: Path) -> None:
    page = views["run"]
    figure = page.locator("figure", has=page.locator("#variance-0"))
    with page.expect_download() as saved:
        figure.get_by_role("button", name="Save numbers as CSV").click()
    assert saved.value.suggested_filename == "variance.csv"
    saved.value.save_as(tmp_path / "variance.csv")
    rows = list(csv.reader((tmp_path / "variance.csv").read_text(encoding="utf-8").splitlines()))
    assert rows == [
        [cell.text_content() for cell in row.locator("th, td").all()] for row in figure.locator("tr").all()
    ]
    assert len(rows) > 2
    with page.expect_download() as saved:
        figure.get_by_role("button", name="Save as SVG").click()
    assert saved.value.suggested_filename == "variance-0.svg"
    saved.value.save_as(tmp_path / "variance.svg")
    assert "<svg" in (tmp_path / "variance.svg").read_text(encoding="utf-8")
