"""`collapselab judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def judge(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of an experiment, as collapselab reproduce wrote it."),
    ],
) -> None:
    """Judge the stored rows of an experiment again.

    Nothing is trained. Verdicts, figures and page are written anew from the rows in the folder, with the claims of the
    installed version.

    \b
    Example:
      collapselab judge results/hui2022/fig6
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.cli.outcome import print_outcome
    from collapselab.experiments.runner import judge_again
    from collapselab.papers.registry import find_experiment

    print_outcome(judge_again(folder, find_experiment))
