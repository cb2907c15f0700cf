"""The metric catalogue of the documentation is that of the registry."""

from pathlib import Path

from collapselab.metrics.catalogue import catalogue

CATALOGUE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_catalogue_is_up_to_date() -> None:
    assert CATALOGUE.read_text(encoding="utf-8") == catalogue(), "run: make docs"
