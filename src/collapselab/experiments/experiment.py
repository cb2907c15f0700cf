"""What an experiment of a paper is: the runs it needs at each scale, what is drawn from them, what is claimed.

An experiment only says what; `collapselab.experiments.runner` does it. Everything drawn and claimed is a function of one
table, the rows, that is stored beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd

from collapselab.choices import Scale
from collapselab.experiments.claims.claim import Claim
from collapselab.training import Recipe, RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from collapselab.data import DataSplits
    from collapselab.report.figures import Chart

SCALES: tuple[Scale, ...] = ("smoke", "cpu", "paper")
Label = str | int | float


@dataclass(frozen=True)
class Job:
    """One training run of a grid.

    Attributes:
        name: of its folder; the same for every seed.
        recipe: what is run; a checkpoint of another job is `../../OTHER/seed-0/checkpoints/…`, see `checkpoint_of`.
        labels: columns of the rows that tell this job from others.
        after: the job whose checkpoint it starts from, which comes before it and is run with it.
    """

    name: str
    recipe: Recipe
    labels: Mapping[str, Label] = field(default_factory=dict)
    after: str | None = None


@runtime_checkable
class Runs(Protocol):
    """The finished runs of an experiment, as its rows and extras read them."""

    @property
    def seeds(self) -> Sequence[int]: ...

    def jobs(self, seed: int) -> Sequence[Job]:
        """In the order in which they were run."""
        ...

    def folder(self, job: str, seed: int) -> RunFolder: ...

    def data(self, recipe: Recipe) -> DataSplits:
        """The samples of a run."""
        ...

    def model(self, job: Job, step: int | None = None) -> nn.Module:
        """The network of a run with the weights of a step, by default the last."""
        ...

    def extra(self, name: str, seed: int) -> list[dict[str, Any]]:
        """Rows that an `Extra` computed."""
        ...


@dataclass(frozen=True)
class Extra:
    """Rows computed from finished runs that cost too much to be computed twice.

    Attributes:
        name: of the file they are kept in.
        compute: rows of plain values, of one seed.
    """

    name: str
    compute: Callable[[Runs, int], list[dict[str, Any]]]


@dataclass(frozen=True)
class Preset:
    """An experiment at one scale.

    Attributes:
        jobs: by seed, in an order in which each finds the checkpoints it starts from.
        seeds: how many, unless the user says so.
        reduced: what is smaller than in the paper, in words; or what the paper leaves open.
    """

    jobs: Callable[[int], Sequence[Job]]
    seeds: int
    reduced: str


@dataclass(frozen=True)
class Experiment:
    """A figure, or a section, of a paper.

    Attributes:
        id: `paper/figure`.
        paper: in full.
        where: figure and section.
        title: what it shows, in a few words.
        question: what is asked, in a sentence or two.
        presets: by scale.
        rows: the table that all figures, charts and claims are functions of.
        figures: by file name, without its ending.
        charts: of the page.
        claims: sentences that the rows hold or fail.
        extras: what is computed from the finished runs before the rows are made.
        also: other ids that mean this one, as of figures drawn from the same runs.
        is_whole: its rows need all of its runs: some of them alone are refused.
    """

    id: str
    paper: str
    where: str
    title: str
    question: str
    presets: Mapping[Scale, Preset]
    rows: Callable[[Runs], pd.DataFrame]
    figures: Mapping[str, Callable[[pd.DataFrame], Figure]]
    charts: Callable[[pd.DataFrame], Sequence[Chart]]
    claims: Sequence[Claim]
    extras: Sequence[Extra] = ()
    also: Sequence[str] = ()
    is_whole: bool = False


def checkpoint_of(job: str, seed: int, step: int) -> str:
    """Where a run finds the weights of another run of the same experiment, from its own folder."""
    return str(Path("..") / ".." / job / f"seed-{seed}" / "checkpoints" / f"step-{step:06d}.safetensors")
