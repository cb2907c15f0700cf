"""Judgements as cards of a page."""

from __future__ import annotations

from collections.abc import Iterable

from collapselab.records.judgement import Judgement, SettingJudgement
from collapselab.report.pages.rendering import Card
from collapselab.text import number


def verdict_cards(judgements: Iterable[Judgement]) -> list[Card]:
    """Make a card of every judgement."""
    return [
        Card(
            one.verdict,
            f"{one.verdict.capitalize()}.",
            one.statement,
            _measured(one),
            f"{one.paper}, {one.where}",
        )
        for one in judgements
    ]


def _measured(judgement: SettingJudgement) -> str:
    parts = []
    for reading in judgement.readings:
        seeds = ", ".join(map(str, reading.by_seed))
        parts.append(
            f"{reading.what}: {', '.join(number(value) for value in reading.by_seed.values())} (seeds {seeds}); must {reading.must}"
        )
    return ". ".join([*parts, *judgement.notes])
