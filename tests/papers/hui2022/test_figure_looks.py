"""How the paper's figures look: nothing covered or cut off, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from figure_rows import FIGURES, charts, curves, drawing

from collapselab.papers.hui2022 import fig2
from collapselab.papers.hui2022.arms import LITERAL
from collapselab.registry import find_experiment
from collapselab.report.layout import lay_out
from collapselab.report.paper import draw, save_figures
from legible import check_is_legible


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_a_figure_is_legible_and_no_panel_is_empty(name: str, seeds: int) -> None:
    figure = draw(drawing(name, seeds))
    check_is_legible(figure)
    assert all(axes.lines for axes in figure.axes)


def test_figure_2_for_few_cores_is_legible_in_both_arms() -> None:
    """Six settings in two arms: their networks below each other, data sets and arms beside each other."""
    parts = []
    for job in find_experiment("hui2022/fig2").presets["cpu"].jobs(0):
        dataset, model, arm = (str(job.labels[name]) for name in ("dataset", "model", "arm"))
        parts.append(curves(dataset, model, floor=0.6 if arm == LITERAL else 1e-3, arm=arm))
    one = lay_out(charts(fig2.EXPERIMENT, pd.concat(parts, ignore_index=True))["fig2"])
    assert one.grid == (3, 4)
    check_is_legible(draw(one))


def test_no_two_entries_of_a_legend_look_the_same() -> None:
    for name in FIGURES:
        looks = [(entry.look, entry.line, entry.hollow) for entry in drawing(name).legend]
        assert len(set(looks)) == len(looks), name


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    experiment, rows = FIGURES["fig6"]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_figures(charts(experiment, rows(3)).values(), tmp_path / folder)
    for ending in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"fig6.{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fig6.pdf", "fig6.png"]


def test_a_page_of_panels_stays_small(tmp_path: Path) -> None:
    save_figures([drawing("fig2").chart], tmp_path)
    assert 30_000 < (tmp_path / "fig2.png").stat().st_size < 400_000
