"""`collapselab judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapselab.cli.paths import check_exists


def judge(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of an experiment, written by collapselab reproduce."),
    ],
) -> None:
    """Judge the claims of an experiment again.

    Applies the criteria of the installed version of collapselab to the measurements stored in the folder. Verdicts,
    figures and page are rewritten. Nothing is trained.

    \b
    Example:
      collapselab judge results/hui2022/fig6
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    check_exists(folder, "folder", "give the folder of a finished experiment")

    from collapselab.cli.outcome import print_outcome
    from collapselab.experiments.runner import judge_again
    from collapselab.registry import find_experiment

    outcome = judge_again(folder, find_experiment)
    unverified = (
        "An earlier version wrote the rows without a digest; later changes of the rows cannot be detected"
    )
    print_outcome(outcome, [] if outcome.is_verified else [unverified])
