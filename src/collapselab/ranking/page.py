"""The page and the JSON file of a ranking."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from collapselab.errors import InputError, encodable, in_strings
from collapselab.frames import rows_where
from collapselab.ranking.results import RankedModel, Ranking
from collapselab.report.chart import TEST, TRAIN, Axis, Chart, Look, Panel, Series
from collapselab.report.pages.rendering import Page, Section, write_page
from collapselab.storage import WriteError, provenance, replace_text
from collapselab.text import counted, flat, listed, number, percent, words

FILES = ("ranking.json", "report.html")
_MOST_NAMES = 40  # of a panel: more cannot be read


def write_ranking(folder: Path, ranking: Ranking) -> list[str]:
    """Write `ranking.json` and `report.html` into a folder that exists; return lines that say where.

    Raises:
        InputError: they cannot be written.
    """
    made = provenance()
    values = in_strings(encodable, {**made, **ranking.to_dict()})
    try:
        replace_text(folder / FILES[0], json.dumps(values, indent=2, allow_nan=False) + "\n")
        facts = [(words(path), str(value)) for path, value in flat(made) if value is not None]
        write_page(folder / FILES[1], ranking_page(ranking, facts))
    except WriteError as error:
        raise InputError(f"out={error}") from error
    return [f"Page: {folder / FILES[1]}", f"Numbers: {folder / FILES[0]}"]


def ranking_page(ranking: Ranking, made: Sequence[tuple[str, str]] = ()) -> Page:
    """Return the content of the page of a ranking.

    Args:
        ranking: what was ranked.
        made: how the numbers were computed.
    """
    return Page(
        f"Which checkpoint to take for {listed(ranking.datasets)}",
        " ".join([_summary(ranking), *ranking.advice]),
        facts=_facts(ranking),
        sections=[
            Section("models", "Models", [_models(ranking)]),
            Section("scores", "Scores", [_scores(ranking)]),
        ],
        numbers=[
            *((f"Every score on {name}", _numbers(ranking, name)) for name in ranking.datasets),
            ("How far scores can be trusted", ranking.trust_frame()),
        ],
        warnings=ranking.warnings,
        made=list(made),
        beside=FILES[:1],
    )


def _summary(ranking: Ranking) -> str:
    predicted = f"{ranking.by} predicts that {ranking.best} transfers best among {counted(len(ranking.order), 'model')}."
    if not ranking.is_measured:
        return f"{predicted} Transfer was not measured."
    best = [max(_measured(ranking, name), key=lambda row: row.accuracy or 0.0) for name in ranking.datasets]
    found = listed(f"{row.model} ({percent(row.accuracy)} on {row.dataset})" for row in best)
    return f"{predicted} Best by a linear probe: {found}."


def _facts(ranking: Ranking) -> list[tuple[str, str]]:
    trust = ranking.scores[ranking.by]
    sizes = listed(f"{ranking.of(name)[0].num_samples:,}" for name in ranking.datasets)
    facts = [(f"best by {ranking.by}", ranking.best), ("models", str(len(ranking.order))), ("samples", sizes)]
    if trust.stability is not None:
        facts.append((f"stability of {ranking.by} over two halves", number(trust.stability, 2)))
    if trust.correlation is not None:
        facts.append((f"rank correlation of {ranking.by} with accuracy", number(trust.correlation, 2)))
    return facts


def _numbers(ranking: Ranking, dataset: str) -> pd.DataFrame:
    shown = rows_where(ranking.to_frame(), dataset=dataset).drop(columns="dataset")
    return shown.reindex(columns=["model", *(name for name in shown.columns if name != "model")])


def _measured(ranking: Ranking, dataset: str) -> list[RankedModel]:
    return [row for row in ranking.of(dataset) if row.accuracy is not None]


def _models(ranking: Ranking) -> Chart:
    """Chart predicted against measured transfer, or the leading score alone."""
    panels = []
    for column, dataset in enumerate(ranking.datasets):
        rows = ranking.of(dataset)
        panel = _scatter(ranking, dataset, column) if ranking.is_measured else _dots(ranking.by, rows, column)
        panels.append(panel)
    if ranking.is_measured:
        text = f"Every point is a model: {ranking.by} against the test accuracy of a linear probe."
        title = f"Transfer predicted by {ranking.by}, and measured"
    else:
        text = f"Value of {ranking.by} ({ranking.scores[ranking.by].direction} predicts better transfer), best model first."
        title = f"Transfer predicted by {ranking.by}"
    return Chart("models-by-score", title, text, tuple(panels), share_x=False, share_y=False)


def _scatter(ranking: Ranking, dataset: str, column: int) -> Panel:
    rows = _measured(ranking, dataset)
    points = pd.DataFrame(
        {
            "x": [_value(row.scores.get(ranking.by)) for row in rows],
            "y": [_value(row.accuracy) for row in rows],
            "point": [row.model for row in rows],
        }
    )
    series = Series("model", points, Look(TEST), "dots")
    accuracy = Axis("test accuracy of a linear probe", "tight", percent=True)
    return Panel(dataset, Axis(ranking.by, "tight"), accuracy, (series,), place=(0, column))


def _dots(name: str, rows: Sequence[RankedModel], column: int) -> Panel:
    shown = rows[:_MOST_NAMES]
    values = [_value(row.scores.get(name)) for row in shown]
    return _named_dots(rows[0].dataset, name, [row.model for row in shown], values, column)


def _named_dots(
    title: str, quantity: str, names: Sequence[str], values: Sequence[float], column: int
) -> Panel:
    points = pd.DataFrame({"x": range(len(names)), "y": values})
    series = Series(quantity, points, Look((TRAIN, TEST)[column % 2]), "dots")
    return Panel(
        title,
        Axis(names=tuple(names), reverse=True),
        Axis(quantity, "tight"),
        (series,),
        place=(0, column),
        sideways=True,
    )


def _scores(ranking: Ranking) -> Chart:
    """Chart how well every score agrees with measured accuracies, and with itself on two halves of the samples."""
    kinds = {"stability": "stability over two halves", "correlation": "rank correlation with accuracy"}
    panels = []
    for kind, quantity in kinds.items():
        known = {
            name: value
            for name, trust in ranking.scores.items()
            if (value := getattr(trust, kind)) is not None
        }
        if known:
            values = [float(value) for value in known.values()]
            panels.append(_named_dots(quantity, quantity, list(known), values, len(panels)))
    text = (
        "Rank correlations over models, above 0 where a score predicts better transfer; 1 is the same order."
        if panels
        else "Fewer than three models: there are no rank correlations."
    )
    return Chart("trust", "Which score to trust", text, tuple(panels), share_x=False, share_y=False)


def _value(value: int | float | None) -> float:
    return math.nan if value is None else float(value)
