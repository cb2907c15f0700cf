"""A finished experiment: what its page shows and its command prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from collapselab.records.experiment import ExperimentRecord
from collapselab.records.judgement import Judgement


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished experiment.

    Attributes:
        folder: of everything.
        record: as experiment.json holds it.
        rows: the table that figures, charts and claims are functions of.
        judgements: as verdicts.json holds them.
        was_finished: whether no run was left to do.
        is_verified: whether the rows had a digest; those of earlier versions have none.
        left_out: number of runs that the earlier results had and these have not, where fewer were asked for.
    """

    folder: Path
    record: ExperimentRecord
    rows: pd.DataFrame
    judgements: tuple[Judgement, ...]
    was_finished: bool = True
    is_verified: bool = True
    left_out: int = 0

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    @property
    def figures(self) -> list[Path]:
        """The figures that were drawn, PDF and PNG, by name."""
        return sorted(path for path in self.folder.iterdir() if path.suffix in (".pdf", ".png"))
