"""The page of a profile in a browser: drawn, quiet, offline, usable by keyboard, on a phone and in the dark."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import (
    check_charts_are_drawn,
    check_nothing_scrolls_sideways,
    check_text_stands_out,
    opened_page,
    readout,
)

from collapselab.report import write_profile_report

_HOSTILE = '<b>&lt;bold&gt;</b><a href="https://example.org">' + "x" * 80


@pytest.fixture(scope="module")
def in_the_dark(
    browser: Any,
    profiles: tuple[dict[str, Any], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    path = write_profile_report(tmp_path_factory.mktemp("profile"), *profiles)
    with opened_page(browser, path, "dark") as view:
        yield view


@pytest.fixture(scope="module")
def on_a_phone(
    browser: Any,
    profiles: tuple[dict[str, Any], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """With names meant to break it, a gap and an estimate."""
    bad = copy.deepcopy(profiles[0])
    bad["model"] = bad["layers"][0]["name"] = _HOSTILE
    bad["layers"][0]["scatter"] = "sketch"
    bad["layers"][0]["train"] |= {
        "vci": None,
        "stable_rank": 3.0,
        "stable_rank_low": 2.0,
        "stable_rank_high": 4.0,
    }
    path = write_profile_report(tmp_path_factory.mktemp("hostile"), bad)
    with opened_page(browser, path, "phone") as view:
        yield view


@pytest.mark.parametrize("screen", ["in_the_dark", "on_a_phone"])
def test_it_can_be_read(request: pytest.FixtureRequest, screen: str) -> None:
    view = request.getfixturevalue(screen)
    check_charts_are_drawn(view, at_least=18)
    check_nothing_scrolls_sideways(view)
    check_text_stands_out(view)


def test_arrow_keys_read_points(in_the_dark: Any, profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    end = profiles[0]["layers"]
    first, last = end[0], end[-1]
    said = readout(in_the_dark, "equinorm", "ArrowRight")
    assert said.startswith(f"train, {first['name']}, depth 0: ")
    assert float(said.split(": ")[1]) == pytest.approx(first["train"]["equinorm"], rel=1e-2)
    said = readout(in_the_dark, "ncc_accuracy", "ArrowDown", *["ArrowRight"] * len(end))
    assert said.startswith(f"test, {last['name']}, depth {last['depth']}: ")
    assert said.endswith(" %")
    share = float(said.split(": ")[1].removesuffix(" %"))
    assert share == pytest.approx(100 * last["test"]["ncc_accuracy"], rel=1e-2)


def test_names_gaps_and_bounds_are_read_as_they_are(on_a_phone: Any) -> None:
    assert readout(on_a_phone, "vci", "ArrowRight") == f"train, {_HOSTILE}, depth 0: undefined"
    said = readout(on_a_phone, "stable-rank", "ArrowRight")
    assert said == f"train, {_HOSTILE}, depth 0, between 2 and 4: 3"
    assert readout(on_a_phone, "weight-spectra", "ArrowRight") == f"{_HOSTILE}, number 1: 1"
    # Names are text wherever they stand; none of them is a link.
    assert on_a_phone.query_selector_all('a[href^="http"]') == []
