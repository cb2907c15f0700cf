"""The page of an experiment of a paper: one file over all its runs, every number also as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collapselab.records.judgement import Judgement
from collapselab.report.experiment_data import kept, said_seeds
from collapselab.report.figures import Chart
from collapselab.report.rendering import Page, Section, cells, render
from collapselab.report.wording import cautions, sentences, summary, verdicts_text
from collapselab.storage import replace_text
from collapselab.text import flat

__all__ = ["ExperimentPageData", "render_experiment_page", "verdicts_text", "write_experiment_page"]

# What is undefined here without being measured anywhere else is worth a warning.
_MEASURED = ("train_variance", "strong_test_variance", "accuracy", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class ExperimentPageData:
    """All that the page of an experiment shows.

    Attributes:
        title: what the experiment shows, in a few words.
        paper: in full.
        where: figure and section.
        question: what is asked, in a sentence or two.
        reduced: what is smaller than in the paper, in words.
        scale: of the preset.
        seeds: that were run.
        rows: the table that everything is a function of.
        charts: in order.
        verdicts: as `judge_claims` gives them.
        made: name and value of all that tells how the numbers came to be; values may be nested.
        facts: name and value of further numbers that matter.
        beside: names of the files in its folder that hold the same.
    """

    title: str
    paper: str
    where: str
    question: str
    reduced: str
    scale: str
    seeds: Sequence[int]
    rows: pd.DataFrame
    charts: Sequence[Chart]
    verdicts: Sequence[Judgement]
    made: Sequence[tuple[str, Any]]
    facts: Sequence[tuple[str, str]] = ()
    beside: Sequence[str] = ()


def write_experiment_page(folder: str | Path, data: ExperimentPageData) -> Path:
    """Write `report.html`, one page that needs no network, into a folder that exists or is made.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render_experiment_page(data))
    return path


def render_experiment_page(data: ExperimentPageData) -> str:
    """The page as one HTML text; the same data give the same bytes."""
    return render(
        Page(
            title=data.title,
            summary=_summary(data),
            facts=_facts(data),
            sections=_sections(data),
            verdicts=[words_of(one) for one in data.verdicts],
            numbers_title="All numbers",
            numbers=_numbers(data),
            warnings=_warnings(data.rows),
            warnings_of="of the measurements",
            beside=data.beside,
            made=[pair for name, value in data.made for pair in flat({name: value}, ", ")],
        )
    )


def words_of(one: Judgement) -> dict[str, str]:
    """What the page shows of a judgement."""
    return {
        "statement": one.statement,
        "verdict": one.verdict,
        "words": " ".join(sentences(one)).rstrip("."),
        "paper": one.paper,
        "where": one.where,
    }


# ---------------------------------------------------------------- parts of the page


def _summary(data: ExperimentPageData) -> str:
    said = f" {summary(data.verdicts)}" if data.verdicts else ""
    caution = "".join(f" {one}" for one in cautions(data.verdicts, data.scale))
    return (
        f"{data.question} Measured at scale “{data.scale}” after {data.where} of {data.paper}.{said}{caution}"
    )


def _facts(data: ExperimentPageData) -> list[tuple[str, str]]:
    facts = [("scale", data.scale), ("seeds", str(len(data.seeds)))]
    if "job" in data.rows:
        facts.append(("runs", str(len(data.rows[["job", "seed"]].drop_duplicates()))))
    holds = sum(verdict.verdict == "holds" for verdict in data.verdicts)
    return [*facts, ("claims that hold", f"{holds} of {len(data.verdicts)}"), *data.facts]


def _sections(data: ExperimentPageData) -> list[Section]:
    lines = "Lines" if len(data.seeds) == 1 else "Lines and the ground behind them"
    how = (
        f"{lines}: {said_seeds(data.rows)}; where the axis is logarithmic, means are geometric and 0 has a place of its "
        "own. Undefined values are gaps. The classes' means and spread are those of the last step of each run, so that "
        "a variance at an earlier step also tells how far its features are from where they end."
    )
    reduced = [Section("reduced", "Compared with the paper", [], data.reduced)] if data.reduced else []
    charts = [Section("measured", "What was measured", data.charts, how)] if data.charts else []
    return [*reduced, *charts]


def _numbers(data: ExperimentPageData) -> list[tuple[str, dict[str, Any]]]:
    """Tables of everything; the page says `Every metric on` before each name."""
    rows = data.rows
    last = "is_last" in rows and {"job", "seed", "step"} <= set(rows.columns)
    out: list[tuple[str, dict[str, Any]]] = []
    if last:
        ends = kept(rows, rows["step"] == rows.groupby(["job", "seed"])["step"].transform("max"))
        out.append(("every run at its last step", cells(_plain_table(ends))))
    out.append(("everything that was measured (rows.csv)", cells(_plain_table(rows))))
    return out


def _plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Words for what is neither a number nor text."""
    return table.map(
        lambda value: ("yes" if value else "no") if isinstance(value, bool | np.bool_) else value
    ).astype(object)


def _warnings(rows: pd.DataFrame) -> list[str]:
    """What could not be measured, and in which runs."""
    if "is_last" in rows:
        rows = kept(rows, rows["is_last"].astype(bool))
    out = []
    of = next((name for name in ("job", "construction", "dataset") if name in rows), None)
    for name in _MEASURED:
        if name in rows and bool(rows[name].isna().any()):
            missing = kept(rows, rows[name].isna())
            runs = f" ({', '.join(map(str, dict.fromkeys(missing[of])))})" if of else ""
            out.append(f"{name.replace('_', ' ')} is undefined in {len(missing)} of {len(rows)} rows{runs}")
    return out
