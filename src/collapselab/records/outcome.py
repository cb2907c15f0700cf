"""A finished experiment: what its page shows and its command prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from collapselab.frames import last_layer, rows_that
from collapselab.records.experiment import ExperimentRecord
from collapselab.records.judgement import Judgement
from collapselab.text import listed, words

# Columns whose undefined values are reported as warnings.
_MEASURED = (
    "train_variance_final",
    "strong_test_variance_final",
    "accuracy",
    "train_accuracy",
    "test_accuracy",
)


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
    def warnings(self) -> list[str]:
        """Warnings about undefined values, with the runs in which they occur."""
        rows = last_layer(self.rows)
        by = next((name for name in ("job", "construction", "dataset") if name in rows), None)
        out = []
        for name in _MEASURED:
            missing = rows_that(rows, rows[name].isna()) if name in rows else rows.head(0)
            if len(missing):
                runs = f" ({listed(sorted(set(map(str, missing[by]))), 6)})" if by else ""
                out.append(f"{words(name)} is undefined in {len(missing)} of {len(rows)} rows{runs}")
        return out

    @property
    def figures(self) -> list[Path]:
        """The figures that were drawn, PDF and PNG, by name."""
        return sorted(path for path in self.folder.iterdir() if path.suffix in (".pdf", ".png"))
