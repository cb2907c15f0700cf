"""Judgements as cards of a page."""

from __future__ import annotations

from collections.abc import Iterable

from collapselab.records.judgement import Judgement
from collapselab.report.pages.rendering import Card
from collapselab.report.wording import sentences


def verdict_cards(judgements: Iterable[Judgement]) -> list[Card]:
    """Make a card of every judgement."""
    return [
        Card(
            one.verdict,
            f"{one.verdict.capitalize()}.",
            one.statement,
            sentences(one),
            f"{one.paper}, {one.where}",
        )
        for one in judgements
    ]
