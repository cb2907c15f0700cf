"""The paper's figures, drawn from rows: pure functions of an experiment's table."""

from __future__ import annotations

from collapselab.papers.hui2022.figures_curves import (
    figure_1,
    figure_2,
    figure_3,
    figure_6,
    figure_footnote2,
)
from collapselab.papers.hui2022.figures_points import figure_4, figure_5, figure_sec2

__all__ = [
    "figure_1",
    "figure_2",
    "figure_3",
    "figure_4",
    "figure_5",
    "figure_6",
    "figure_footnote2",
    "figure_sec2",
]
