"""The metric catalogue of the documentation is that of the registry."""

from pathlib import Path

from collapselab.metrics import METRICS
from collapselab.metrics.catalogue import catalogue
from collapselab.metrics.names import METRIC_NAMES

CATALOGUE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_catalogue_is_up_to_date() -> None:
    assert CATALOGUE.read_text(encoding="utf-8") == catalogue(), "run: make docs"


def test_names_are_known_without_the_registry() -> None:
    assert tuple(metric.name for metric in METRICS) == METRIC_NAMES
