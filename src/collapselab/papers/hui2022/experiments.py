"""All experiments of the paper, in its order."""

from __future__ import annotations

from collapselab.experiments.experiment import Experiment
from collapselab.papers.hui2022 import fig2, fig3, fig4, fig5, fig6, footnote2, sec2

EXPERIMENTS: tuple[Experiment, ...] = (
    sec2.EXPERIMENT,
    footnote2.EXPERIMENT,
    fig2.EXPERIMENT,
    fig3.EXPERIMENT,
    fig4.EXPERIMENT,
    fig5.EXPERIMENT,
    fig6.EXPERIMENT,
)
