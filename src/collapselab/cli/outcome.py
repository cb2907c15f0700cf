"""Print the outcome of an experiment to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from collapselab.cli.terminal import print_text

if TYPE_CHECKING:
    from collapselab.records.outcome import Outcome


def print_outcome(outcome: Outcome, notes: Sequence[str] = ()) -> None:
    """Print the verdicts, notes, and the paths of everything that was written."""
    from collapselab.records.wording import verdicts_text

    lines = [
        verdicts_text(outcome.judgements, outcome.record.scale),
        *notes,
        f"Figures: {', '.join(str(path) for path in outcome.figures)}",
        f"Rows: {outcome.folder / 'rows.csv'}",
        f"Page: {outcome.page}",
    ]
    print_text("\n".join(lines) + "\n")
