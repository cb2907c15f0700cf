"""Declaration of an experiment: its runs at each scale, its charts and its claims.

`collapselab.experiments.runner` executes it. Charts and verdicts are computed from one table, the rows, which is stored with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from collapselab.choices import Scale
from collapselab.experiments.claims.claim import Claim
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import At
from collapselab.records.experiment import ExtraRow, Label

if TYPE_CHECKING:
    from collapselab.report.chart import Chart


def curve_rows(runs: Grid) -> pd.DataFrame:
    """Return what all runs measured, at every measured step and layer.

    Returns:
        Columns job, the job's labels, seed, ended (why the run ended: `steps`, `loss`, `diverged`), and those of
        `collapselab.records.run_curve`.

    Raises:
        InputError: rows of a run are damaged or missing.
    """
    return pd.concat([run.curve() for run in runs.all()], ignore_index=True)


@dataclass(frozen=True)
class Experiment:
    """A figure, or a section, of a paper.

    Attributes:
        id: `paper/figure`.
        paper: in full.
        where: figure and section.
        title: what it shows, in a few words.
        question: what it asks, in a sentence or two.
        presets: by scale.
        charts: each makes charts from the rows; those with a `figure` are also drawn as PDF and PNG.
        claims: sentences that the rows support or contradict.
        rows: makes the table that all figures, charts and claims are functions of, from finished runs.
        extras: by name of its file, what is computed from the finished runs of a seed before the rows are made, and stored
            because it costs too much to be computed twice.
        before: columns that rows lack which were stored before there was a choice, and their value in these.
        is_whole: whether its rows need all of its runs: `only=` is refused then.
    """

    id: str
    paper: str
    where: str
    title: str
    question: str
    presets: Mapping[Scale, At]
    charts: Sequence[Callable[[pd.DataFrame], Sequence[Chart]]]
    claims: Sequence[Claim]
    rows: Callable[[Grid], pd.DataFrame] = curve_rows
    extras: Mapping[str, Callable[[Grid, int], list[ExtraRow]]] = field(default_factory=dict)
    before: Mapping[str, Label] = field(default_factory=dict)
    is_whole: bool = False
