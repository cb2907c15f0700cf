"""The page of an experiment in a browser: drawn, quiet, offline, usable by keyboard, on a phone and in the dark."""

from collections.abc import Iterator
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
from experiment_rows import construction_rows, curve_rows, page_data, size_rows, transfer_rows

from collapselab.report.experiment_charts import (
    construction_charts,
    layer_charts,
    size_charts,
    transfer_charts,
    variance_charts,
)
from collapselab.report.experiment_page import write_experiment_page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The charts of all experiments on one page."""
    rows = curve_rows()
    charts = [
        *variance_charts(rows),
        *layer_charts(curve_rows("mlp", depths=4)),
        *size_charts(size_rows()),
        *transfer_charts(transfer_rows()),
        *construction_charts(construction_rows()),
    ]
    return write_experiment_page(tmp_path_factory.mktemp("experiment"), page_data(rows, charts))


@pytest.fixture(scope="module", params=SCREENS)
def opened(request: pytest.FixtureRequest, browser: Any, page: Path) -> Iterator[Any]:
    with opened_page(browser, page, request.param) as view:
        yield view


def test_every_chart_is_drawn_and_legible(opened: Any) -> None:
    check_charts_are_drawn(opened, at_least=12)
    check_nothing_scrolls_sideways(opened)
    check_text_stands_out(opened)


@pytest.mark.parametrize(
    ("chart", "keys", "says"),
    [
        ("variance-0", ["ArrowRight"], "train, step 0, 0.5 to 2: 1"),
        (
            "sizes-0",
            ["ArrowRight"],
            "test variance, mean, 100 training samples, train variance 9.99e-05: 0.5",
        ),
        (
            "transfer-0",
            ["ArrowRight"],
            "fine-tuned, best learning rate, mean, step 100, train variance 1: 81 %",
        ),
        ("construction-variances", ["ArrowRight", "ArrowRight"], "train, one-hot decisions, seed 0: 0"),
    ],
)
def test_arrow_keys_read_points(opened: Any, chart: str, keys: list[str], says: str) -> None:
    assert readout(opened, chart, *keys) == says
