"""Tables of a ranking for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapselab.errors import printable, without_middle
from collapselab.tables import WIDTHS, empty_table, printed, warning_lines
from collapselab.text import MISSING, counted, number, percent

if TYPE_CHECKING:
    from rich.table import Table

    from collapselab.ranking import Ranking

_NAME_WIDTH = 44


def ranking_table(ranking: Ranking, *, width: int | None = None, colour: bool = False) -> str:
    """Format the models of each data set by rank, then the scores and how far they can be trusted, then the warnings.

    Args:
        ranking: what was ranked.
        width: columns of the terminal; None without one.
        colour: whether to use terminal codes.
    """
    width = WIDTHS[1] if width is None else min(max(width, WIDTHS[0]), WIDTHS[1])
    parts: list[Any] = []
    for dataset in ranking.datasets:
        first = ranking.of(dataset)[0]
        parts += [
            f"{dataset}: {counted(first.num_samples, 'sample')}, {first.num_classes} classes",
            _models(ranking, dataset),
            "",
        ]
    if len(ranking.datasets) > 1:
        parts += ["Over all data sets", *_overall(ranking), ""]
    parts += ["Scores", _scores(ranking), *_key(ranking), "", *ranking.advice]
    measured = {row.model: row.accuracy for row in ranking.rows if row.accuracy is not None}
    if measured and len(ranking.datasets) == 1:
        best = max(measured, key=lambda model: measured[model])
        parts.append(f"Best by measured accuracy: {best}")
    parts.append(f"Best by {ranking.by}: {ranking.best}")
    return printed([*parts, *warning_lines(ranking.warnings, width)], width, colour)


def _models(ranking: Ranking, dataset: str) -> Table:
    table = empty_table()
    headings = ["dim", ranking.by, *(["accuracy"] if ranking.is_measured else [])]
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in ranking.of(dataset):
        cells = [str(row.dim), number(row.scores.get(ranking.by), 4, MISSING)]
        cells += [percent(row.accuracy, MISSING)] if ranking.is_measured else []
        table.add_row(str(row.rank), _name(row.model), *cells)
    return table


def _overall(ranking: Ranking) -> Iterator[str]:
    for place, model in enumerate(ranking.order, start=1):
        odds = ranking.mean_log_odds.get(model)
        beside = "" if odds is None else f"   mean log odds {number(odds)}"
        yield f"{place:>4}  {_name(model)}{beside}"


def _scores(ranking: Ranking) -> Table:
    table = empty_table()
    table.add_column("score", no_wrap=True)
    measured = ("correlation", "regret") if ranking.is_measured else ()
    for heading in ("better", "stability", *measured, "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("caveat", overflow="fold")
    for name, trust in ranking.scores.items():
        shown = [number(trust.correlation, 2, MISSING), percent(trust.regret, MISSING)] if measured else []
        table.add_row(
            name,
            MISSING if trust.direction == "neither" else trust.direction,
            number(trust.stability, 2, MISSING),
            *shown,
            f"{trust.seconds:.2g}",
            trust.caveat,
        )
    return table


def _key(ranking: Ranking) -> Iterator[str]:
    yield "stability    rank correlation over models between two halves of the samples"
    if ranking.is_measured:
        yield "correlation  rank correlation with the accuracy of a linear probe; 1: the same order"
        yield "regret       accuracy lost by taking the model that the score prefers"


def _name(model: str) -> str:
    return without_middle(printable(model), _NAME_WIDTH)
